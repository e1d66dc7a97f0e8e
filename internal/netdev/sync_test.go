package netdev

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/testnet"
)

// node is a namespace that looks like a node: an uplink, a pod, and a tunnel device.
type node struct {
	*Kernel
	ns, podNS *testnet.NS
	pod       cluster.LocalPod
}

func aNode(t testing.TB) node {
	t.Helper()
	n := node{ns: testnet.New(t), podNS: testnet.New(t)}
	n.Kernel = open(t, n.ns)
	device(t, n.ns, "up0", "192.168.7.1/24", "fd00:7::1/64")
	n.pod = attach(t, n.Kernel, aPod("c1"), n.podNS)
	if _, err := n.SyncTunnel(aTunnel()); err != nil {
		t.Fatal(err)
	}
	return n
}

func aTunnel() *route.TunnelDevice {
	return &route.TunnelDevice{Name: route.TunnelName, MTU: 1450, Port: route.TunnelPort,
		MAC: cluster.MAC{2, 'p', 'o', 'l', 'd', 'r'}}
}

// tables are what such a node may want, every kind of row in both families.
func (n node) tables() desired.Tables {
	rows := route.CompilePod(cluster.Node{Addresses: addrs("192.168.7.1", "fd00:7::1")}, n.pod)
	t := desired.Tables{
		Routes: rows.Routes, Neighbours: rows.Neighbours,
		Rules:   map[route.Rule]bool{},
		Sysctls: map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1", "net/ipv6/conf/up0/accept_ra": "2"},
		Masquerade: desired.Masquerade{
			From:   []netip.Prefix{prefix("10.1.0.0/24"), prefix("fd00:1::/64")},
			Except: []netip.Prefix{prefix("10.1.0.0/24"), prefix("192.168.7.2/32"), prefix("fd00:1::/64")},
		},
	}
	for _, f := range []struct{ own, native, tunnelled, behind, via, src string }{
		{"10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/24", "192.168.9.9/32", "192.168.7.2", "192.168.7.1"},
		{"fd00:1::/64", "fd00:1:0:1::/64", "fd00:1:0:2::/64", "fd00:9::9/128", "fd00:7::2", "fd00:7::1"},
	} {
		t.Routes[route.RouteKey{Prefix: prefix(f.own)}] = route.Route{Unreachable: true}
		t.Routes[route.RouteKey{Prefix: prefix(f.native)}] = route.Route{Link: "up0", Via: addr(f.via), Src: addr(f.src)}
		t.Routes[route.RouteKey{Prefix: prefix(f.tunnelled)}] = route.Route{Link: route.TunnelName, Src: addr(f.src)}
		t.Routes[route.RouteKey{Table: route.TunnelTable, Prefix: prefix(f.behind)}] = route.Route{Link: route.TunnelName}
		t.Rules[route.Rule{From: prefix(f.own), Table: route.TunnelTable}] = true
	}
	return t
}

// sync makes the kernel as wanted, and sees to it that a second time changes nothing.
func (n node) sync(t testing.TB, want desired.Tables) []Change {
	t.Helper()
	changes, err := n.Sync(want)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := n.Sync(want); err != nil || len(again) > 0 {
		t.Fatalf("a second sync changed %v, %v", again, err)
	}
	return changes
}

func TestASyncWritesWhatIsMissingAndASecondOneNothing(t *testing.T) {
	n := aNode(t)
	verbs := map[string]int{}
	for _, c := range n.sync(t, n.tables()) {
		verbs[c.Verb+" "+c.Table]++
	}
	// The pod's two routes are there without a source, its neighbours as they should be.
	want := map[string]int{"add routes": 8, "replace routes": 2, "add rules": 2, "add masquerade": 1, "replace sysctls": 3}
	if !maps.Equal(verbs, want) {
		t.Errorf("changes are %v, want %v", verbs, want)
	}
	in(t, n.ns, func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_UNSPEC},
			netlink.RT_FILTER_TABLE)
		var got []string
		for _, r := range routes {
			if r.Protocol == Protocol {
				got = append(got, fmt.Sprintf("%s via %s src %s metric %d type %d scope %d table %d", r.Dst, r.Gw, r.Src, uint32(r.Priority), r.Type, r.Scope, r.Table))
			}
		}
		slices.Sort(got)
		want := []string{
			"10.1.0.0/24 via <nil> src <nil> metric 4278198272 type 7 scope 0 table 254",
			"10.1.0.7/32 via <nil> src 192.168.7.1 metric 0 type 1 scope 253 table 254",
			"10.1.1.0/24 via 192.168.7.2 src 192.168.7.1 metric 0 type 1 scope 0 table 254",
			"10.1.2.0/24 via <nil> src 192.168.7.1 metric 0 type 1 scope 253 table 254",
			"192.168.9.9/32 via <nil> src <nil> metric 0 type 1 scope 253 table 28783",
			"fd00:1:0:1::/64 via fd00:7::2 src fd00:7::1 metric 1024 type 1 scope 0 table 254",
			"fd00:1:0:2::/64 via <nil> src fd00:7::1 metric 1024 type 1 scope 0 table 254",
			"fd00:1::/64 via <nil> src <nil> metric 4278198272 type 7 scope 0 table 254",
			"fd00:1::7/128 via <nil> src fd00:7::1 metric 1024 type 1 scope 0 table 254",
			"fd00:9::9/128 via <nil> src <nil> metric 1024 type 1 scope 0 table 28783",
		}
		if !slices.Equal(got, want) {
			t.Errorf("routes are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return err
	})
}

