package netdev

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Own returns those of some addresses that are this node's, as its kernel sees it.
func (k *Kernel) Own(addrs []netip.Addr) (own []netip.Addr, err error) {
	if len(addrs) == 0 {
		return nil, nil
	}
	c, err := k.take()
	if err != nil {
		return nil, err
	}
	defer k.give(c)
	found, err := c.lookups(addrs)
	if err != nil {
		return nil, err
	}
	for a, r := range found {
		if r.kind == unix.RTN_LOCAL {
			own = append(own, a)
		}
	}
	return own, nil
}

// Gateways lists the node's own addresses on bridges and veth links: where another plugin's pods have the node before
// them, and what the node calls them from. Link-local ones are not told.
func (k *Kernel) Gateways() (own []netip.Addr, err error) {
	list, err := k.links("")
	if err != nil {
		return nil, err
	}
	kinds := map[int]string{}
	for _, l := range list {
		kinds[l.index] = l.kind
	}
	c, err := k.take()
	if err != nil {
		return nil, err
	}
	defer k.give(c)
	held, err := c.dumpAddresses(-1, 0)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, h := range held {
		if a := h.prefix.Addr(); (kinds[h.index] == "veth" || kinds[h.index] == "bridge") && !a.IsLinkLocalUnicast() {
			own = append(own, a)
		}
	}
	slices.SortFunc(own, netip.Addr.Compare)
	return slices.Compact(own), nil // ptp gives the same one to each link
}
