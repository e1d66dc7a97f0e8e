package netdev

import (
	"fmt"
	"os/exec"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/testnet"
)

// kernelState describes everything that Sync may touch, and more, one line each, sorted.
func kernelState(t testing.TB, ns *testnet.NS) []string {
	t.Helper()
	var state []string
	add := func(format string, args ...any) { state = append(state, fmt.Sprintf(format, args...)) }
	in(t, ns, func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Table != unix.RT_TABLE_LOCAL {
				add("route %s dev %d via %s src %s metric %d table %d type %d scope %d proto %d mtu %d multipath %v", r.Dst,
					r.LinkIndex, r.Gw, r.Src, uint32(r.Priority), r.Table, r.Type, r.Scope, r.Protocol, r.MTU, r.MultiPath)
			}
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rules, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			for _, r := range rules {
				add("rule %d from %s to table %d proto %d mark %d", r.Priority, r.Src, r.Table, r.Protocol, r.Mark)
			}
		}
		neighbours, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, e := range neighbours {
			if e.State == netlink.NUD_PERMANENT {
				add("neighbour %s dev %d %s", e.IP, e.LinkIndex, e.HardwareAddr)
			}
		}
		if nft, err := exec.LookPath("nft"); err == nil {
			out, err := exec.Command(nft, "list", "ruleset").CombinedOutput()
			if err != nil {
				return fmt.Errorf("list ruleset: %w: %s", err, out)
			}
			add("nft %s", out)
		}
		return nil
	})
	slices.Sort(state)
	return state
}
