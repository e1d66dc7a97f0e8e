package netdev

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/testnet"
)

func TestACheckNamesWhatSomeoneChanged(t *testing.T) {
	delRoutes := func(family int) func(t *testing.T, host, pod *testnet.NS, p cluster.LocalPod) error {
		return func(t *testing.T, host, pod *testnet.NS, p cluster.LocalPod) (err error) {
			in(t, pod, func() error {
				routes, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL)
				for _, r := range routes {
					if err := netlink.RouteDel(&r); err != nil {
						return err
					}
				}
				return err
			})
			return nil
		}
	}
	podEnd := func(do func(l netlink.Link) error) func(t *testing.T, host, pod *testnet.NS, p cluster.LocalPod) error {
		return func(t *testing.T, host, pod *testnet.NS, p cluster.LocalPod) error {
			in(t, pod, func() error { return do(linkOf(t, pod, "eth0")) })
			return nil
		}
	}
	hostEnd := func(do func(l netlink.Link) error) func(t *testing.T, host, pod *testnet.NS, p cluster.LocalPod) error {
		return func(t *testing.T, host, pod *testnet.NS, p cluster.LocalPod) error {
			in(t, host, func() error { return do(linkOf(t, host, p.Link)) })
			return nil
		}
	}
	delAddr := func(prefix string) func(l netlink.Link) error {
		return func(l netlink.Link) error {
			a, err := netlink.ParseAddr(prefix)
			if err != nil {
				return err
			}
			return netlink.AddrDel(l, a)
		}
	}
	delNeighbour := func(ip string) func(l netlink.Link) error {
		return func(l netlink.Link) error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(ip)})
		}
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for name, c := range map[string]struct {
		hand func(t *testing.T, host, pod *testnet.NS, p cluster.LocalPod) error
		says string
	}{
		"the pod's IPv4 address":        {podEnd(delAddr("10.1.0.7/32")), "10.1.0.7/32"},
		"the pod's IPv6 address":        {podEnd(delAddr("fd00:1::7/128")), "fd00:1::7/128"},
		"the pod's IPv4 routes":         {delRoutes(netlink.FAMILY_V4), "default route"},
		"the pod's IPv6 routes":         {delRoutes(netlink.FAMILY_V6), "default route"},
		"the pod's IPv4 neighbour":      {podEnd(delNeighbour("169.254.1.1")), "169.254.1.1"},
		"the pod's IPv6 neighbour":      {podEnd(delNeighbour("fe80::1")), "fe80::1"},
		"the pod's MTU":                 {podEnd(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1400) }), "1400"},
		"the pod's MAC address":         {podEnd(func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, mac) }), "020000000001"},
		"the pod's interface, down":     {podEnd(netlink.LinkSetDown), "down"},
		"the pod's interface, deleted":  {podEnd(netlink.LinkDel), "no such link"},
		"the pod's interface, renamed":  {podEnd(func(l netlink.Link) error { return rename(l, "eth1") }), "no such link"},
		"the host's MTU":                {hostEnd(func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1400) }), "1400"},
		"the host's MAC address":        {hostEnd(func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, mac) }), "020000000001"},
		"the host's link, down":         {hostEnd(netlink.LinkSetDown), "down"},
		"the host's link-local address": {hostEnd(delAddr("fe80::1/64")), "fe80::1/64"},
		"the host's record":             {hostEnd(func(l netlink.Link) error { return netlink.LinkSetAlias(l, "x") }), "record"},
		"the host's record, another pod": {hostEnd(func(l netlink.Link) error {
			return netlink.LinkSetAlias(l, "polder1 polder c9 eth0 10.1.0.7,fd00:1::7")
		}), "c9"},
	} {
		t.Run(name, func(t *testing.T) {
			host, pod := testnet.New(t), testnet.New(t)
			k := open(t, host)
			p := attach(t, k, aPod("c1"), pod)
			if err := k.CheckPod(p, pod.File()); err != nil {
				t.Fatal(err)
			}
			if err := c.hand(t, host, pod, p); err != nil {
				t.Fatal(err)
			}
			err := k.CheckPod(p, pod.File())
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v, want one that says %q", err, c.says)
			}
		})
	}
}

func rename(l netlink.Link, name string) error {
	if err := netlink.LinkSetDown(l); err != nil {
		return err
	}
	return netlink.LinkSetName(l, name)
}

func TestAnotherInterfaceInThePlaceOfThePodsFailsTheCheck(t *testing.T) {
	host, pod, other := testnet.New(t), testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := attach(t, k, aPod("c1"), pod)
	in(t, pod, func() error { return rename(linkOf(t, pod, "eth0"), "old0") })
	device(t, other, "spare0")
	testnet.Pair(t, pod, "eth0", other, "far1")
	in(t, pod, func() error {
		l := linkOf(t, pod, "eth0")
		if err := netlink.LinkSetMTU(l, p.MTU); err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, p.PodMAC[:])
	})
	if err := k.CheckPod(p, pod.File()); err == nil || !strings.Contains(err.Error(), "far end") {
		t.Errorf("error is %v", err)
	}
}

func TestACheckOfAFileThatIsNoNamespaceIsAnError(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := attach(t, k, aPod("c1"), pod)
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	wantError(t, k.CheckPod(p, f), unix.EINVAL)
}
