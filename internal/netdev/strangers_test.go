package netdev

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestSomebodyElsesRouteIsLeftAloneAndNamed(t *testing.T) {
	for _, dst := range []string{"10.1.1.0/24", "fd00:1:0:1::/64"} {
		t.Run(dst, func(t *testing.T) {
			n := aNode(t)
			theirs := &netlink.Route{Dst: ipNet(dst), LinkIndex: linkOf(t, n.ns, "up0").Attrs().Index, Protocol: 42, Scope: netlink.SCOPE_LINK}
			if strings.Contains(dst, ":") {
				theirs.Scope, theirs.Priority = 0, 1024
			}
			in(t, n.ns, func() error { return netlink.RouteAdd(theirs) })
			for range 2 {
				changes, err := n.Sync(n.tables())
				wantError(t, err, ErrForeign)
				if !strings.Contains(err.Error(), "proto 42") || !strings.Contains(err.Error(), "dev up0") || !strings.Contains(err.Error(), dst) {
					t.Errorf("error is %v", err)
				}
				for _, c := range changes {
					if strings.Contains(c.Row, dst) {
						t.Errorf("changed: %v", c)
					}
				}
			}
			in(t, n.ns, func() error { return netlink.RouteDel(theirs) })
			n.sync(t, n.tables())
		})
	}
}

func TestSomebodyElsesRouteBesideOursIsNeverReplaced(t *testing.T) {
	n := aNode(t)
	n.sync(t, n.tables())
	in(t, n.ns, func() error { // theirs first, then ours, both for the prefix and metric: and ours wrong
		up := linkOf(t, n.ns, "up0").Attrs().Index
		if err := netlink.RouteReplace(&netlink.Route{Dst: ipNet("10.1.1.0/24"), LinkIndex: up, Protocol: 42, Scope: netlink.SCOPE_LINK}); err != nil {
			return err
		}
		return netlink.RouteAppend(&netlink.Route{Dst: ipNet("10.1.1.0/24"), Gw: net.ParseIP("192.168.7.3"), Protocol: Protocol})
	})
	_, err := n.Sync(n.tables())
	wantError(t, err, ErrForeign)
	in(t, n.ns, func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: ipNet("10.1.1.0/24")}, netlink.RT_FILTER_DST)
		if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Protocol == 42 }) {
			t.Errorf("routes are %v", routes)
		}
		return err
	})
}
