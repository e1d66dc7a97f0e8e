package lab_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
)

// guard is a world with a tap at everything that could receive what pod one injects, and pod one's own link.
type guard struct {
	*world
	t     *testing.T
	out   *raw // pod one's link
	taps  map[string]*raw
	count int // of cases, for their marks
	marks map[string]string
}

// gatewayMAC is the host's end of every pod's link.
func gatewayMAC() mac { return mac{0xee, 0xee, 0xee, 0xee, 0xee, 0xee} }

func newGuard(t *testing.T, w *world) *guard {
	g := &guard{world: w, t: t, taps: map[string]*raw{}, marks: map[string]string{}}
	for _, p := range w.pods() {
		if p != w.one {
			g.taps["pod "+p.Name] = openRaw(t, p.Place, "eth0")
		}
	}
	for _, n := range w.Nodes() {
		g.taps[n.Name] = openRaw(t, n.Place, "eth0")
	}
	g.taps["tunnel of "+w.near.Name] = openRaw(t, w.near.Place, "polder-vxlan")
	g.out = openRaw(t, w.one.Place, "eth0")
	return g
}

// mark is a payload by which a case's packets are known wherever they turn up.
func (g *guard) mark(name string) []byte {
	g.count++
	m := fmt.Sprintf("polder guard case %04d", g.count)
	g.marks[m] = name
	return []byte(m)
}

// refused sends frames and wants each of them to be counted as a drop of one kind on a node, no more and no fewer.
// What arrives anywhere is found by nothingArrived.
func (g *guard) refused(name string, from *raw, on *lab.Node, reason string, frames ...[]byte) {
	g.t.Helper()
	before := reportOf(g.t, on).Counters
	for _, f := range frames {
		from.send(g.t, f)
	}
	var after map[string]uint64
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		after = reportOf(g.t, on).Counters
		if after[reason]-before[reason] >= uint64(len(frames)) || time.Now().After(deadline) {
			break
		}
	}
	if _, ok := after[reason]; !ok {
		g.t.Fatalf("there is no counter %q", reason)
	}
	if got := after[reason] - before[reason]; got != uint64(len(frames)) {
		g.t.Errorf("%s: %d packets counted as %q, want %d; all that moved: %v", name, got, reason, len(frames), moved(before, after))
	}
}

func moved(before, after map[string]uint64) map[string]uint64 {
	m := map[string]uint64{}
	for k := range after {
		if after[k] != before[k] {
			m[k] = after[k] - before[k]
		}
	}
	return m
}

// arrivals takes what the taps have seen, by mark and tap: what came in, and what went out because of it.
func (g *guard) arrivals() map[string][]string {
	found := map[string][]string{}
	for name, tap := range g.taps {
		for _, c := range tap.receive(g.t) {
			if at := bytes.Index(c.frame, []byte("polder guard case")); at >= 0 && at+22 <= len(c.frame) {
				m := string(c.frame[at : at+22])
				found[m] = append(found[m], name)
			}
		}
	}
	return found
}

// nothingArrived wants no tap to have seen any frame of any case so far.
func (g *guard) nothingArrived() {
	g.t.Helper()
	time.Sleep(200 * time.Millisecond) // what is under way arrives
	for m, taps := range g.arrivals() {
		g.t.Errorf("%s: seen at %v", g.marks[m], taps)
	}
}

// datagram is a frame of pod one's with a marked UDP datagram.
func (g *guard) datagram(from mac, src, dst netip.Addr, m []byte) []byte {
	return ipFrame(gatewayMAC(), from, ip(src, dst, protoUDP, header{}, udp(src, dst, 5000, 5001, m)))
}

// targets are one address each of everything that could be deceived.
func (g *guard) targets(ipv4 bool) []netip.Addr {
	i := 1
	if ipv4 {
		i = 0
	}
	return []netip.Addr{g.two.Addresses[i], g.native.Addresses[i], g.tunnelled.Addresses[i],
		g.near.Cluster().Addresses[i], g.neighbour.Cluster().Addresses[i], g.far.Cluster().Addresses[i]}
}

