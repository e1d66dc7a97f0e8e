package datapath

import (
	"slices"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/desired"
)

// inFamilies is inCourt without a protocol of its own.
func inFamilies(t *testing.T, test func(*testing.T, court), change ...func(*desired.Tables)) {
	inCourt(t, func(t *testing.T, c court) {
		if c.f.protocol == protoUDP {
			test(t, c)
		}
	}, change...)
}

func TestAPingIsAskedAndAnsweredByItsNumber(t *testing.T) {
	inFamilies(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.2", closed, 200)
		c.row(200, 0, 0, all(letPass))
		ask, answer := c.ping("10.0.1.2", "10.0.2.7", false, 9), c.ping("10.0.2.7", "10.0.1.2", true, 9)
		c.expect(desired.FromNetwork, lo, 0, answer, toIngress)
		c.expect(desired.FromPod, c.a, 0, ask, "to native")
		c.remembered(0, 1)
		c.expect(desired.FromNetwork, lo, 0, answer, "to pod")
		c.expect(desired.FromNetwork, lo, 0, c.ping("10.0.2.7", "10.0.1.2", true, 8), toIngress)
		c.expect(desired.FromNetwork, lo, 0, c.ping("10.0.2.7", "10.0.1.2", false, 9), toIngress)
		c.expect(desired.FromNetwork, lo, 0, c.ping("10.0.2.8", "10.0.1.2", true, 9), toIngress)
		c.expect(desired.FromPod, c.a, 0, ask, "to native")
		c.remembered(1, 0)
		c.expect(desired.FromNetwork, lo, 0, answer, "to pod")

		c.isolate("10.0.1.2", closed, closed)
		c.expect(desired.FromPod, c.a, 0, ask, toEgress)
		c.denials()
		c.expect(desired.FromNetwork, lo, 0, answer, toEgress)
		d := c.denials()
		if len(d) != 1 || d[0].Tuple.Sport != encodePort(uint16(answer.l4[0])) || d[0].Tuple.Dport != 0 {
			t.Fatalf("%+v", d)
		}
	})
}

// A rule of ports says nothing of a protocol without; one of all protocols does.
func TestAPingPassesByTheRowOfAllProtocols(t *testing.T) {
	inFamilies(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.3", 100, 0)
		c.row(100, 0, 0, all(1))
		c.row(100, 0, protoUDP, all(letPass))
		ask := c.ping("10.0.1.2", "10.0.1.3", false, 9)
		c.expect(desired.FromPod, c.a, 0, ask, toIngress)
		c.row(100, 0, 0, all(letPass))
		c.expect(desired.FromPod, c.a, 0, ask, "to pod")
		c.expect(desired.FromPod, c.b, 0, c.ping("10.0.1.3", "10.0.1.2", true, 9), "to pod")
	})
}

func TestAPingInFragmentsIsOnePing(t *testing.T) {
	inFamilies(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.2", closed, 200)
		c.row(200, 0, 0, all(letPass))
		send := func(p desired.Program, link int, whole frame, want string) {
			t.Helper()
			for _, part := range halves(c.f, whole, 5) {
				c.expect(p, link, 0, part, want)
			}
		}
		answer := c.ping("10.0.2.7", "10.0.1.2", true, 9)
		send(desired.FromNetwork, lo, answer, toIngress)
		send(desired.FromPod, c.a, c.ping("10.0.1.2", "10.0.2.7", false, 9), "to stack")
		send(desired.FromNetwork, lo, answer, "to stack")
		send(desired.FromNetwork, lo, c.ping("10.0.2.7", "10.0.1.2", true, 8), toIngress)
	})
}

// halves cuts a packet in two fragments.
func halves(f family, whole frame, id uint16) (parts []frame) {
	for i, l4 := range [][]byte{whole.l4[:24], whole.l4[24:]} {
		p := whole
		p.l4 = slices.Clone(l4)
		if f.ipv4 {
			p.id, p.fragment = id, []uint16{0x2000, 3}[i]
		} else {
			p.extension, p.firstNext = []byte{whole.proto, 0, 0, []byte{1, 24}[i], 0, 0, 0, byte(id)}, 44
		}
		parts = append(parts, p)
	}
	return parts
}

