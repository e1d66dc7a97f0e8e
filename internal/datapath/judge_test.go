package datapath

import (
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
)

const (
	toEgress  = "drop egress denied"
	toIngress = "drop ingress denied"

	closed = 1 // the ruleset that lets nothing pass
)

func TestNothingIsRememberedOfPodsThatNobodyIsolates(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.pod("10.0.1.2:5", "10.0.1.3:80", "to pod")
		c.pod("10.0.1.3:80", "10.0.1.2:5", "to pod", flags(tcpSYN|tcpACK))
		c.net("10.0.2.7:5", "10.0.1.3:80", "to pod")
		c.leave(lo, "10.0.2.7:5", "10.0.1.3:80", "")
		c.remembered(0, 0)
	})
}

func TestAPolicyOfNobodysIsNotAsked(t *testing.T) {
	off := func(w *desired.Tables) { w.Config.Policies = false }
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.3", closed, closed)
		c.pod("10.0.1.2:5", "10.0.1.3:80", "to pod")
		c.net("10.0.2.7:5", "10.0.1.3:80", "to pod")
		c.pod("10.0.1.3:5", "10.0.2.7:80", "to native")
		c.leave(lo, "10.0.2.7:5", "10.0.1.3:80", "")
	}, off)
}

func TestAClosedPodHearsItsNodeAndItself(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.3", closed, closed)
		c.pod("10.0.1.2:5", "10.0.1.3:80", toIngress)
		c.net("10.0.2.7:5", "10.0.1.3:80", toIngress)
		c.net("198.51.100.7:5", "10.0.1.3:80", toIngress)
		c.net("192.0.2.2:5", "10.0.1.3:80", toIngress) // another node
		c.leave(c.a, "10.0.1.2:5", "10.0.1.3:80", toIngress)
		c.pod("10.0.1.3:5", "10.0.1.2:80", toEgress)
		c.pod("10.0.1.3:5", "10.0.2.7:80", toEgress)
		c.pod("10.0.1.3:5", "198.51.100.7:80", toEgress)
		c.pod("10.0.1.3:5", "192.0.2.2:80", toEgress)
		c.remembered(0, 0)

		c.leave(0, "192.0.2.1:5", "10.0.1.3:80", "")
		c.leave(c.b, "10.0.1.3:5", "10.0.1.3:80", "") // through a Service of another's
		c.pod("10.0.1.3:80", "192.0.2.1:5", "to stack", flags(tcpSYN|tcpACK))
		c.pod("10.0.1.3:7", "192.0.2.1:10250", "to stack")
		c.pod("10.0.1.3:5", "10.0.1.3:80", "to pod")
	})
}

// What a pod begins at its own node is judged, for a cluster's policy may forbid it. What it answers is not.
func TestAPodAnswersItsNodeWhateverItMayBeginThere(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.3", closed, 7)
		c.class("192.0.2.1", 70)
		c.row(7, 70, 0, all(0))
		c.row(7, 0, 0, all(letPass))
		c.pod("10.0.1.3:7", "192.0.2.1:10250", toEgress)
		c.remembered(0, 0)

		c.leave(0, "192.0.2.1:5", "10.0.1.3:80", "")
		c.pod("10.0.1.3:80", "192.0.2.1:5", "to stack", flags(tcpSYN|tcpACK))
		c.leave(0, "192.0.2.1:5", "10.0.1.3:80", "", flags(tcpACK))
		c.pod("10.0.1.3:80", "192.0.2.1:5", "to stack", flags(tcpACK))
		c.remembered(1, 0)
		if c.f.protocol == cluster.TCP {
			c.pod("10.0.1.3:81", "192.0.2.1:6", "to stack", flags(tcpACK)) // of a connection from before it was isolated
		}
		c.runIn(desired.ToPod, c.b, 0, c.ping("192.0.2.1", "10.0.1.3", false, 3).bytes())
		c.expect(desired.FromPod, c.b, 0, c.ping("10.0.1.3", "192.0.2.1", true, 3), "to stack")
		c.expect(desired.FromPod, c.b, 0, c.ping("10.0.1.3", "192.0.2.1", false, 4), toEgress)

		c.leave(0, "203.0.113.7:5", "10.0.1.3:80", "") // an address of the node that its object does not name
		c.row(7, 0, 0, all(0))
		c.pod("10.0.1.3:80", "203.0.113.7:5", "to stack", flags(tcpSYN|tcpACK))
		c.pod("10.0.1.3:7", "203.0.113.7:80", toEgress)

		c.row(7, 70, 0, all(letPass))
		c.pod("10.0.1.3:7", "192.0.2.1:10250", "to stack")
	})
}