func TestAPodCannotPassForAnother(t *testing.T) {
	w := newWorld(t)
	g := newGuard(t, w)
	own := g.out.mac()
	a4, a6 := w.one.Addresses[0], w.one.Addresses[1]
	addr := netip.MustParseAddr

	// The taps see what is there to be seen.
	for _, ipv4 := range []bool{true, false} {
		src := map[bool]netip.Addr{true: a4, false: a6}[ipv4]
		for i, dst := range g.targets(ipv4) {
			m := g.mark("honest datagram to " + dst.String())
			g.out.send(t, g.datagram(own, src, dst, m))
			if i == 3 {
				continue // to its own node: no tap but the sender's is on the way
			}
			eventually(t, 10*time.Second, "an honest datagram arrives at "+dst.String(), func() error {
				if len(g.arrivals()[string(m)]) == 0 {
					return fmt.Errorf("no tap has seen it")
				}
				return nil
			})
		}
	}

	t.Run("by its source address", func(t *testing.T) {
		g.t = t
		spoofed := append(g.targets(true), addr("127.0.0.1"), addr("0.0.0.0"), addr("0.1.2.3"), addr("224.0.0.1"),
			addr("255.255.255.255"), addr("8.8.8.8"), addr("10.96.0.1"), addr("10.244.1.0"), addr("169.254.1.1"))
		spoofed = append(spoofed, g.targets(false)...)
		spoofed = append(spoofed, addr("::"), addr("::1"), addr("ff02::1"), addr("2001:db8::1"), addr("fe80::1"),
			addr("fe80::1234"), addr("fd00:244:0:1::ffff"))
		for _, src := range spoofed {
			var frames [][]byte
			name := "source " + src.String()
			m := g.mark(name)
			for _, dst := range g.targets(src.Is4()) {
				frames = append(frames, g.datagram(own, src, dst, m))
			}
			g.refused(name, g.out, w.near, "drop spoofed source", frames...)
		}
		mapped := netip.AddrFrom16(a4.As16()) // of IPv6's form
		name := "its own address as IPv4-mapped"
		m := g.mark(name)
		g.refused(name, g.out, w.near, "drop malformed", ipFrame(gatewayMAC(), own,
			ip(mapped, a6, protoUDP, header{}, udp(mapped, a6, 5000, 5001, m))))
		g.nothingArrived()
	})
	t.Run("by a fragment, an extension header or a VLAN tag before the spoofed address", func(t *testing.T) {
		g.t = t
		for i, src := range []netip.Addr{w.two.Addresses[0], w.two.Addresses[1]} {
			dst := w.native.Addresses[i]
			name := "fragment from " + src.String()
			m := g.mark(name)
			g.refused(name, g.out, w.near, "drop spoofed source",
				ipFrame(gatewayMAC(), own, ip(src, dst, protoUDP, header{more: true, id: 1}, append(udp(src, dst, 1, 2, m), 0, 0))),
				ipFrame(gatewayMAC(), own, ip(src, dst, protoUDP, header{offset: 32, id: 1}, m)))
			name = "VLAN tag before " + src.String()
			m = g.mark(name)
			plain := g.datagram(own, src, dst, m)
			tagged := append(append(append([]byte{}, plain[:12]...), 0x81, 0, 0, 5), plain[12:]...)
			g.refused(name, g.out, w.near, "drop spoofed source", tagged)
		}
		g.nothingArrived()
	})
	t.Run("by its MAC address", func(t *testing.T) {
		g.t = t
		for i, a := range []netip.Addr{a4, a6} {
			for _, from := range []mac{openRaw(t, w.two.Place, "eth0").mac(), gatewayMAC(), {2, 0, 0, 0, 0, 9}} {
				name := fmt.Sprintf("MAC address %x and source %s", from, a)
				m := g.mark(name)
				g.refused(name, g.out, w.near, "drop spoofed mac",
					g.datagram(from, a, w.two.Addresses[i], m), g.datagram(from, a, w.native.Addresses[i], m))
			}
		}
		g.nothingArrived()
	})
	t.Run("by ARP", func(t *testing.T) {
		g.t = t
		other, everyone := mac{2, 0, 0, 0, 0, 9}, mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		two, gateway := w.two.Addresses[0], addr("169.254.1.1")
		for _, c := range []struct {
			name  string
			from  mac
			frame []byte
		}{
			{"gratuitous request for its own address", own, arp(1, own, a4, mac{}, a4)},
			{"gratuitous request for another's", own, arp(1, own, two, mac{}, two)},
			{"gratuitous answer for another's", own, arp(2, own, two, own, two)},
			{"answer for another's", own, arp(2, own, two, gatewayMAC(), gateway)},
			{"answer for the gateway", own, arp(2, own, gateway, mac{}, two)},
			{"answer for its node", own, arp(2, own, w.near.Cluster().Addresses[0], mac{}, two)},
			{"request with another's MAC address", own, arp(1, other, a4, mac{}, two)},
			{"request from another's MAC address", other, arp(1, other, a4, mac{}, two)},
			{"probe for another's address", own, arp(1, own, addr("0.0.0.0"), mac{}, two)},
		} {
			m := g.mark(c.name)
			g.refused(c.name, g.out, w.near, "drop spoofed neighbour",
				ether(everyone, c.from, etherARP, append(c.frame, m...)), ether(gatewayMAC(), c.from, etherARP, append(c.frame, m...)))
		}
		g.nothingArrived()
	})
	t.Run("by neighbour discovery", func(t *testing.T) {
		g.t = t
		g.neighbourDiscovery(t, own, a6)
		g.nothingArrived()
	})
	t.Run("by anything that is not IP", func(t *testing.T) {
		g.t = t
		for _, kind := range []uint16{0x88cc, 0x8847, 0x22f0, 0x0004} {
			name := fmt.Sprintf("frame of type %#x", kind)
			g.refused(name, g.out, w.near, "drop not ip", ether(gatewayMAC(), own, kind, append(g.mark(name), make([]byte, 40)...)))
		}
		name := "two VLAN tags"
		inner := append([]byte{0, 5, 0x08, 0}, g.datagram(own, a4, w.two.Addresses[0], g.mark(name))[14:]...)
		g.refused(name, g.out, w.near, "drop not ip", ether(gatewayMAC(), own, etherVLAN, append([]byte{0, 6, 0x81, 0}, inner...)))
		g.nothingArrived()
	})
	t.Run("to where no packet goes", func(t *testing.T) {
		g.t = t
		for _, dst := range []string{"127.0.0.1", "0.0.0.0", "0.1.2.3", "::1", "fe80::1", "fe80::5"} {
			src := map[bool]netip.Addr{true: a4, false: a6}[addr(dst).Is4()]
			name := "to " + dst
			g.refused(name, g.out, w.near, "drop bad destination", g.datagram(own, src, addr(dst), g.mark(name)))
		}
		g.nothingArrived()
	})
	t.Run("and what it did changed no neighbour entry", func(t *testing.T) {
		w.settled(t)
		if err := echoes(w.two.Place, w.two.Addresses[0], w.native.Addresses[0], echoServer(t, w.native)); err != nil {
			t.Error(err)
		}
		if r := reportOf(t, w.near); len(r.Repairs) > 0 {
			t.Errorf("the agent had to repair: %v", r.Repairs)
		}
	})
}

