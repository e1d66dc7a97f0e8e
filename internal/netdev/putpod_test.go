package netdev

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/testnet"
)

func TestAPodsRowsAreThoseThatASyncWouldWrite(t *testing.T) {
	n := aNode(t)
	rows := route.CompilePod(cluster.Node{Addresses: addrs("192.168.7.1", "fd00:7::1")}, n.pod)
	if err := n.PutPod(rows.Routes, rows.Neighbours); err != nil {
		t.Fatal(err)
	}
	if changes := n.sync(t, desired.Tables{Routes: rows.Routes, Neighbours: rows.Neighbours}); len(changes) > 0 {
		t.Errorf("a sync changed %v", changes)
	}
	if err := n.PutPod(rows.Routes, rows.Neighbours); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

func TestAPodsRouteOfOursThatIsWrongIsReplaced(t *testing.T) {
	n := aNode(t) // its pod's routes have no source
	rows := route.CompilePod(cluster.Node{Addresses: addrs("192.168.7.1", "fd00:7::1")}, n.pod)
	if err := n.PutPod(rows.Routes, rows.Neighbours); err != nil {
		t.Fatal(err)
	}
	in(t, n.ns, func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: ipNet("10.1.0.7/32")}, netlink.RT_FILTER_DST)
		if len(routes) != 1 || !routes[0].Src.Equal(net.ParseIP("192.168.7.1")) {
			t.Errorf("routes are %v", routes)
		}
		return err
	})
}

func TestSomebodyElsesRouteForAPodsAddressIsAnErrorAndStays(t *testing.T) {
	ns, pod := testnet.New(t), testnet.New(t)
	k := open(t, ns)
	stale := device(t, ns, "cali0")
	theirs := map[int]*netlink.Route{
		netlink.FAMILY_V4: {Dst: ipNet("10.1.0.7/32"), LinkIndex: stale, Scope: netlink.SCOPE_LINK, Protocol: 3},
		netlink.FAMILY_V6: {Dst: ipNet("fd00:1::7/128"), LinkIndex: stale, Priority: metric6, Protocol: 3},
	}
	p, err := k.CreatePod(aPod("c1"), pod.File())
	if err != nil {
		t.Fatal(err)
	}
	if err := k.ActivatePod(p, pod.File(), nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range theirs {
		addRoute(t, ns, r)
	}
	wantError(t, k.PutPod(rowsOf(p)), ErrForeign)
	for family, r := range theirs {
		in(t, ns, func() error {
			routes, err := netlink.RouteListFiltered(family, r, netlink.RT_FILTER_DST)
			if len(routes) != 1 || routes[0].LinkIndex != stale {
				t.Errorf("routes are %v", routes)
			}
			if err == nil {
				err = netlink.RouteDel(r)
			}
			return err
		})
	}
	if err := k.PutPod(rowsOf(p)); err != nil {
		t.Error(err)
	}
}

func TestRowsForALinkThatIsGoneAreAnError(t *testing.T) {
	ns, pod := testnet.New(t), testnet.New(t)
	k := open(t, ns)
	p := attach(t, k, aPod("c1"), pod)
	if err := k.DeletePod(p.Link); err != nil {
		t.Fatal(err)
	}
	wantError(t, k.PutPod(rowsOf(p)), ErrNotFound)
}