func TestAClassPassesByItsPorts(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		proto := byte(c.f.protocol)
		c.isolate("10.0.1.3", 100, 200)
		c.row(100, 0, 0, all(7))
		c.row(100, 11, proto, only(80)...)
		c.row(100, 12, 0, all(letPass))
		c.row(200, 0, 0, all(7))
		c.row(200, 11, proto, span(0, 99, 1), span(100, 200, letPass), span(201, 65535, 1))
		c.class("10.0.1.2", 11)
		c.class("10.0.2.7", 12)
		c.block("198.51.100.0", 24, 56, 11)

		c.pod("10.0.1.2:5", "10.0.1.3:80", "to pod")
		c.pod("10.0.1.2:5", "10.0.1.3:81", toIngress)
		c.pod("10.0.1.2:5", "10.0.1.3:79", toIngress)
		c.net("10.0.2.7:6", "10.0.1.3:81", "to pod")
		c.net("10.0.2.8:5", "10.0.1.3:80", toIngress)
		c.net("198.51.100.9:5", "10.0.1.3:80", "to stack")
		c.net("198.51.100.9:5", "10.0.1.3:81", toIngress)

		for port, want := range map[string]string{":99": toEgress, ":100": "to pod", ":200": "to pod", ":201": toEgress} {
			c.pod("10.0.1.3:5", "10.0.1.2"+port, want)
		}
		c.pod("10.0.1.3:5", "198.51.100.9:150", "to stack")
		c.pod("10.0.1.3:5", "10.0.2.7:150", toEgress) // a class without rows is all others
	})
}

func TestARowOfMoreSpansThanOneValueHoldsGoesOn(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		var spans []bpfSpan
		for port := uint16(0); port < 2000; port += 10 { // every other ten are let pass
			spans = append(spans, span(port, port+9, uint32(port/10%2)<<31))
		}
		spans = append(spans, span(2000, 65535, letPass))
		c.isolate("10.0.1.3", 100, 0)
		c.row(100, 0, 0, spans...)
		for _, p := range []struct{ port, want string }{{"9", toIngress}, {"10", "to pod"}, {"59", "to pod"}, {"60", toIngress}, {"70", "to pod"},
			{"1989", toIngress}, {"1990", "to pod"}, {"2000", "to pod"}, {"65535", "to pod"}, {"0", toIngress}} {
			c.pod("10.0.1.2:5", "10.0.1.3:"+p.port, p.want)
		}
	})
}

// Rows that somebody took away must not let pass what they said no to.
func TestARowThatEndsTooSoonLetsNothingPass(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.3", 100, 0)
		c.row(100, 0, 0, all(letPass))
		c.row(100, 0, byte(c.f.protocol), span(0, 10, letPass))
		c.pod("10.0.1.2:5", "10.0.1.3:10", "to pod")
		c.pod("10.0.1.2:5", "10.0.1.3:11", toIngress)
		c.isolate("10.0.1.3", 101, 0)
		c.pod("10.0.1.2:5", "10.0.1.3:10", toIngress)
	})
}

func TestRowsOfAClassComeBeforeThoseOfAllOthersAndThoseOfAProtocolFirst(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		proto := byte(c.f.protocol)
		c.isolate("10.0.1.3", 100, 0)
		c.class("10.0.1.2", 11)
		check := func(want string) {
			t.Helper()
			c.pod("10.0.1.2:5", "10.0.1.3:80", want)
		}
		check(toIngress)
		c.row(100, 0, 0, all(letPass))
		check("to pod")
		c.row(100, 0, proto, all(1))
		check(toIngress)
		c.row(100, 11, 0, all(letPass))
		check("to pod")
		c.row(100, 11, proto, all(1))
		check(toIngress)
		c.row(100, 11, proto^1, all(letPass))
		check(toIngress)
	})
}

func TestTheLongestBlockCountsAndAnAddressOfItsOwnBeforeAllBlocks(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.3", 100, 0)
		c.row(100, 0, 0, all(1))
		c.row(100, 11, 0, all(letPass))
		c.row(100, 12, 0, all(2))
		c.block("198.51.100.0", 16, 32, 11)
		c.net("198.51.100.9:5", "10.0.1.3:80", "to stack")
		c.block("198.51.100.0", 24, 64, 12)
		c.net("198.51.100.9:5", "10.0.1.3:80", toIngress)
		c.class("198.51.100.9", 11)
		c.net("198.51.100.9:5", "10.0.1.3:80", "to stack")
		c.net("198.51.100.8:5", "10.0.1.3:80", toIngress)
	})
}

func TestBothEndsMustAgreeWhereBothAreHere(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.row(100, 0, 0, only(80)...)
		c.row(200, 0, 0, only(80)...)
		c.row(201, 0, 0, only(81)...)
		for _, x := range []struct {
			egress, ingress uint64
			want            string
		}{{0, 0, "to pod"}, {0, 100, "to pod"}, {200, 0, "to pod"}, {200, 100, "to pod"}, {201, 100, toEgress}, {201, 0, toEgress},
			{0, 201, toIngress}, {200, 201, toIngress}, {closed, 100, toEgress}, {200, closed, toIngress}} {
			c.isolate("10.0.1.2", 0, x.egress)
			c.isolate("10.0.1.3", x.ingress, 0)
			c.pod("10.0.1.2:5", "10.0.1.3:80", x.want)
		}
	})
}