func TestAnErrorAboutAKnownFlowPasses(t *testing.T) {
	inEveryWay(t, func(c court, w wayOf) {
		server := c.f.at(w.server)
		about := func(from, quotedFrom, quotedTo string) frame { return c.f.about(from, quotedFrom, quotedTo, 8) }
		send := func(f frame, from, want string) {
			c.t.Helper()
			p, link := c.hookOf(from)
			c.expect(p, link, 0, f, want)
		}
		toClient, toServer := about("192.0.2.2", w.client, w.server), about("192.0.2.2", w.server, w.client)
		local := func(s string) bool { return c.link(c.f.at(s).Addr()) != lo }
		if local(w.client) {
			send(toClient, "192.0.2.2", toIngress)
		}
		if local(w.server) {
			send(toServer, "192.0.2.2", toIngress)
		}
		w.there(c, w.client, w.server, w.out)
		if local(w.client) {
			send(toClient, "192.0.2.2", "to pod")
			other := about("192.0.2.2", w.client[:len(w.client)-1]+"1", w.server) // another port
			send(other, "192.0.2.2", toIngress)
		}
		if local(w.server) {
			send(toServer, "192.0.2.2", "to pod")
			answer := about(hostOf(w.server), w.client, w.server) // the server's own
			answer.from = macOf(server.Addr())
			send(answer, hostOf(w.server), w.in)
		}
		if local(w.client) && local(w.server) { // about somebody else's flow
			stray := about("192.0.2.2", w.client, w.server)
			stray.dst = c.f.addr("10.0.1.3").String()
			stray.sum()
			send(stray, "192.0.2.2", toIngress)
		}
	})
}

func hostOf(at string) string {
	host, _, _ := strings.Cut(at, ":")
	return host
}

func TestAnErrorAboutAPingPasses(t *testing.T) {
	inFamilies(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.2", closed, 200)
		c.row(200, 0, 0, all(letPass))
		ask := c.ping("10.0.1.2", "10.0.2.7", false, 9)
		kind, proto := byte(1), byte(protoICMP6)
		if c.f.ipv4 {
			kind, proto = 3, protoICMP
		}
		about := frame{src: c.f.addr("192.0.2.2").String(), dst: c.f.addr("10.0.1.2").String(), from: strange, to: hostMAC, proto: proto, l4: icmp(kind, ask.bytes()[14:]...)}
		c.expect(desired.FromNetwork, lo, 0, about, toIngress)
		c.expect(desired.FromPod, c.a, 0, ask, "to native")
		c.expect(desired.FromNetwork, lo, 0, about, "to pod")
	})
}

func TestNeighboursAreNoBusinessOfPolicies(t *testing.T) {
	inFamilies(t, func(t *testing.T, c court) {
		if c.f.ipv4 {
			return
		}
		c.isolate("10.0.1.2", closed, closed)
		ask := frame{src: "fd00:1::2", dst: "ff02::1:ff00:1", from: podMAC, to: hostMAC, proto: protoICMP6, ttl: 255, l4: nd(135, "fe80::1")}
		c.expect(desired.FromPod, c.a, 0, ask, "to stack")
		ask.src, ask.dst, ask.l4 = "fd00:1::3", "fd00:1::2", nd(135, "fd00:1::2")
		c.expect(desired.ToPod, c.a, c.b, ask, "")
		ask.ttl = 254 // it has been routed: it cannot be a neighbour's
		c.expect(desired.ToPod, c.a, c.b, ask, toIngress)
	})
}

// Cut off anywhere, a packet that may not pass does not.
func TestATruncatedPacketIsNeverLetPass(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.3", 100, 0)
		c.row(100, 0, 0, span(0, 0, 1), span(1, 65535, letPass))
		whole := c.f.packet("10.0.1.2:5", "10.0.1.3:0").bytes()
		for n := 14; n < len(whole); n++ {
			v, err := c.Run(desired.FromPod, lo, whole[:n])
			if err == nil && v.Outcome == "to pod" {
				t.Fatalf("%d bytes pass", n)
			}
		}
		about := c.f.about("10.0.1.2", "10.0.1.3:5", "10.0.1.2:80", 40).bytes()
		for n := 14; n < len(about); n++ {
			v, err := c.Run(desired.FromPod, lo, about[:n])
			if err == nil && v.Outcome == "to pod" {
				t.Fatalf("%d bytes of an error pass", n)
			}
		}
	})
}