func TestNothingWantedLeavesNothingOfOursAndEverythingOfOthers(t *testing.T) {
	n := aNode(t)
	before := kernelState(t, n.ns)
	n.sync(t, n.tables())
	in(t, n.ns, func() error {
		return netlink.RouteAdd(&netlink.Route{Dst: ipNet("172.16.0.0/12"), LinkIndex: linkOf(t, n.ns, "up0").Attrs().Index, Protocol: 4})
	})
	n.sync(t, desired.Tables{Routes: route.CompilePod(cluster.Node{}, n.pod).Routes, Neighbours: n.tables().Neighbours})
	after := kernelState(t, n.ns)
	after = slices.DeleteFunc(after, func(s string) bool { return strings.Contains(s, "172.16.0.0/12") })
	if !slices.Equal(before, after) {
		t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

func ipNet(s string) *net.IPNet {
	_, n, _ := net.ParseCIDR(s)
	return n
}

func TestWhatForeignHandsDoIsRepairedAndReported(t *testing.T) {
	for name, c := range map[string]struct {
		hand func(t *testing.T, n node) error
		want []string
	}{
		"all our routes flushed": {func(t *testing.T, n node) error { return flushRoutes(t) }, []string{
			"add routes: unreachable 10.1.0.0/24", "add routes: 10.1.0.7/32 dev pdr4825b74b054", "add routes: 10.1.1.0/24 via 192.168.7.2 dev up0",
			"add routes: 10.1.2.0/24 dev polder-vxlan", "add routes: 192.168.9.9/32 dev polder-vxlan table 28783",
			"add routes: unreachable fd00:1::/64", "add routes: fd00:1::7/128 dev pdr4825b74b054", "add routes: fd00:1:0:1::/64 via fd00:7::2 dev up0",
			"add routes: fd00:1:0:2::/64 dev polder-vxlan", "add routes: fd00:9::9/128 dev polder-vxlan table 28783",
		}},
		"a route led elsewhere": {func(t *testing.T, n node) error {
			return netlink.RouteReplace(&netlink.Route{Dst: ipNet("10.1.1.0/24"), Gw: net.ParseIP("192.168.7.3"), Protocol: Protocol})
		}, []string{"replace routes: 10.1.1.0/24 via 192.168.7.2 dev up0"}},
		"an IPv6 route led elsewhere": {func(t *testing.T, n node) error {
			return netlink.RouteReplace(&netlink.Route{Dst: ipNet("fd00:1:0:1::/64"), Gw: net.ParseIP("fd00:7::3"), Protocol: Protocol})
		}, []string{"replace routes: fd00:1:0:1::/64 via fd00:7::2 dev up0"}},
		"an IPv6 route made multipath": {func(t *testing.T, n node) error {
			return netlink.RouteAppend(&netlink.Route{Dst: ipNet("fd00:1:0:1::/64"), Gw: net.ParseIP("fd00:7::3"), Protocol: Protocol})
		}, []string{"replace routes: fd00:1:0:1::/64 via fd00:7::2 dev up0"}},
		"a route appended": {func(t *testing.T, n node) error {
			return netlink.RouteAppend(&netlink.Route{Dst: ipNet("10.1.1.0/24"), Gw: net.ParseIP("192.168.7.3"), Protocol: Protocol})
		}, []string{"replace routes: 10.1.1.0/24 via 192.168.7.2 dev up0"}},
		"a route given an MTU": {func(t *testing.T, n node) error {
			return netlink.RouteReplace(&netlink.Route{Dst: ipNet("10.1.1.0/24"), Gw: net.ParseIP("192.168.7.2"),
				Src: net.ParseIP("192.168.7.1"), Protocol: Protocol, MTU: 1000})
		}, []string{"replace routes: 10.1.1.0/24 via 192.168.7.2 dev up0"}},
		"a route of ours too many": {func(t *testing.T, n node) error {
			return netlink.RouteAdd(&netlink.Route{Dst: ipNet("10.77.0.0/24"), Gw: net.ParseIP("192.168.7.2"), Protocol: Protocol})
		}, []string{"delete routes: 10.77.0.0/24 via 192.168.7.2 dev up0"}},
		"a route of ours under another metric": {func(t *testing.T, n node) error {
			return netlink.RouteAdd(&netlink.Route{Dst: ipNet("10.1.1.0/24"), Gw: net.ParseIP("192.168.7.2"), Protocol: Protocol, Priority: 7})
		}, []string{"delete routes: 10.1.1.0/24 via 192.168.7.2 dev up0"}},
		"the uplink down and up": {func(t *testing.T, n node) error {
			l := linkOf(t, n.ns, "up0")
			if err := netlink.LinkSetDown(l); err != nil {
				return err
			}
			if err := netlink.LinkSetUp(l); err != nil {
				return err
			}
			a, err := netlink.ParseAddr("fd00:7::1/64") // the kernel drops IPv6 addresses with the link
			if err != nil {
				return err
			}
			a.Flags = unix.IFA_F_NODAD
			return netlink.AddrReplace(l, a)
		}, []string{"add routes: 10.1.1.0/24 via 192.168.7.2 dev up0", "add routes: fd00:1:0:1::/64 via fd00:7::2 dev up0"}},
		"a rule deleted": {func(t *testing.T, n node) error { return netlink.RuleDel(ruleFrom("10.1.0.0/24")) },
			[]string{"add rules: 28783: from 10.1.0.0/24 lookup 28783"}},
		"an IPv6 rule deleted": {func(t *testing.T, n node) error { return netlink.RuleDel(ruleFrom("fd00:1::/64")) },
			[]string{"add rules: 28783: from fd00:1::/64 lookup 28783"}},
		"a rule to our table too many": {func(t *testing.T, n node) error {
			r := ruleFrom("10.1.0.0/24")
			r.Mark, r.Priority = 7, 5
			return netlink.RuleAdd(r)
		}, []string{"delete rules: 5: from 10.1.0.0/24 lookup 28783"}},
		"a neighbour deleted": {func(t *testing.T, n node) error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: n.pod.Index, IP: net.ParseIP("10.1.0.7")})
		}, []string{"add neighbours: 10.1.0.7 dev pdr4825b74b054"}},
		"a neighbour changed": {func(t *testing.T, n node) error {
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: n.pod.Index, IP: net.ParseIP("fd00:1::7"), State: netlink.NUD_PERMANENT,
				HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}})
		}, []string{"replace neighbours: fd00:1::7 dev pdr4825b74b054"}},
		"a neighbour too many": {func(t *testing.T, n node) error {
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: n.pod.Index, IP: net.ParseIP("10.1.0.9"), State: netlink.NUD_PERMANENT,
				HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}})
		}, []string{"delete neighbours: 10.1.0.9 dev pdr4825b74b054"}},
		"a sysctl changed": {func(t *testing.T, n node) error { return writeSysctl("net/ipv4/ip_forward", "0") },
			[]string{"replace sysctls: net/ipv4/ip_forward=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := aNode(t)
			n.sync(t, n.tables())
			in(t, n.ns, func() error { return c.hand(t, n) })
			changes, err := n.Sync(n.tables())
			wantChanges(t, changes, err, c.want...)
			n.sync(t, n.tables())
		})
	}
}