// wayOf is how a packet goes, and what became of it before there were policies.
type wayOf struct {
	name           string
	client, server string
	there, back    func(court, string, string, string, ...func(*frame))
	out, in        string
}

func ways() []wayOf {
	pod, net := court.pod, court.net
	return []wayOf{
		{"both here", "10.0.1.2:40000", "10.0.1.3:80", pod, pod, "to pod", "to pod"},
		{"server elsewhere", "10.0.1.2:40000", "10.0.2.7:80", pod, net, "to native", "to pod"},
		{"server outside", "10.0.1.2:40000", "198.51.100.7:80", pod, net, "to stack", "to stack"},
		{"client elsewhere", "10.0.2.7:40000", "10.0.1.3:80", net, pod, "to pod", "to native"},
		{"client outside", "198.51.100.7:40000", "10.0.1.3:80", net, pod, "to stack", "to stack"},
	}
}

// opened isolates the ends that are here so that the client may ask, and nobody anything else.
func (c court) opened(w wayOf) {
	c.t.Helper()
	c.row(100, 0, 0, only(80)...)
	for at, rulesets := range map[string][2]uint64{w.client: {closed, 100}, w.server: {100, closed}} {
		if a := c.f.at(at).Addr(); c.link(a) != lo {
			e, _, _ := c.Endpoint(a)
			e.Ingress, e.Egress, e.Late = rulesets[0], rulesets[1], false
			if err := c.PutEndpoint(a, e); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	c.change()
}

func inEveryWay(t *testing.T, test func(court, wayOf)) {
	inCourt(t, func(t *testing.T, c court) {
		for _, w := range ways() {
			t.Run(w.name, func(t *testing.T) {
				c.t = t
				c.reset()
				c.opened(w)
				test(c, w)
			})
		}
	})
}

func denied(way string, c court, w wayOf) string {
	if way == "back" && c.link(c.f.at(w.server).Addr()) != lo || way == "there" && c.link(c.f.at(w.client).Addr()) != lo {
		return toEgress
	}
	return toIngress
}

func TestAnswersPassAndNothingElseDoes(t *testing.T) {
	inEveryWay(t, func(c court, w wayOf) {
		w.back(c, w.server, w.client, denied("back", c, w), flags(tcpSYN|tcpACK)) // to what nobody asked
		w.back(c, w.server, w.client, denied("back", c, w), flags(tcpACK))
		c.remembered(0, 0)
		w.there(c, w.client, w.server, w.out)
		c.remembered(0, 1)
		w.back(c, w.server, w.client, w.in, flags(tcpSYN|tcpACK))
		c.remembered(0, 1)
		w.there(c, w.client, w.server, w.out, flags(tcpACK))
		c.remembered(1, 0)
		for range 3 {
			w.there(c, w.client, w.server, w.out, flags(tcpACK))
			w.back(c, w.server, w.client, w.in, flags(tcpACK))
		}
		w.back(c, w.server, "10.0.1.2:40001", denied("back", c, w), flags(tcpACK))
		if c.f.protocol == cluster.TCP {
			w.back(c, w.server, w.client, denied("back", c, w)) // a SYN is no answer
		}
		c.remembered(1, 0)
	})
}

func TestANewDenialCutsWhatThereIsBothWays(t *testing.T) {
	inEveryWay(t, func(c court, w wayOf) {
		talk := func(out, in string) {
			c.t.Helper()
			w.there(c, w.client, w.server, out, flags(tcpACK))
			w.back(c, w.server, w.client, in, flags(tcpACK))
		}
		w.there(c, w.client, w.server, w.out)
		w.back(c, w.server, w.client, w.in, flags(tcpSYN|tcpACK))
		talk(w.out, w.in)
		c.row(100, 0, 0, all(1))
		no := denied("there", c, w)
		talk(no, no)
		c.row(100, 0, 0, only(80)...)
		talk(w.out, w.in) // and what may go on again does
	})
}

func TestASegmentOfAnUnknownConnectionPassesByTheRulesAndIsNotRemembered(t *testing.T) {
	inEveryWay(t, func(c court, w wayOf) {
		if c.f.protocol != cluster.TCP {
			return
		}
		w.there(c, w.client, w.server, w.out, flags(tcpACK))
		c.remembered(0, 0)
		w.back(c, w.server, w.client, denied("back", c, w), flags(tcpACK))
	})
}

// A pod that is isolated while it runs has connections that nobody has seen begin.
func TestAConnectionFromBeforeIsGuessedByItsPorts(t *testing.T) {
	inEveryWay(t, func(c court, w wayOf) {
		for _, at := range []string{w.client, w.server} {
			if e, ok, _ := c.Endpoint(c.f.at(at).Addr()); ok {
				e.Late = true
				if err := c.PutEndpoint(c.f.at(at).Addr(), e); err != nil {
					c.t.Fatal(err)
				}
			}
		}
		c.change()
		if c.f.protocol != cluster.TCP { // whoever speaks first asks
			w.back(c, w.server, w.client, denied("back", c, w))
			return
		}
		w.back(c, w.server, w.client, w.in, flags(tcpACK))
		c.remembered(0, 1)
		w.there(c, w.client, w.server, w.out, flags(tcpACK))
		c.remembered(1, 0)
		c.row(100, 0, 0, all(1)) // whom the rules keep from asking gets no answer
		w.back(c, w.server, w.client, denied("there", c, w), flags(tcpACK))
	})
}

func TestAVerdictOfAMomentAgoEndsWithTheTables(t *testing.T) {
	inEveryWay(t, func(c court, w wayOf) {
		w.there(c, w.client, w.server, w.out)
		w.back(c, w.server, w.client, w.in, flags(tcpSYN|tcpACK))
		w.there(c, w.client, w.server, w.out, flags(tcpACK))
		w.back(c, w.server, w.client, w.in, flags(tcpACK))
		key := bpfRuleKey{Ruleset: 100}
		if err := c.maps[bpfMapRules].Delete(key); err != nil { // what the programs are not told of
			c.t.Fatal(err)
		}
		c.change()
		w.there(c, w.client, w.server, denied("there", c, w), flags(tcpACK))
		w.back(c, w.server, w.client, denied("there", c, w), flags(tcpACK))
	})
}

func TestWhoIsDeniedIsToldToTheAgent(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.2", 0, 200)
		c.isolate("10.0.1.3", 100, closed)
		c.row(100, 0, 0, all(7))
		c.row(200, 0, 0, only(80)...)
		c.denials()
		c.pod("10.0.1.2:5", "10.0.1.3:80", toIngress)
		c.pod("10.0.1.2:5", "10.0.1.3:80", toIngress)
		c.pod("10.0.1.2:5", "10.0.1.3:90", toEgress)
		c.pod("10.0.1.3:5", "10.0.2.7:90", toEgress)
		tuple := func(from, to string) bpfTuple {
			a, b := c.f.at(from), c.f.at(to)
			return bpfTuple{Src: encodeAddr(a.Addr()), Dst: encodeAddr(b.Addr()), Sport: encodePort(a.Port()), Dport: encodePort(b.Port()), Proto: byte(c.f.protocol)}
		}
		in := bpfDenial{Tuple: tuple("10.0.1.2:5", "10.0.1.3:80"), Ruleset: 100, Decision: 7, Ifindex: uint32(c.b), Ingress: 1}
		want := []bpfDenial{in, in,
			{Tuple: tuple("10.0.1.2:5", "10.0.1.3:90"), Ruleset: 200, Decision: 1, Ifindex: uint32(c.a)},
			{Tuple: tuple("10.0.1.3:5", "10.0.2.7:90"), Ruleset: closed, Decision: 1<<31 - 1, Ifindex: uint32(c.b)}}
		got := c.denials()
		if len(got) != len(want) {
			t.Fatalf("%d of %d", len(got), len(want))
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("got  %+v\nwant %+v", got[i], want[i])
			}
			var n uint64
			key := bpfDeniedKey{Ruleset: want[i].Ruleset, Decision: want[i].Decision, Ifindex: want[i].Ifindex}
			if err := c.maps[bpfMapDenied].Lookup(key, &n); err != nil || n != map[bool]uint64{true: 2, false: 1}[i < 2] {
				t.Errorf("%+v: %d, %v", key, n, err)
			}
		}
	})
}

func TestFlowsPassThoughThereIsNoRoomToSettleThem(t *testing.T) {
	c := newCourt(t, openSized(t, map[string]uint32{"judged_flows": 1}))
	c.reset()
	c.isolate("10.0.1.3", 100, closed)
	c.row(100, 0, 0, only(80)...)
	for i, client := range []string{"10.0.1.2:5", "10.0.1.2:6"} {
		last := []string{"to pod", "drop judged fullto pod"}[i] // two counters
		c.pod(client, "10.0.1.3:80", "to pod")
		c.pod("10.0.1.3:80", client, "to pod", flags(tcpSYN|tcpACK))
		c.pod(client, "10.0.1.3:80", last, flags(tcpACK))
		c.pod("10.0.1.3:80", client, "to pod", flags(tcpACK))
	}
	c.remembered(1, 1)
}
