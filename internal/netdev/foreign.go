package netdev

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Foreign says who else uses an address that a pod is about to get: this node itself, a route for just this address
// (a link that another plugin left behind), or a neighbour that the kernel knows on the link where a wider route
// leads (a pod of another plugin, on its bridge). Empty: nobody that the kernel knows of.
func (k *Kernel) Foreign(addr netip.Addr) (string, error) {
	c, err := k.take()
	if err != nil {
		return "", err
	}
	defer k.give(c)
	found, err := c.lookups([]netip.Addr{addr})
	if err != nil {
		return "", err
	}
	r, ok := found[addr]
	if !ok {
		return "", nil // unreachable, as the pod CIDR's route says it is
	}
	dev := "no device"
	if len(r.hops) > 0 {
		dev = c.nameOf(r.hops[0].index)
	}
	switch {
	case r.kind != unix.RTN_UNICAST:
		return fmt.Sprintf("it is this node's own, or a broadcast address, on %s", dev), nil
	case r.prefix.IsSingleIP():
		return fmt.Sprintf("a route of its own leads to %s (protocol %d)", dev, r.protocol), nil
	case len(r.hops) == 0 || r.hops[0].gateway:
		return "", nil // the way out, not to a neighbour
	}
	neighbour, err := c.isNeighbour(r.hops[0].index, addr)
	if neighbour {
		return fmt.Sprintf("%s has a neighbour with it", dev), nil
	}
	return "", err
}

// isNeighbour says whether the kernel knows the MAC address of a neighbour.
func (c *conn) isNeighbour(index int, addr netip.Addr) (bool, error) {
	replies, err := c.batch([]*message{newMessage(unix.RTM_GETNEIGH, 0, neighBody(family(addr.Is4()), index, 0)).
		addr(unix.NDA_DST, addr)})
	if err != nil {
		return false, err
	}
	if err := replies[0].err; errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look up neighbour %s: %w", addr, err)
	}
	for _, b := range replies[0].data {
		const known = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE | unix.NUD_PERMANENT
		if e, ok := parseNeighbour(b); ok && e.state&known != 0 {
			return true, nil
		}
	}
	return false, nil
}