// neighbourDiscovery sends what could make the node or another pod believe something of somebody else.
func (g *guard) neighbourDiscovery(t *testing.T, own mac, a6 netip.Addr) {
	t.Helper()
	link, gateway, all := netip.MustParseAddr("fe80::1234"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("ff02::1")
	two := g.two.Addresses[1]
	target := func(a netip.Addr, m []byte) []byte { // reserved, target, and the mark as an option of an unknown type
		option := append([]byte{200, 3}, m...)
		return append(append(make([]byte, 4), a.AsSlice()...), option[:24]...)
	}
	message := func(src, dst netip.Addr, kind byte, body []byte) []byte {
		return ipFrame(mac{0x33, 0x33, 0, 0, 0, 1}, own, ip(src, dst, protoICMP6, header{ttl: 255}, icmp(src, dst, kind, 0, body)))
	}
	advertisement := func(m []byte) []byte { // RFC 4861, 4.2, with a prefix to believe in
		b := append([]byte{64, 0, 0xff, 0xff}, make([]byte, 8)...)
		b = append(b, 3, 4, 64, 0xc0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0)
		b = append(b, netip.MustParseAddr("2001:db8:bad::").AsSlice()...)
		return append(b, append([]byte{200, 3}, m...)[:24]...)
	}
	for _, c := range []struct {
		name, reason string
		src, dst     netip.Addr
		kind         byte
		body         func([]byte) []byte
	}{
		{"router advertisement", "drop router advertisement", link, all, 134, advertisement},
		{"router advertisement from its address", "drop router advertisement", a6, all, 134, advertisement},
		{"router advertisement to a pod", "drop router advertisement", a6, two, 134, advertisement},
		{"router advertisement from the gateway", "drop spoofed neighbour", gateway, all, 134, advertisement},
		{"redirect", "drop router advertisement", link, a6, 137, func(m []byte) []byte { return target(two, m) }},
		{"advertisement of another's address", "drop spoofed neighbour", link, all, 136, func(m []byte) []byte { return target(two, m) }},
		{"advertisement of the gateway", "drop spoofed neighbour", link, all, 136, func(m []byte) []byte { return target(gateway, m) }},
		{"advertisement of another's from its own", "drop spoofed neighbour", a6, all, 136, func(m []byte) []byte { return target(two, m) }},
		{"advertisement from another's address", "drop spoofed source", two, all, 136, func(m []byte) []byte { return target(two, m) }},
		{"question from another's address", "drop spoofed source", two, all, 135, func(m []byte) []byte { return target(gateway, m) }},
	} {
		g.refused(c.name, g.out, g.near, c.reason, message(c.src, c.dst, c.kind, c.body(g.mark(c.name))))
	}
	// Behind an extension header that has six bytes of padding.
	name := "router advertisement behind an extension header"
	body := icmp(link, all, 134, 0, advertisement(g.mark(name)))
	behind := append([]byte{protoICMP6, 0, 1, 4, 0, 0, 0, 0}, body...)
	g.refused(name, g.out, g.near, "drop router advertisement",
		ipFrame(mac{0x33, 0x33, 0, 0, 0, 1}, own, ip(link, all, protoOptions, header{ttl: 255}, behind)))
	// In a fragment, where nobody can see what it is (RFC 6980).
	name = "router advertisement in fragments"
	body = icmp(link, gateway, 134, 0, advertisement(g.mark(name)))
	g.refused(name, g.out, g.near, "drop spoofed source",
		ipFrame(gatewayMAC(), own, ip(link, gateway, protoICMP6, header{ttl: 255, more: true, id: 7}, body[:48])),
		ipFrame(gatewayMAC(), own, ip(link, gateway, protoICMP6, header{ttl: 255, offset: 48, id: 7}, body[48:])))
}
