package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/service"
)

// about is an ICMP error of a kind, from an address, about a packet as its sender saw it.
func (f family) about(from, fromTo, to string, quoteLen int) frame {
	quoted := f.packet(fromTo, to, func(fr *frame) { fr.ttl = 9 }).bytes()[14:]
	header := []byte{3, 4, 0, 0, 0, 0, 1280 >> 8, 1280 & 0xff} // fragmentation needed
	proto := byte(protoICMP)
	if !f.ipv4 {
		header, proto = []byte{2, 0, 0, 0, 0, 0, 1280 >> 8, 1280 & 0xff}, protoICMP6 // packet too big
	}
	head := len(quoted) - len(f.packet(fromTo, to).l4)
	dst := f.at(fromTo).Addr()
	fr := frame{from: macOf(f.addr(from)), to: hostMAC, src: f.addr(from).String(), dst: dst.String(), proto: proto,
		l4: append(header, quoted[:min(len(quoted), head+quoteLen)]...)}
	fr.sum()
	return fr
}

// says checks an error's outside, and whose packet it quotes.
func (s seen) says(t *testing.T, f family, src, dst, quotedSrc, quotedDst string) {
	t.Helper()
	if s.src.Addr() != f.addr(src) || s.dst.Addr() != f.addr(dst) {
		t.Fatalf("the error goes from %v to %v, want %v to %v", s.src.Addr(), s.dst.Addr(), f.addr(src), f.addr(dst))
	}
	q := s.quote(t)
	q.goes(t, f, quotedSrc, quotedDst)
	if f.ipv4 {
		if sum := checksum(s.l4[8:28]); sum != 0 {
			t.Fatalf("the quoted header's checksum is wrong by %#x", sum)
		}
	}
	if got := binary.BigEndian.Uint16(s.l4[6:]); got != 1280 {
		t.Fatalf("the MTU is %d", got)
	}
}

func TestErrorsAboutTranslatedFlowsComeToWhoKnowsTheFlow(t *testing.T) {
	inEveryFamily(t, func(t *testing.T, f family) {
		for _, quoteLen := range []int{8, 1000} {
			for _, settled := range []bool{false, true} {
				t.Run(fmt.Sprint(quoteLen, settled), func(t *testing.T) {
					d := servedOf(t)
					if settled {
						settle(t, d, f, "10.0.1.2:5", "10.96.0.1:80")
					} else {
						begin(t, d, f, "10.0.1.2:5", "10.96.0.1:80")
					}
					s := pass(t, d, desired.FromPod, f.about("10.0.1.3", "10.0.1.2:5", "10.0.1.3:8080", quoteLen), "to pod")
					s.says(t, f, "10.96.0.1", "10.0.1.2", "10.0.1.2:5", "10.96.0.1:80") // the backend's, to the client
					s = pass(t, d, desired.FromNetwork, f.about("192.0.2.2", "10.0.1.2:5", "10.0.1.3:8080", quoteLen), "to pod")
					s.says(t, f, "192.0.2.2", "10.0.1.2", "10.0.1.2:5", "10.96.0.1:80") // a router's, to the client
					s = pass(t, d, desired.ToPod, f.about("192.0.2.1", "10.0.1.2:5", "10.0.1.3:8080", quoteLen), "")
					s.says(t, f, "192.0.2.1", "10.0.1.2", "10.0.1.2:5", "10.96.0.1:80") // this node's, through its stack
					s = pass(t, d, desired.FromPod, f.about("10.0.1.2", "10.96.0.1:80", "10.0.1.2:5", quoteLen), "to pod")
					s.says(t, f, "10.0.1.2", "10.0.1.3", "10.0.1.3:8080", "10.0.1.2:5") // the client's, to the backend

					pass(t, d, desired.FromNetwork, f.packet("198.51.100.7:5", "203.0.113.1:80"), "to pod")
					s = pass(t, d, desired.FromNetwork, f.about("198.51.100.1", "203.0.113.1:80", "198.51.100.7:5", quoteLen), "to pod")
					s.says(t, f, "198.51.100.1", "10.0.1.3", "10.0.1.3:8080", "198.51.100.7:5") // a router's, to the backend
				})
			}
		}
	})
}

func TestAnErrorAboutAFlowThatThereIsNotIsLeftAsItIs(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		begin(t, d, f, "10.0.1.2:5", "10.96.0.1:80")
		s := pass(t, d, desired.FromPod, f.about("10.0.1.3", "10.0.1.2:6", "10.0.1.3:8080", 8), "to pod")
		s.says(t, f, "10.0.1.3", "10.0.1.2", "10.0.1.2:6", "10.0.1.3:8080")
		pass(t, d, desired.FromPod, f.about("10.0.1.2", "10.96.0.1:80", "10.0.1.2:6", 8), "drop no backend")
	})
}

