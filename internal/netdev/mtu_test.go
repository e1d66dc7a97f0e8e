package netdev

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/testnet"
)

// occupy runs a process in a namespace, by which it can be found, until the test ends.
func occupy(t *testing.T, ns *testnet.NS) {
	t.Helper()
	in(t, ns, func() error {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil { // inherits the thread's namespace
			return err
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		return nil
	})
}

func TestAnMTUIsSetOnBothEndsUpAndDown(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := attach(t, k, aPod("c1"), pod)
	occupy(t, pod)
	for _, mtu := range []int{1400, 8951, 8951, 1280} {
		if err := k.SetPodMTU(p, mtu); err != nil {
			t.Fatal(err)
		}
		if near, far := linkOf(t, host, p.Link).Attrs().MTU, linkOf(t, pod, "eth0").Attrs().MTU; near != mtu || far != mtu {
			t.Errorf("MTUs are %d and %d, want %d", near, far, mtu)
		}
	}
}

func TestAnMTUThatGrowsToWhatIPv6NeedsBringsNoIPv6(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := aPod("c1")
	p.MTU, p.Addresses = 1000, addrs("10.1.0.7")
	p = attach(t, k, p, pod)
	occupy(t, pod)
	if err := k.SetPodMTU(p, 1400); err != nil {
		t.Fatal(err)
	}
	for ns, name := range map[*testnet.NS]string{host: p.Link, pod: "eth0"} {
		in(t, ns, func() error {
			held, err := netlink.AddrList(linkOf(t, ns, name), netlink.FAMILY_V6)
			if off, _ := readSysctl("net/ipv6/conf/" + name + "/disable_ipv6"); len(held) > 0 || off != "1" {
				t.Errorf("%s has %v, disable_ipv6 is %q", name, held, off)
			}
			return err
		})
	}
}

func TestAnMTUThatIPv6CannotHaveChangesNothing(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := attach(t, k, aPod("c1"), pod)
	occupy(t, pod)
	wantError(t, k.SetPodMTU(p, 1279), unix.EINVAL)
	if err := k.CheckPod(p, pod.File()); err != nil {
		t.Error(err)
	}
}

func TestAPodWhoseNamespaceCannotBeFoundIsAnError(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := attach(t, k, aPod("c1"), pod) // held by a descriptor alone
	for _, mtu := range []int{1400, 1500} {
		if err := k.SetPodMTU(p, mtu); err == nil || !strings.Contains(err.Error(), "network namespace") {
			t.Errorf("error is %v", err)
		}
	}
	if err := k.CheckPod(p, pod.File()); err != nil {
		t.Errorf("something changed: %v", err)
	}
}

func TestNamespacesOfPodsAreFoundWithoutAnyRecord(t *testing.T) {
	host, one, two, stranger := testnet.New(t), testnet.New(t), testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := attach(t, k, aPod("c1"), one)
	testnet.Pair(t, host, "cali0", two, "eth5")
	two.Addr("eth5", "10.9.0.1/32")
	device(t, stranger, "eth0")
	for _, ns := range []*testnet.NS{one, two, stranger, host} {
		occupy(t, ns)
	}
	found, err := k.PodNamespaces()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		defer f.Netns.Close()
		var st, want unix.Stat_t
		for _, ns := range []*testnet.NS{one, two} {
			if err := unix.Fstat(int(ns.File().Fd()), &want); err != nil {
				t.Fatal(err)
			}
			if err := unix.Fstat(int(f.Netns.Fd()), &st); err != nil {
				t.Fatal(err)
			}
			if st.Ino == want.Ino {
				got = append(got, f.Link+" "+f.Ifname)
			}
		}
		switch f.Link {
		case p.Link:
			if len(f.Addresses) != 2 || f.Addresses[0].Addr() != p.Addresses[0] || f.MTU != p.MTU {
				t.Errorf("found %+v", f)
			}
		case "cali0":
			if len(f.Addresses) != 1 || f.Addresses[0] != prefix("10.9.0.1/32") || f.MTU != 1500 {
				t.Errorf("found %+v", f)
			}
		}
	}
	slices.Sort(got)
	if want := []string{"cali0 eth5", p.Link + " eth0"}; !slices.Equal(got, want) || len(found) != 2 {
		t.Errorf("found %q of %d, want %q", got, len(found), want)
	}
}
