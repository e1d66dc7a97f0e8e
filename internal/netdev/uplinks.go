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
// addresses, carry a default route or lead to a peer. The others are all that the stack may send by otherwise. Loopback
// and Polder's own devices are neither.
func (k *Kernel) Uplinks(own, peers []netip.Addr) (uplinks, others []cluster.Link, err error) {
	list, err := k.links("")
	if err != nil {
		return nil, nil, err
	}
	chosen, err := k.uplinkIndices(own, peers)
	if err != nil {
		return nil, nil, fmt.Errorf("find uplinks: %w", err)
	}
	slices.SortFunc(list, func(a, b link) int { return cmp.Compare(a.name, b.name) })
	for _, l := range list {
		switch {
		case l.flags&unix.IFF_LOOPBACK != 0 || isOurs(l.name):
		case chosen[l.index]:
			uplinks = append(uplinks, l.uplink())
		case !l.port:
			others = append(others, l.uplink())
		}
	}
	return uplinks, others, nil
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