func TestAnErrorAboutAFlowThatAnotherNodeServesIsHandedOver(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		pass(t, d, desired.FromNetwork, f.packet("198.51.100.7:5", "203.0.113.6:80"), "to tunnel")
		s := pass(t, d, desired.FromNetwork, f.about("198.51.100.1", "203.0.113.6:80", "198.51.100.7:5", 8), "to tunnel")
		s.says(t, f, "198.51.100.1", "203.0.113.6", "203.0.113.6:80", "198.51.100.7:5")
		if s.mac[7] != 'h' {
			t.Fatalf("MAC addresses % x", s.mac)
		}
	})
}

// parts cuts an IPv4 or IPv6 packet in two fragments.
func (f family) parts(from, to string, id uint16) []frame {
	whole := f.packet(from, to, func(fr *frame) {
		if f.protocol == cluster.UDP {
			fr.l4 = datagram(f.at(from).Port(), f.at(to).Port(), string(make([]byte, 40)))
		} else {
			fr.l4 = append(fr.l4, make([]byte, 28)...)
		}
	})
	cut := func(part []byte, offset int, more bool) frame {
		p := whole
		p.l4 = part
		if f.ipv4 {
			p.fragment, p.id = uint16(offset/8), id
			if more {
				p.fragment |= 0x2000
			}
			return p
		}
		h := []byte{p.proto, 0, byte(offset >> 8), byte(offset), 0, 0, byte(id >> 8), byte(id)}
		if more {
			h[3] |= 1
		}
		p.extension, p.firstNext = h, 44
		return p
	}
	return []frame{cut(whole.l4[:24], 0, true), cut(whole.l4[24:], 24, false)}
}

func TestFragmentsFollowTheFirstOne(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		check := func(in desired.Program, from, to, wantFrom, wantTo string, id uint16) {
			t.Helper()
			var l4 []byte
			parts := f.parts(from, to, id)
			for i, part := range parts {
				s := pass(t, d, in, part, "to pod")
				if s.src.Addr() != f.at(wantFrom).Addr() || s.dst.Addr() != f.at(wantTo).Addr() || s.later != (i > 0) {
					t.Fatalf("part %d goes from %v to %v", i, s.src, s.dst)
				}
				l4 = append(l4, s.l4...)
			}
			src, dst := f.at(wantFrom), f.at(wantTo)
			if got := binary.BigEndian.Uint16(l4); got != src.Port() || binary.BigEndian.Uint16(l4[2:]) != dst.Port() {
				t.Fatalf("ports % x", l4[:4])
			}
			if sum := l4Sum(src.Addr(), dst.Addr(), byte(f.protocol), l4); sum != 0 {
				t.Fatalf("the whole's checksum is wrong by %#x", sum)
			}
		}
		check(desired.FromPod, "10.0.1.2:5", "10.96.0.1:80", "10.0.1.2:5", "10.0.1.3:8080", 1)
		check(desired.FromPod, "10.0.1.3:8080", "10.0.1.2:5", "10.96.0.1:80", "10.0.1.2:5", 2)
		check(desired.FromNetwork, "198.51.100.7:5", "203.0.113.1:80", "198.51.100.7:5", "10.0.1.3:8080", 3)

		for _, dst := range []string{"10.96.0.1:80", "10.96.0.10:80"} { // one that has flows, and one that has none
			pass(t, d, desired.FromPod, f.parts("10.0.1.2:5", dst, 4)[1], "drop fragment")
		}
		pass(t, d, desired.FromPod, f.parts("10.0.1.2:5", "10.96.0.6:80", 5)[0], "drop no backend")
		pass(t, d, desired.FromPod, f.parts("10.0.1.2:5", "10.0.2.7:80", 6)[1], "to stack") // no Service's
		tiny := f.parts("10.0.1.2:5", "10.96.0.1:80", 7)[0]
		tiny.l4 = tiny.l4[:2]
		pass(t, d, desired.FromPod, tiny, "drop fragment")
	})
}

func TestOptionsAndTheLastHopAreTheStacksBusinessAfterTranslation(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		odd := []func(*frame){func(fr *frame) { fr.ttl = 1 }}
		if f.ipv4 {
			odd = append(odd, func(fr *frame) { fr.options = true })
		} else {
			odd = append(odd, func(fr *frame) {
				fr.extension, fr.firstNext = slices.Concat(extension(60), extension(fr.proto)), 0
			})
		}
		for _, o := range odd {
			pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.1:80", o), "to stack").goes(t, f, "10.0.1.2:5", "10.0.1.3:8080")
			pass(t, d, desired.FromPod, f.packet("10.0.1.3:8080", "10.0.1.2:5", o, flags(tcpACK)), "to stack").goes(t, f, "10.0.1.3:8080", "10.0.1.2:5")
			if f.protocol == cluster.TCP {
				pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.6:80", o), "refused").goes(t, f, "10.96.0.6:80", "10.0.1.2:5")
			}
		}
		s := pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.1:80", func(fr *frame) { fr.ttl = 9 }), "to pod")
		if s.ttl != 8 || s.mac != [12]byte(append(append([]byte{}, peerMAC[:]...), hostMAC[:]...)) {
			t.Fatalf("TTL %d, MAC addresses % x", s.ttl, s.mac)
		}
	})
}

