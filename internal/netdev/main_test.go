package netdev

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/testnet"
)

// Foreign hands and second opinions are vishvananda/netlink's: another reading of the same kernel.

func TestMain(m *testing.M) { testnet.Main(m) }

// open returns the kernel state of a namespace.
func open(t testing.TB, ns *testnet.NS) *Kernel {
	t.Helper()
	var k *Kernel
	ns.Do(func() {
		var err error
		if k, err = Open(slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, addr(s))
	}
	return out
}

// aPod is a pod with an address in both families.
func aPod(id string) cluster.LocalPod {
	return cluster.LocalPod{
		Network: "polder", ContainerID: id, Ifname: "eth0", Namespace: "default", Name: "web-" + id, MTU: 1450,
		Addresses: addrs("10.1.0.7", "fd00:1::7"),
	}
}

// attach gives a namespace a pod's link that is up and has its rows.
func attach(t testing.TB, k *Kernel, p cluster.LocalPod, pod *testnet.NS) cluster.LocalPod {
	t.Helper()
	p, err := k.CreatePod(p, pod.File())
	if err != nil {
		t.Fatal(err)
	}
	if err := k.ActivatePod(p, pod.File(), nil); err != nil {
		t.Fatal(err)
	}
	if err := k.PutPod(rowsOf(p)); err != nil {
		t.Fatal(err)
	}
	p.Up = true
	return p
}

// in runs fn in a namespace and fails on its error.
func in(t testing.TB, ns *testnet.NS, fn func() error) {
	t.Helper()
	ns.Do(func() {
		t.Helper()
		if err := fn(); err != nil {
			t.Fatal(err)
		}
	})
}

// device adds an Ethernet device with addresses, up, whose far end nobody answers on, and returns its index.
func device(t testing.TB, ns *testnet.NS, name string, prefixes ...string) int {
	t.Helper()
	testnet.Pair(t, ns, name, testnet.New(t), "far0")
	for _, p := range prefixes {
		ns.Addr(name, p)
	}
	return linkOf(t, ns, name).Attrs().Index
}

// linkNames lists the links of a namespace, without loopback.
func linkNames(t testing.TB, ns *testnet.NS) []string {
	t.Helper()
	var names []string
	in(t, ns, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if name := l.Attrs().Name; name != "lo" {
				names = append(names, name)
			}
		}
		return err
	})
	slices.Sort(names)
	return names
}

func linkOf(t testing.TB, ns *testnet.NS, name string) netlink.Link {
	t.Helper()
	var l netlink.Link
	in(t, ns, func() (err error) {
		l, err = netlink.LinkByName(name)
		return err
	})
	return l
}

// want fails unless a list of changes is the expected one, in any order.
func wantChanges(t testing.TB, changes []Change, err error, want ...string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		got = append(got, fmt.Sprint(c))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("changes are %q, want %q", got, want)
	}
}

// wantError fails unless an error is the expected one.
func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}
