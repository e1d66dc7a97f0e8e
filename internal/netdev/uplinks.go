package netdev

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/route"
)

// Uplinks lists the devices by which this node reaches its network, sorted by name: those that hold one of its own
// addresses, carry a default route or lead to a peer. Loopback and Polder's own devices never are.
func (k *Kernel) Uplinks(own, peers []netip.Addr) ([]cluster.Link, error) {
	list, err := k.links("")
	if err != nil {
		return nil, err
	}
	chosen, err := k.uplinkIndices(own, peers)
	if err != nil {
		return nil, fmt.Errorf("find uplinks: %w", err)
	}
	var uplinks []cluster.Link
	for _, l := range list {
		if chosen[l.index] && l.flags&unix.IFF_LOOPBACK == 0 && !isOurs(l.name) {
			uplinks = append(uplinks, l.uplink())
		}
	}
	slices.SortFunc(uplinks, func(a, b cluster.Link) int { return cmp.Compare(a.Name, b.Name) })
	return uplinks, nil
}

func (l link) uplink() cluster.Link {
	return cluster.Link{Name: l.name, Index: l.index, MTU: l.mtu, AcceptsRA: l.acceptRA}
}

func isOurs(name string) bool { return isPodLink(name) || name == route.TunnelName }

func (k *Kernel) uplinkIndices(own, peers []netip.Addr) (map[int]bool, error) {
	c, err := k.take()
	if err != nil {
		return nil, err
	}
	defer k.give(c)
	chosen := map[int]bool{}
	held, err := c.dumpAddresses(-1, 0)
	if err != nil {
		return nil, err
	}
	for _, h := range held {
		if slices.Contains(own, h.prefix.Addr()) {
			chosen[h.index] = true
		}
	}
	if err := k.defaultRoutes(c, chosen); err != nil {
		return nil, err
	}
	found, err := c.lookups(peers)
	if err != nil {
		return nil, err
	}
	for _, r := range found {
		for _, hop := range r.hops {
			chosen[hop.index] = true
		}
	}
	return chosen, nil
}

// defaultRoutes adds the devices of the main table's default routes. The kernel filters by no prefix; but a look at
// the fixed header is all that another route costs.
func (k *Kernel) defaultRoutes(c *conn, chosen map[int]bool) error {
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if fam == unix.AF_INET6 && !k.ipv6 {
			continue
		}
		m := newMessage(unix.RTM_GETROUTE, 0, rtBody{family: fam}.bytes()).u32(unix.RTA_TABLE, unix.RT_TABLE_MAIN)
		err := c.dump(m, func() {}, func(b []byte) {
			if rt, attrs, ok := parseRtBody(b); ok && rt.dstLen == 0 && rt.kind == unix.RTN_UNICAST {
				for _, hop := range parseHops(attrs) {
					chosen[hop.index] = true
				}
			}
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}
