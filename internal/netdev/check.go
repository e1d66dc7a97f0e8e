package netdev

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

// CheckPod says whether both ends of a pod's link are still as CreatePod and ActivatePod left them. The error names
// the first thing that is not. Extra routes are not looked at; a default route may be any interface's.
func (k *Kernel) CheckPod(p cluster.LocalPod, netns *os.File) error {
	if err := k.checkHost(p); err != nil {
		return fmt.Errorf("check link %s: %w", p.Link, err)
	}
	err := inPod(netns, func(c *conn) error { return c.checkPod(p) })
	if err != nil {
		return fmt.Errorf("check interface %s in the pod: %w", p.Ifname, err)
	}
	return nil
}

func (k *Kernel) checkHost(p cluster.LocalPod) error {
	l, err := k.linkNamed(p.Link)
	if err != nil {
		return err
	}
	if err := l.check(p.HostMAC, p.MTU); err != nil {
		return err
	}
	record, err := decodeRecord(l.alias)
	if err != nil {
		return err
	}
	if record.ContainerID != p.ContainerID || !slices.Equal(record.Addresses, p.Addresses) {
		return fmt.Errorf("its record says %q", l.alias)
	}
	if !hasIPv6(p) {
		return nil
	}
	c, err := k.take()
	if err != nil {
		return err
	}
	defer k.give(c)
	return c.checkAddress(l.index, netip.PrefixFrom(Gateway(false), 64))
}

func (l link) check(mac cluster.MAC, mtu int) error {
	switch {
	case l.kind != "veth":
		return fmt.Errorf("it is no veth but %q", l.kind)
	case !l.up():
		return errors.New("it is down")
	case l.mac != mac:
		return fmt.Errorf("its MAC address is %x, not %x", l.mac, mac)
	case l.mtu != mtu:
		return fmt.Errorf("its MTU is %d, not %d", l.mtu, mtu)
	}
	return nil
}

// checkPod checks what is inside, with a socket of the pod's namespace.
func (c *conn) checkPod(p cluster.LocalPod) error {
	replies, err := c.batch([]*message{getLinkNamed(p.Ifname)})
	if err != nil {
		return err
	}
	l, err := replies[0].link()
	if err != nil {
		return err
	}
	if err := l.check(p.PodMAC, p.MTU); err != nil {
		return err
	}
	if l.peer != p.Index {
		return fmt.Errorf("its far end is link %d, not %d", l.peer, p.Index)
	}
	for _, a := range p.Addresses {
		if err := c.checkAddress(l.index, netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	for _, ipv4 := range families(p) {
		if err := c.checkDefault(l.index, ipv4, p.HostMAC); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn) checkAddress(index int, want netip.Prefix) error {
	held, err := c.dumpAddresses(-1, index)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(held, func(h heldAddress) bool { return h.prefix == want && h.index == index }) {
		return fmt.Errorf("it has not the address %s", want)
	}
	return nil
}

// checkDefault checks that a family has a default route and, where it is this interface's, that the pod knows the
// next hop's MAC address without asking.
func (c *conn) checkDefault(index int, ipv4 bool, mac cluster.MAC) error {
	m := newMessage(unix.RTM_GETROUTE, 0, rtBody{family: family(ipv4)}.bytes()).u32(unix.RTA_TABLE, unix.RT_TABLE_MAIN)
	found := false
	var via netip.Addr
	err := c.dump(m, func() { found, via = false, netip.Addr{} }, func(b []byte) {
		rt, attrs, ok := parseRtBody(b)
		if !ok || rt.dstLen != 0 || rt.kind != unix.RTN_UNICAST {
			return
		}
		found = true
		if hops := parseHops(attrs); len(hops) == 1 && hops[0].index == index {
			for typ, v := range attributes(attrs) {
				if typ == unix.RTA_GATEWAY {
					via = address(v)
				}
			}
		}
	})
	switch {
	case err != nil && !errors.Is(err, unix.ENOENT):
		return err
	case !found:
		return fmt.Errorf("the pod has no default route to the family of %s", Gateway(ipv4))
	case !via.IsValid():
		return nil
	}
	return c.checkNeighbour(index, via, mac)
}

func (c *conn) checkNeighbour(index int, addr netip.Addr, mac cluster.MAC) error {
	replies, err := c.batch([]*message{newMessage(unix.RTM_GETNEIGH, 0, neighBody(family(addr.Is4()), index, 0)).
		addr(unix.NDA_DST, addr)})
	if err != nil {
		return err
	}
	if err := replies[0].err; err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	for _, b := range replies[0].data {
		if e, ok := parseNeighbour(b); ok && e.state == unix.NUD_PERMANENT && e.mac == mac {
			return nil
		}
	}
	return fmt.Errorf("%s has no permanent neighbour entry with %x", addr, mac)
}