func TestADatagramWithoutAChecksumStaysWithoutOne(t *testing.T) {
	d := servedOf(t)
	f := family{true, cluster.UDP}
	p := f.packet("10.0.1.2:5", "10.96.0.1:80")
	p.l4[6], p.l4[7] = 0, 0
	v, err := d.Run(desired.FromPod, lo, p.bytes()) // nobody asks for a sum of it
	if err != nil || v.Outcome != "to pod" {
		t.Fatal(v.Outcome, err)
	}
	s, err := read(v.Packet)
	if err != nil {
		t.Fatal(err)
	}
	s.goes(t, f, "10.0.1.2:5", "10.0.1.3:8080")
	if s.l4[6] != 0 || s.l4[7] != 0 {
		t.Fatalf("checksum % x", s.l4[6:8])
	}
}

// A datagram's checksum that comes to zero is sent as ones: zero says that there is none.
func TestNoChecksumBecomesNone(t *testing.T) {
	d := servedOf(t)
	for _, ipv4 := range []bool{true, false} {
		f := family{ipv4, cluster.UDP}
		for i := range 1 << 16 {
			p := f.packet("10.0.1.2:5", "10.96.0.1:80", func(fr *frame) {
				binary.BigEndian.PutUint16(fr.l4[8:], uint16(i))
			})
			after := p
			after.src, after.dst = f.addr("10.0.1.2").String(), f.addr("10.0.1.3").String()
			after.l4 = slices.Clone(p.l4)
			binary.BigEndian.PutUint16(after.l4[2:], 8080)
			after.l4[6], after.l4[7] = 0, 0
			if l4Sum(netip.MustParseAddr(after.src), netip.MustParseAddr(after.dst), protoUDP, after.l4) != 0 {
				continue
			}
			s := pass(t, d, desired.FromPod, p, "to pod")
			if got := binary.BigEndian.Uint16(s.l4[6:]); got != 0xffff {
				t.Fatalf("checksum %#x", got)
			}
			return
		}
	}
}

func TestAPingToAServiceGoesNowhere(t *testing.T) {
	d := servedOf(t)
	for dst, want := range map[string]string{"10.96.0.1": "drop no backend", "10.96.0.99": "drop no such service"} {
		p := frame{from: podMAC, to: hostMAC, src: "10.0.1.2", dst: dst, proto: protoICMP, l4: icmp(8)}
		pass(t, d, desired.FromPod, p, want)
	}
}

// Cut off anywhere, a packet is dropped or left to the stack; where it is delivered it had what the datapath looked at.
func TestATruncatedPacketToAServiceIsNeverMisdelivered(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		settle(t, d, f, "10.0.1.2:5", "10.96.0.1:80")
		for _, whole := range []frame{
			f.packet("10.0.1.2:5", "10.96.0.1:80", flags(tcpACK)), f.packet("10.0.1.2:6", "10.96.0.1:80"), f.packet("10.0.1.2:5", "10.96.0.6:80"),
			f.packet("10.0.1.3:8080", "10.0.1.2:5", flags(tcpACK)), f.about("10.0.1.3", "10.0.1.2:5", "10.0.1.3:8080", 100),
			f.about("10.0.1.2", "10.96.0.1:80", "10.0.1.2:5", 100), f.parts("10.0.1.2:5", "10.96.0.1:80", 9)[0],
		} {
			b := whole.bytes()
			for n := 14; n < len(b); n++ {
				for _, p := range []desired.Program{desired.FromPod, desired.ToPod, desired.FromNetwork, desired.ToNetwork} {
					v, err := d.Run(p, lo, b[:n])
					if err != nil || v.Outcome != "to pod" {
						continue
					}
					s, err := readIP(v.Packet[14:])
					if err != nil || s.dst.Addr() != f.addr("10.0.1.2") && s.dst.Addr() != f.addr("10.0.1.3") {
						t.Fatalf("%s, %d bytes of %d: %+v, %v", p, n, len(b), s, err)
					}
				}
			}
		}
	})
}

func TestPortsOfOneNumberAreTwoByTheirProtocol(t *testing.T) {
	d := servedOf(t)
	tcp, udp := family{true, cluster.TCP}, family{true, cluster.UDP}
	one := tcp.port("two", "10.96.0.40:80", service.ClusterIP, "10.0.1.3:8080")
	other := udp.port("two", "10.96.0.40:80", service.ClusterIP, "10.0.1.3:9090")
	if err := d.SyncServices(portsOf(one, other), now()); err != nil {
		t.Fatal(err)
	}
	pass(t, d, desired.FromPod, tcp.packet("10.0.1.2:5", "10.96.0.40:80"), "to pod").goes(t, tcp, "10.0.1.2:5", "10.0.1.3:8080")
	pass(t, d, desired.FromPod, udp.packet("10.0.1.2:5", "10.96.0.40:80"), "to pod").goes(t, udp, "10.0.1.2:5", "10.0.1.3:9090")
}
