package netdev

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// routes lists the routes of both families that the kernel keeps in a table and under a protocol number; 0 means all.
func (k *Kernel) routes(n names, table uint32, protocol uint8) (map[routeID]heldRoute, error) {
	held := map[routeID]heldRoute{}
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if fam == unix.AF_INET6 && !k.ipv6 {
			continue
		}
		m := newMessage(unix.RTM_GETROUTE, 0, rtBody{family: fam, protocol: protocol}.bytes())
		if table != 0 {
			m.u32(unix.RTA_TABLE, table)
		}
		begin := func() {
			for id := range held {
				if family(id.prefix.Addr().Is4()) == fam {
					delete(held, id)
				}
			}
		}
		err := k.dump(m, begin, func(b []byte) {
			id, h, ok := parseRoute(b, n)
			if !ok || protocol != 0 && h.protocol != protocol {
				return
			}
			if twin, ok := held[id]; ok {
				h.spec.odd = true
				h.raw = append(twin.raw, h.raw...)
				if twin.protocol != h.protocol { // only when everybody's routes are listed: name the stranger
					h.protocol = strangers(twin.protocol, h.protocol)
				}
			}
			held[id] = h
		})
		if err != nil && !errors.Is(err, unix.ENOENT) { // no such table yet
			return nil, fmt.Errorf("list routes: %w", err)
		}
	}
	return held, nil
}

// deliveredTo lists the addresses that a route of Polder's of their own leads to a link.
func (k *Kernel) deliveredTo(index int) ([]netip.Addr, error) {
	var list []netip.Addr
	for _, ipv4 := range []bool{true, false} {
		if !ipv4 && !k.ipv6 {
			continue
		}
		m := newMessage(unix.RTM_GETROUTE, 0, rtBody{family: family(ipv4), protocol: Protocol}.bytes()).
			u32(unix.RTA_OIF, uint32(index))
		var found []netip.Addr
		err := k.dump(m, func() { found = nil }, func(b []byte) {
			id, h, ok := parseRoute(b, names{})
			if ok && h.protocol == Protocol && h.spec.kind == unix.RTN_UNICAST && id.prefix.IsSingleIP() {
				found = append(found, id.prefix.Addr())
			}
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
		list = append(list, found...)
	}
	return list, nil
}

// strangers returns the protocol of two that is not Polder's.
func strangers(a, b uint8) uint8 {
	if a == Protocol {
		return b
	}
	return a
}

// parseRoute reads one route. Cache entries are no routes.
func parseRoute(b []byte, n names) (routeID, heldRoute, bool) {
	rt, attrs, ok := parseRtBody(b)
	if !ok || rt.flags&unix.RTM_F_CLONED != 0 {
		return routeID{}, heldRoute{}, false
	}
	id := routeID{table: int(rt.table), tos: rt.tos}
	h := heldRoute{protocol: rt.protocol, raw: [][]byte{slices.Clone(b)}}
	h.spec = routeSpec{kind: rt.kind, scope: rt.scope}
	dst := netip.IPv6Unspecified()
	if rt.family == unix.AF_INET {
		dst = netip.IPv4Unspecified()
	}
	for typ, v := range attributes(attrs) {
		switch typ {
		case unix.RTA_DST:
			dst = address(v)
		case unix.RTA_TABLE:
			id.table = num(v)
		case unix.RTA_PRIORITY:
			id.metric = unsigned(v)
		case unix.RTA_OIF:
			h.spec.link = n.byIndex[num(v)]
		case unix.RTA_GATEWAY:
			h.spec.via = address(v)
		case unix.RTA_PREFSRC:
			h.spec.src = address(v)
		case unix.RTA_METRICS, unix.RTA_MULTIPATH, unix.RTA_ENCAP, unix.RTA_FLOW, unix.RTA_VIA, rtaNexthopID, unix.RTA_SRC:
			h.spec.odd = true
		}
	}
	if h.spec.kind == unix.RTN_UNREACHABLE {
		h.spec.link = "" // IPv6 hangs them on the loopback device
	}
	id.prefix = netip.PrefixFrom(dst, int(rt.dstLen))
	return id, h, id.prefix.IsValid()
}