// flushRoutes deletes all routes of ours, as "ip route flush proto 112" does.
func flushRoutes(t *testing.T) error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	for _, r := range routes {
		if r.Protocol != Protocol {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil {
			return err
		}
	}
	return err
}

func ruleFrom(prefix string) *netlink.Rule {
	r := netlink.NewRule()
	r.Src, r.Table, r.Priority = ipNet(prefix), route.TunnelTable, rulePriority
	return r
}

func TestARowThatCannotBeWrittenStopsNoOther(t *testing.T) {
	n := aNode(t)
	want := n.tables()
	want.Routes[route.RouteKey{Prefix: prefix("10.8.0.0/24")}] = route.Route{Link: "nosuch0"}
	want.Routes[route.RouteKey{Prefix: prefix("10.8.1.0/24")}] = route.Route{Link: "up0", Via: addr("172.31.0.1")}
	want.Neighbours[route.NeighbourKey{Link: LinkName("a", "b", "c"), Addr: addr("10.1.0.8")}] = cluster.MAC{2}
	want.Sysctls["net/ipv4/nosuch"] = "1"
	for range 2 {
		_, err := n.Sync(want)
		for _, says := range []string{"10.8.0.0/24", "nosuch0", "10.8.1.0/24", "10.1.0.8", "net/ipv4/nosuch"} {
			if err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("error does not name %s: %v", says, err)
			}
		}
	}
	n.sync(t, n.tables())
	if changes := n.sync(t, n.tables()); len(changes) > 0 {
		t.Errorf("changed %v", changes)
	}
}

func TestAKernelWithoutIPv6SaysSoForEachRowAndDoesTheRest(t *testing.T) {
	n := aNode(t)
	n.ipv6 = false
	_, err := n.Sync(n.tables())
	wantError(t, err, ErrNoIPv6)
	in(t, n.ns, func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL)
		if len(routes) != 4 {
			t.Errorf("IPv4 routes are %v", routes)
		}
		return err
	})
}

func TestManyErrorsAreCounted(t *testing.T) {
	n := aNode(t)
	want := n.tables()
	for i := range 200 {
		want.Routes[route.RouteKey{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, byte(i), 0}), 24)}] = route.Route{Link: "nosuch0"}
	}
	_, err := n.Sync(want)
	if err == nil || !strings.Contains(err.Error(), "and 190 more") || strings.Count(err.Error(), "\n") > 15 {
		t.Errorf("error is %v", err)
	}
}
