package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

// Paths says how the kernel reaches each of the peers' addresses. One that it does not reach, or that is this node's
// own, has no entry. With several next hops the first is the path, and the least MTU is the path's.
func (k *Kernel) Paths(peers []netip.Addr) (map[netip.Addr]cluster.Path, error) {
	c, err := k.take()
	if err != nil {
		return nil, err
	}
	defer k.give(c)
	found, err := c.lookups(peers)
	if err != nil {
		return nil, fmt.Errorf("find paths: %w", err)
	}
	links, err := c.linksOf(found)
	if err != nil {
		return nil, fmt.Errorf("find paths: %w", err)
	}
	paths := map[netip.Addr]cluster.Path{}
	for addr, r := range found {
		if r.kind != unix.RTN_UNICAST || len(r.hops) == 0 {
			continue
		}
		first, ok := links[r.hops[0].index]
		if !ok {
			continue // the link went away meanwhile
		}
		p := cluster.Path{Link: first.uplink(), OnLink: len(r.hops) == 1 && !r.hops[0].gateway, MTU: r.mtu}
		for _, hop := range r.hops {
			if l := links[hop.index]; p.MTU == 0 || l.mtu > 0 && l.mtu < p.MTU {
				p.MTU = l.mtu
			}
		}
		paths[addr] = p
	}
	return paths, nil
}

// lookup is the route that the kernel takes to an address.
type lookup struct {
	prefix   netip.Prefix // of the route
	kind     uint8        // RTN_…
	protocol uint8
	hops     []hop
	mtu      int // that the route sets, 0 for none
}

type hop struct {
	index   int
	gateway bool
}

// lookups asks for the routes to addresses. An address without one has no entry.
//
// It asks for what the routing table says (RTM_F_FIB_MATCH), not for what a packet would meet: learned path MTUs
// come and go, and anyone who forges an ICMP error would set the MTU of every pod.
func (c *conn) lookups(addrs []netip.Addr) (map[netip.Addr]lookup, error) {
	messages := make([]*message, len(addrs))
	for i, a := range addrs {
		messages[i] = newMessage(unix.RTM_GETROUTE, 0, rtBody{
			family: family(a.Is4()), dstLen: uint8(a.BitLen()), flags: unix.RTM_F_FIB_MATCH}.bytes()).addr(unix.RTA_DST, a)
	}
	replies, err := c.batch(messages)
	if err != nil {
		return nil, err
	}
	found := map[netip.Addr]lookup{}
	for i, r := range replies {
		switch {
		case unreachable(r.err):
		case r.err != nil:
			return nil, fmt.Errorf("look up %s: %w", addrs[i], r.err)
		case len(r.data) > 0:
			found[addrs[i]] = parseLookup(r.data[0])
		}
	}
	return found, nil
}

// unreachable says whether an error is how the kernel says "no route": in so many words, or by the kind of the
// route (unreachable, prohibit, blackhole), or because it knows nothing of the family.
func unreachable(err error) bool {
	for _, e := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL, unix.EAFNOSUPPORT,
		unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func parseLookup(b []byte) lookup {
	rt, attrs, ok := parseRtBody(b)
	if !ok {
		return lookup{}
	}
	dst := netip.IPv6Unspecified()
	if rt.family == unix.AF_INET {
		dst = netip.IPv4Unspecified()
	}
	r := lookup{kind: rt.kind, protocol: rt.protocol, hops: parseHops(attrs)}
	for typ, v := range attributes(attrs) {
		switch typ {
		case unix.RTA_DST:
			dst = address(v)
		case unix.RTA_METRICS:
			for metric, v := range attributes(v) {
				if metric == unix.RTAX_MTU {
					r.mtu = num(v)
				}
			}
		}
	}
	r.prefix = netip.PrefixFrom(dst, int(rt.dstLen))
	return r
}

// parseHops reads the next hops of a route: its own, or those of a multipath route.
func parseHops(attrs []byte) []hop {
	var single hop
	var hops []hop
	for typ, v := range attributes(attrs) {
		switch typ {
		case unix.RTA_OIF:
			single.index = num(v)
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			single.gateway = true
		case unix.RTA_MULTIPATH:
			hops = append(hops, parseMultipath(v)...)
		}
	}
	if len(hops) == 0 && single.index != 0 {
		hops = []hop{single}
	}
	return hops
}

// parseMultipath reads struct rtnexthop after struct rtnexthop: length, flags, hops, index, attributes.
func parseMultipath(b []byte) []hop {
	var hops []hop
	for len(b) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtNexthop || n > len(b) {
			break
		}
		h := hop{index: int(int32(binary.NativeEndian.Uint32(b[4:])))}
		for typ := range attributes(b[unix.SizeofRtNexthop:n]) {
			h.gateway = h.gateway || typ == unix.RTA_GATEWAY || typ == unix.RTA_VIA
		}
		hops = append(hops, h)
		b = b[min(align(n), len(b)):]
	}
	return hops
}

// linksOf reads the devices of next hops, each once.
func (c *conn) linksOf(found map[netip.Addr]lookup) (map[int]link, error) {
	links := map[int]link{}
	var messages []*message
	for _, r := range found {
		for _, h := range r.hops {
			if _, ok := links[h.index]; !ok {
				links[h.index] = link{}
				messages = append(messages, getLink(h.index))
			}
		}
	}
	replies, err := c.batch(messages)
	if err != nil {
		return nil, err
	}
	clear(links)
	for _, r := range replies {
		l, err := r.link()
		switch {
		case err == nil:
			links[l.index] = l
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
	}
	return links, nil
}
