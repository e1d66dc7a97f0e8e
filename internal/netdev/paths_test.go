package netdev

import (
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/testnet"
)

func addRoute(t *testing.T, ns *testnet.NS, r *netlink.Route) {
	t.Helper()
	in(t, ns, func() error { return netlink.RouteAdd(r) })
}

func TestPathsSayHowThePeersAreReached(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	up0 := cluster.Link{Name: "up0", Index: device(t, ns, "up0", "192.168.7.1/24", "fd00:7::1/64"), MTU: 1500, AcceptsRA: true}
	up1 := cluster.Link{Name: "up1", Index: device(t, ns, "up1", "192.168.8.1/24"), MTU: 1400, AcceptsRA: true}
	in(t, ns, func() error { return netlink.LinkSetMTU(linkOf(t, ns, "up1"), 1400) })
	addRoute(t, ns, &netlink.Route{Dst: ipNet("172.16.0.0/16"), Gw: net.ParseIP("192.168.7.254")})
	addRoute(t, ns, &netlink.Route{Dst: ipNet("172.17.0.0/16"), Gw: net.ParseIP("192.168.7.254"), MTU: 1380})
	addRoute(t, ns, &netlink.Route{Dst: ipNet("fd55::/64"), Gw: net.ParseIP("fd00:7::fe"), MTU: 1300})
	addRoute(t, ns, &netlink.Route{Dst: ipNet("172.18.0.0/16"), MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: up0.Index, Gw: net.ParseIP("192.168.7.254")}, {LinkIndex: up1.Index, Gw: net.ParseIP("192.168.8.254")}}})
	addRoute(t, ns, &netlink.Route{Dst: ipNet("172.19.0.0/16"), Type: unix.RTN_BLACKHOLE})
	addRoute(t, ns, &netlink.Route{Dst: ipNet("172.20.0.0/16"), Type: unix.RTN_PROHIBIT})
	addRoute(t, ns, &netlink.Route{Dst: ipNet("172.21.0.0/16"), Type: unix.RTN_UNREACHABLE})
	addRoute(t, ns, &netlink.Route{Dst: ipNet("fd56::/64"), Type: unix.RTN_UNREACHABLE, LinkIndex: 1})
	want := map[netip.Addr]cluster.Path{
		addr("192.168.7.2"): {Link: up0, OnLink: true, MTU: 1500},
		addr("fd00:7::2"):   {Link: up0, OnLink: true, MTU: 1500},
		addr("192.168.8.2"): {Link: up1, OnLink: true, MTU: 1400},
		addr("172.16.1.1"):  {Link: up0, MTU: 1500},
		addr("172.17.1.1"):  {Link: up0, MTU: 1380},
		addr("fd55::1"):     {Link: up0, MTU: 1300},
		addr("172.18.1.1"):  {Link: up0, MTU: 1400}, // the least of both
	}
	peers := addrs("192.168.7.1", "fd00:7::1", "172.19.0.1", "172.20.0.1", "172.21.0.1", "fd56::1", "8.8.8.8", "fd99::1", "127.0.0.1", "::1")
	for a := range want {
		peers = append(peers, a)
	}
	got, err := k.Paths(peers)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("paths are\n%+v\nwant\n%+v", got, want)
	}
}

func TestManyPeersAreAskedForInManyBatches(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	device(t, ns, "up0", "10.0.0.1/8")
	var peers []netip.Addr
	for i := range 1000 {
		peers = append(peers, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	paths, err := k.Paths(peers)
	if err != nil || len(paths) != len(peers) {
		t.Errorf("%d paths, %v", len(paths), err)
	}
}

func TestUplinksHoldOwnAddressesOrDefaultRoutesOrLeadToPeers(t *testing.T) {
	ns, pod := testnet.New(t), testnet.New(t)
	k := open(t, ns)
	device(t, ns, "own0", "192.168.7.1/24")
	device(t, ns, "own6", "fd00:7::1/64")
	device(t, ns, "def4", "192.168.8.1/24")
	device(t, ns, "def6", "fd00:8::1/64")
	device(t, ns, "peer0", "192.168.9.1/24")
	device(t, ns, "other0", "192.168.10.1/24")
	many := device(t, ns, "many0", "192.168.11.1/24")
	addRoute(t, ns, &netlink.Route{Dst: ipNet("0.0.0.0/0"), Gw: net.ParseIP("192.168.8.254")})
	addRoute(t, ns, &netlink.Route{Dst: ipNet("0.0.0.0/0"), Priority: 5, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: many, Gw: net.ParseIP("192.168.11.2")}, {LinkIndex: many, Gw: net.ParseIP("192.168.11.3")}}})
	addRoute(t, ns, &netlink.Route{Dst: ipNet("::/0"), Gw: net.ParseIP("fd00:8::fe")})
	p := attach(t, k, aPod("c1"), pod)
	if _, err := k.SyncTunnel(aTunnel()); err != nil {
		t.Fatal(err)
	}
	addRoute(t, ns, &netlink.Route{Dst: ipNet("172.31.0.0/16"), LinkIndex: linkOf(t, ns, route.TunnelName).Attrs().Index, Scope: netlink.SCOPE_LINK})
	in(t, ns, func() error { return writeSysctl("net/ipv6/conf/own0/accept_ra", "0") })

	own := addrs("192.168.7.1", "fd00:7::1", "127.0.0.1")
	peers := append(addrs("192.168.9.2", "192.168.7.1", "172.31.0.1"), p.Addresses...)
	got, others, err := k.Uplinks(own, peers)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range got {
		names = append(names, l.Name)
		if l.Index != linkOf(t, ns, l.Name).Attrs().Index || l.MTU != 1500 || l.AcceptsRA != (l.Name != "own0") {
			t.Errorf("uplink is %+v", l)
		}
	}
	if len(others) != 1 || others[0].Name != "other0" {
		t.Errorf("the others are %+v", others)
	}
	if want := []string{"def4", "def6", "many0", "own0", "own6", "peer0"}; !slices.Equal(names, want) {
		t.Errorf("uplinks are %v, want %v", names, want)
	}
}

