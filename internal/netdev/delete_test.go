package netdev

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/testnet"
)

// eventually waits for what the kernel does in the background.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("still not so: " + what)
		}
	}
}

func TestADeletedLinkIsGoneFromBothEndsWhenDeletePodReturns(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	for range 5 {
		p := attach(t, k, aPod("c1"), pod)
		if err := k.DeletePod(p.Link); err != nil {
			t.Fatal(err)
		}
		if names := append(linkNames(t, host), linkNames(t, pod)...); len(names) > 0 {
			t.Fatalf("links left behind: %v", names)
		}
	}
}

func TestDeletingTwiceIsFine(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := attach(t, k, aPod("c1"), pod)
	for range 2 {
		if err := k.DeletePod(p.Link); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOnlyLinksOfPodsAreDeleted(t *testing.T) {
	host := testnet.New(t)
	k := open(t, host)
	device(t, host, "eth0")
	wantError(t, k.DeletePod("eth0"), ErrForeign)
	linkOf(t, host, "eth0")
}

func TestManyDeletionsAtOnceAllSucceed(t *testing.T) {
	const n = 40
	host := testnet.New(t)
	k := open(t, host)
	var names []string
	for i := range n {
		p := aPod(fmt.Sprint(i))
		p.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})}
		names = append(names, attach(t, k, p, testnet.New(t)).Link)
	}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = k.DeletePod(name) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if left := linkNames(t, host); len(left) > 0 {
		t.Errorf("links left behind: %v", left)
	}
}
