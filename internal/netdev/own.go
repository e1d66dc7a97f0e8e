package netdev

import (
	"net/netip"

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