func TestAForeignUseOfAnAddressIsFound(t *testing.T) {
	ns, pod := testnet.New(t), testnet.New(t)
	k := open(t, ns)
	device(t, ns, "up0", "192.168.7.1/24", "fd00:7::1/64")
	stale := device(t, ns, "cali0")
	bridge := device(t, ns, "cni0", "10.1.0.1/24", "fd00:1::1/64")
	attach(t, k, aPod("c1"), pod)
	for _, dst := range []string{"10.1.0.50/32", "fd00:1::50/128"} {
		addRoute(t, ns, &netlink.Route{Dst: ipNet(dst), LinkIndex: stale, Scope: netlink.SCOPE_LINK})
	}
	for _, ip := range []string{"10.1.0.60", "fd00:1::60"} {
		in(t, ns, func() error {
			return netlink.NeighAdd(&netlink.Neigh{LinkIndex: bridge, IP: net.ParseIP(ip), State: netlink.NUD_STALE, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}})
		})
	}
	for _, c := range []struct{ addr, says string }{
		{"10.1.0.8", ""}, {"fd00:1::8", ""}, {"10.200.0.1", ""}, {"fd77::1", ""},
		{"10.1.0.50", "cali0"}, {"fd00:1::50", "cali0"},
		{"10.1.0.1", "cni0"}, {"fd00:1::1", "own"}, {"192.168.7.1", "own"},
		{"10.1.0.60", "cni0"}, {"fd00:1::60", "cni0"},
		{"10.1.0.7", "pdr"}, {"fd00:1::7", "pdr"},
	} {
		got, err := k.Foreign(addr(c.addr))
		if err != nil || (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s: %q, %v; want %q", c.addr, got, err, c.says)
		}
	}
}

func TestTheNodesOwnAddressesAreTold(t *testing.T) {
	ns, pod := testnet.New(t), testnet.New(t)
	k := open(t, ns)
	device(t, ns, "up0", "192.168.7.1/24", "fd00:7::1/64")
	attach(t, k, aPod("c1"), pod)
	got, err := k.Own(addrs("192.168.7.1", "192.168.7.2", "192.168.7.255", "fd00:7::1", "fd00:7::2", "10.1.0.7", "fd00:1::7", "203.0.113.1", "2001:db8::1"))
	slices.SortFunc(got, netip.Addr.Compare)
	if want := addrs("192.168.7.1", "fd00:7::1"); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := k.Own(nil); err != nil || got != nil {
		t.Errorf("%v, %v", got, err)
	}
}

func TestTheNodesAddressesBeforeAnotherPluginsPodsAreTold(t *testing.T) {
	ns, one, two := testnet.New(t), testnet.New(t), testnet.New(t)
	k := open(t, ns)
	ns.Addr("lo", "10.96.0.1/32") // as kube-proxy keeps cluster IPs on a device of its own
	for name, pod := range map[string]*testnet.NS{"veth1": one, "veth2": two} {
		testnet.Pair(t, ns, name, pod, "eth0")
		ns.Addr(name, "10.1.0.1/32")
		ns.Addr(name, "fd00:1::1/128")
	}
	if got, err := k.Gateways(); err != nil || !slices.Equal(got, addrs("10.1.0.1", "fd00:1::1")) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAnAddressBehindOurUnreachableRouteOrADefaultRouteIsFree(t *testing.T) {
	n := aNode(t)
	n.sync(t, n.tables())
	for _, a := range addrs("10.1.0.99", "fd00:1::99") {
		if got, err := n.Foreign(a); err != nil || got != "" {
			t.Errorf("%s: %q, %v", a, got, err)
		}
	}
	in(t, n.ns, func() error { return flushRoutes(t) })
	addRoute(t, n.ns, &netlink.Route{Dst: ipNet("0.0.0.0/0"), Gw: net.ParseIP("192.168.7.254")})
	if got, err := n.Foreign(addr("10.1.0.99")); err != nil || got != "" {
		t.Errorf("%q, %v", got, err)
	}
}
