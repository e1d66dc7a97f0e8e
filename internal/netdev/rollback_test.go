package netdev

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/testnet"
)

// steps are those of CreatePod.
func steps() []string { return []string{"created", "recorded", "host furnished", "pod furnished"} }

func TestAnAdditionThatFailsAtAnyStepLeavesNothing(t *testing.T) {
	boom := errors.New("boom")
	for _, at := range steps() {
		t.Run(at, func(t *testing.T) {
			host, pod := testnet.New(t), testnet.New(t)
			k := open(t, host)
			k.step = func(name string) error {
				if name == at {
					return boom
				}
				return nil
			}
			_, err := k.CreatePod(aPod("c1"), pod.File())
			wantError(t, err, boom)
			if names := append(linkNames(t, host), linkNames(t, pod)...); len(names) > 0 {
				t.Errorf("links left behind: %v", names)
			}
			k.step = nil
			attach(t, k, aPod("c1"), pod)
		})
	}
}

func TestAnInterfaceThatVanishesAtAnyStepIsAnErrorAndLeavesNothing(t *testing.T) {
	for _, at := range steps()[:3] {
		t.Run(at, func(t *testing.T) {
			host, pod := testnet.New(t), testnet.New(t)
			k := open(t, host)
			k.step = func(name string) error {
				if name == at {
					in(t, pod, func() error { return netlink.LinkDel(linkOf(t, pod, "eth0")) })
				}
				return nil
			}
			if _, err := k.CreatePod(aPod("c1"), pod.File()); err == nil {
				t.Error("no error")
			}
			if names := append(linkNames(t, host), linkNames(t, pod)...); len(names) > 0 {
				t.Errorf("links left behind: %v", names)
			}
		})
	}
}

// The runtime's end of the namespace goes away in the middle: what the agent holds keeps it alive until the call
// returns, and then it goes, with all that was made.
func TestANamespaceThatGoesAwayTakesTheLinkAlong(t *testing.T) {
	for _, at := range steps() {
		t.Run(at, func(t *testing.T) {
			host, pod := testnet.New(t), testnet.New(t)
			k := open(t, host)
			held, err := os.Open(pod.Path())
			if err != nil {
				t.Fatal(err)
			}
			k.step = func(name string) error {
				if name == at {
					pod.Close()
				}
				return nil
			}
			p, err := k.CreatePod(aPod("c1"), held)
			if err != nil {
				t.Fatal(err)
			}
			held.Close()
			eventually(t, "the link is gone", func() bool { return !slices.Contains(linkNames(t, host), p.Link) })
			if err := k.DeletePod(p.Link); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAKillAfterAnyStepIsSeenAtTheNextStart(t *testing.T) {
	for _, at := range steps() {
		t.Run(at, func(t *testing.T) {
			host, pod := testnet.New(t), testnet.New(t)
			k := open(t, host)
			// A killed agent is a list of what it had written: look from a second Kernel while the first stands still.
			k.step = func(name string) error {
				if name != at {
					return nil
				}
				pods, unfinished, err := open(t, host).Pods()
				if err != nil {
					t.Error(err)
				}
				if recorded := at != "created"; recorded != (len(pods) == 1) || recorded == (len(unfinished) == 1) {
					t.Errorf("pods %+v, unfinished %q", pods, unfinished)
				}
				return nil
			}
			if _, err := k.CreatePod(aPod("c1"), pod.File()); err != nil {
				t.Fatal(err)
			}
		})
	}
}
