package datapath

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
)

func inEveryFamily(t *testing.T, test func(*testing.T, family)) {
	for _, f := range families() {
		t.Run(f.String(), func(t *testing.T) { test(t, f) })
	}
}

// question and answer are a client's first packet and what comes back.
func TestAPacketToAServiceComesToABackendAndItsAnswerBack(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		for i, c := range []struct {
			name             string
			in               desired.Program
			client, frontend string
			outcome          string // of the question
			asked, backend   string // what the backend sees of it
			back             desired.Program
			answer           string // its outcome
		}{
			{"pod to cluster IP, backend here", desired.FromPod, "10.0.1.2", "10.96.0.1:80", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to pod"},
			{"pod to cluster IP, backend on-link", desired.FromPod, "10.0.1.2", "10.96.0.2:80", "to native", "", "10.0.2.7:8080", desired.FromNetwork, "to pod"},
			{"pod to cluster IP, backend behind the tunnel", desired.FromPod, "10.0.1.2", "10.96.0.3:80", "to tunnel", "", "10.0.3.7:8080", "", ""},
			{"pod to cluster IP, backend outside", desired.FromPod, "10.0.1.2", "10.96.0.4:80", "to stack", "", "198.51.100.9:8080", desired.FromNetwork, "to pod"},
			{"pod to itself", desired.FromPod, "10.0.1.2", "10.96.0.5:80", "to pod", "10.96.0.5", "10.0.1.2:8080", desired.FromPod, "to pod"},
			{"pod to cluster IP, only this node", desired.FromPod, "10.0.1.2", "10.96.0.8:80", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to pod"},
			{"pod to its node's port", desired.FromPod, "10.0.1.2", "192.0.2.1:30080", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to pod"},
			{"pod to another node's port", desired.FromPod, "10.0.1.2", "192.0.2.2:30080", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to pod"},
			{"pod to node port with local policy, backend elsewhere", desired.FromPod, "10.0.1.2", "192.0.2.1:30082", "to native", "", "10.0.2.7:8080", desired.FromNetwork, "to pod"},
			{"pod to load balancer", desired.FromPod, "10.0.1.2", "203.0.113.1:80", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to pod"},
			{"pod to load balancer with local policy, backend elsewhere", desired.FromPod, "10.0.1.2", "203.0.113.2:80", "to native", "", "10.0.2.7:8080", desired.FromNetwork, "to pod"},
			{"pod to external IP", desired.FromPod, "10.0.1.2", "203.0.113.4:80", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to pod"},
			{"outside to node port", desired.FromNetwork, "198.51.100.7", "192.0.2.1:30080", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to fabric"},
			{"outside to node port with local policy", desired.FromNetwork, "198.51.100.7", "192.0.2.1:30083", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to fabric"},
			{"outside to load balancer", desired.FromNetwork, "198.51.100.7", "203.0.113.1:80", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to fabric"},
			{"outside to load balancer, within its source ranges", desired.FromNetwork, "198.51.100.7", "203.0.113.3:80", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to fabric"},
			{"outside to external IP", desired.FromNetwork, "198.51.100.7", "203.0.113.4:80", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to fabric"},
			{"outside to cluster IP", desired.FromNetwork, "198.51.100.7", "10.96.0.1:80", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to fabric"},
			{"outside to a backend that is no node's", desired.FromNetwork, "198.51.100.7", "203.0.113.7:80", "to stack", "192.0.2.1", "198.51.100.9:8080", desired.FromNetwork, "to fabric"},
			{"another node to node port", desired.FromNetwork, "192.0.2.2", "192.0.2.1:30080", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to fabric"},
			{"another node's pod to node port", desired.FromNetwork, "10.0.2.9", "192.0.2.1:30080", "to pod", "", "10.0.1.3:8080", desired.FromPod, "to native"},
		} {
			t.Run(c.name, func(t *testing.T) {
				port := ":" + string(rune('1'+i/10)) + string(rune('0'+i%10)) + "001"
				client, asked := c.client+port, c.client+port
				if c.asked != "" {
					asked = c.asked + port
				}
				s := pass(t, d, c.in, f.packet(client, c.frontend), c.outcome)
				s.goes(t, f, asked, c.backend)
				if c.back == "" {
					return
				}
				want := c.answer
				if want == "to fabric" {
					want = "to stack" // there are no routes in the test
				}
				s = pass(t, d, c.back, f.packet(c.backend, asked, flags(tcpSYN|tcpACK)), want)
				s.goes(t, f, c.frontend, client)
				s = pass(t, d, c.in, f.packet(client, c.frontend, flags(tcpACK)), c.outcome)
				s.goes(t, f, asked, c.backend)
			})
		}
	})
}

func TestWhoIsNotServed(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		for _, c := range []struct {
			name         string
			in           desired.Program
			client, dest string
			want         string
		}{
			{"nobody serves", desired.FromPod, "10.0.1.2:1", "10.96.0.6:80", "refused"},
			{"nobody serves, from outside", desired.FromNetwork, "198.51.100.7:1", "192.0.2.1:30081", "refused"},
			{"nobody serves, node port", desired.FromPod, "10.0.1.2:1", "192.0.2.1:30081", "refused"},
			{"nobody here serves, inside", desired.FromPod, "10.0.1.2:1", "10.96.0.7:80", "drop no local backend"},
			{"nobody here serves, outside", desired.FromNetwork, "198.51.100.7:1", "192.0.2.1:30082", "drop no local backend"},
			{"nobody here serves, outside, load balancer", desired.FromNetwork, "198.51.100.7:1", "203.0.113.2:80", "drop no local backend"},
			{"an address that no Service has", desired.FromPod, "10.0.1.2:1", "10.96.0.99:80", "drop no such service"},
			{"an address that no Service has, from outside", desired.FromNetwork, "198.51.100.7:1", "10.96.0.99:80", "drop no such service"},
			{"a port that the Service has not", desired.FromPod, "10.0.1.2:1", "10.96.0.1:81", "refused"},
			{"outside the source ranges", desired.FromNetwork, "192.0.2.9:1", "203.0.113.3:80", "drop source range"},
			{"a pod outside the source ranges", desired.FromPod, "10.0.1.2:1", "203.0.113.3:80", "drop source range"},
			{"no frontend: another port of the node", desired.FromPod, "10.0.1.2:1", "192.0.2.1:22", "to stack"},
			{"no frontend: a node port's number of a pod", desired.FromPod, "10.0.1.2:1", "10.0.1.3:30080", "to pod"},
			{"no frontend: a node port's number of somebody else", desired.FromPod, "10.0.1.2:1", "198.51.100.9:30080", "to stack"},
			{"no frontend: another port of a load balancer", desired.FromNetwork, "198.51.100.7:1", "203.0.113.1:81", "to stack"},
		} {
			t.Run(c.name, func(t *testing.T) {
				s := pass(t, d, c.in, f.packet(c.client, c.dest), c.want)
				if c.want == "to stack" || c.want == "to pod" {
					s.goes(t, f, c.client, c.dest)
				}
			})
		}
	})
}

func TestSCTPIsServed(t *testing.T) {
	for _, ipv4 := range []bool{true, false} {
		f := family{ipv4, cluster.SCTP}
		d := servedOf(t)
		p := f.port("sctp", "10.96.0.30:80", 0, "10.0.1.3:80")
		if err := d.SyncServices(portsOf(p), now()); err != nil {
			t.Fatal(err)
		}
		s := pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.30:80"), "to pod")
		s.goes(t, f, "10.0.1.2:5", "10.0.1.3:80")
		s = pass(t, d, desired.FromPod, f.packet("10.0.1.3:80", "10.0.1.2:5"), "to pod")
		s.goes(t, f, "10.96.0.30:80", "10.0.1.2:5")
	}
}

func TestARefusalIsWhatAHostWouldSay(t *testing.T) {
	d := servedOf(t)
	for _, ipv4 := range []bool{true, false} {
		tcp, udp := family{ipv4, cluster.TCP}, family{ipv4, cluster.UDP}
		t.Run(tcp.String(), func(t *testing.T) {
			s := pass(t, d, desired.FromPod, tcp.packet("10.0.1.2:5", "10.96.0.6:80"), "refused")
			s.goes(t, tcp, "10.96.0.6:80", "10.0.1.2:5")
			if set, seq, ack := s.l4[13], binary.BigEndian.Uint32(s.l4[4:]), binary.BigEndian.Uint32(s.l4[8:]); set != tcpRST|tcpACK || seq != 0 || ack != 1001 {
				t.Fatalf("to a SYN: flags %#x, sequence number %d, acknowledges %d", set, seq, ack)
			}
			if s.mac != [12]byte(append(append([]byte{}, podMAC[:]...), hostMAC[:]...)) {
				t.Fatalf("MAC addresses % x", s.mac)
			}
			late := func(f *frame) { f.l4 = segment(5, 80, tcpACK, 7000, 9000, "what was that?") }
			s = pass(t, d, desired.FromPod, tcp.packet("10.0.1.2:5", "10.96.0.1:80", late), "refused")
			if set, seq := s.l4[13], binary.BigEndian.Uint32(s.l4[4:]); set != tcpRST || seq != 9000 {
				t.Fatalf("to a segment of an unknown connection: flags %#x, sequence number %d", set, seq)
			}
			pass(t, d, desired.FromPod, tcp.packet("10.0.1.2:5", "10.96.0.6:80", flags(tcpRST)), "drop no backend")
		})
		for _, payload := range []string{"", "x", "a question", strings.Repeat("long ", 250)} {
			t.Run(fmt.Sprint(udp, len(payload)), func(t *testing.T) {
				ask := udp.packet("10.0.1.2:5", "10.96.0.6:80", func(f *frame) { f.l4 = datagram(5, 80, payload) })
				s := pass(t, d, desired.FromPod, ask, "refused")
				kind, code := byte(3), byte(3)
				if !ipv4 {
					kind, code = 1, 4
				}
				if s.l4[0] != kind || s.l4[1] != code || s.src.Addr() != udp.addr("10.96.0.6") || s.dst.Addr() != udp.addr("10.0.1.2") || s.ttl != 64 {
					t.Fatalf("%+v", s)
				}
				s.quote(t).goes(t, udp, "10.0.1.2:5", "10.96.0.6:80")
				if sent := ask.bytes(); !bytes.Equal(s.l4[8:], sent[14:14+len(s.l4)-8]) {
					t.Fatalf("quotes % x\nof     % x", s.l4[8:], sent[14:])
				}
			})
		}
	}
}

// One client port, two frontends, one backend: the backend must see two clients.
func TestTwoFlowsToOneBackendFromOnePortAreKeptApart(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		first := pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.1:80"), "to pod")
		second := pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.10:80"), "to pod")
		first.goes(t, f, "10.0.1.2:5", "10.0.1.3:8080")
		if second.src.Port() == 5 || second.src.Port() < 32768 || second.dst != first.dst {
			t.Fatalf("the second goes from %v to %v", second.src, second.dst)
		}
		again := pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.10:80", flags(tcpACK)), "to pod")
		if again.src != second.src {
			t.Fatalf("it changed its port from %v to %v", second.src, again.src)
		}
		s := pass(t, d, desired.FromPod, f.packet("10.0.1.3:8080", "10.0.1.2:5", flags(tcpSYN|tcpACK)), "to pod")
		s.goes(t, f, "10.96.0.1:80", "10.0.1.2:5")
		back := fmt.Sprint("10.0.1.2:", second.src.Port())
		s = pass(t, d, desired.FromPod, f.packet("10.0.1.3:8080", back, flags(tcpSYN|tcpACK)), "to pod")
		s.goes(t, f, "10.96.0.10:80", "10.0.1.2:5")
	})
}

// Every port that a client could get towards a backend is in use: whoever has one goes on, whoever needs one is told by
// its silence and a counter, and can have one as soon as one is free.
func TestWithoutAFreePortNewFlowsAreDroppedAndCounted(t *testing.T) {
	d := servedOf(t)
	f := family{true, cluster.TCP}
	settle(t, d, f, "10.0.1.2:5", "10.96.0.1:80")
	var answers []bpfTuple
	for port := 32768; port <= 65535; port++ {
		answers = append(answers, bpfTuple{Src: encodeAddr(netip.MustParseAddr("10.0.1.3")), Sport: encodePort(8080),
			Dst: encodeAddr(netip.MustParseAddr("10.0.1.2")), Dport: encodePort(uint16(port)), Proto: uint8(cluster.TCP)})
	}
	taken := bpfFlow{Flags: bpfFlowFlagsFLOW_REPLY, Used: nowTicks()}
	for _, a := range answers {
		if err := d.maps[bpfMapFlows].Put(a, taken); err != nil {
			t.Fatal(err)
		}
	}
	for range 20 {
		pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.10:80"), "drop flows full")
	}
	pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.1:80", flags(tcpACK)), "to pod").goes(t, f, "10.0.1.2:5", "10.0.1.3:8080")
	pass(t, d, desired.FromPod, f.packet("10.0.1.3:8080", "10.0.1.2:5", flags(tcpACK)), "to pod").goes(t, f, "10.96.0.1:80", "10.0.1.2:5")
	pass(t, d, desired.FromPod, f.packet("10.0.1.2:6", "10.96.0.10:80"), "to pod").goes(t, f, "10.0.1.2:6", "10.0.1.3:8080")
	for _, a := range answers {
		if err := d.maps[bpfMapFlows].Delete(a); err != nil {
			t.Fatal(err)
		}
	}
	if s := pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.10:80"), "to pod"); s.src.Port() < 32768 {
		t.Fatalf("it goes from %v", s.src)
	}
}

func TestAffinityKeepsAClientWithItsBackend(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		got := map[netip.AddrPort]bool{}
		for port := 1; port < 30; port++ {
			s := pass(t, d, desired.FromPod, f.packet(fmt.Sprint("10.0.1.2:", port), "10.96.0.9:80"), "to native")
			got[s.dst] = true
		}
		if len(got) != 1 {
			t.Fatalf("one client got %v", got)
		}
		last := f.ports()[f.port("sticky", "10.96.0.9:80", 0).Name]
		gone := *last
		gone.Cluster = nil
		for _, b := range last.Cluster {
			if !got[netip.AddrPortFrom(b.Addr, b.Port)] {
				gone.Cluster = append(gone.Cluster, b)
			}
		}
		if err := d.SyncServices(portsOf(&gone), now()); err != nil {
			t.Fatal(err)
		}
		s := pass(t, d, desired.FromPod, f.packet("10.0.1.2:99", "10.96.0.9:80"), "to native")
		if got[s.dst] {
			t.Fatal("a backend that is gone still gets its client")
		}
		again := pass(t, d, desired.FromPod, f.packet("10.0.1.2:100", "10.96.0.9:80"), "to native")
		if again.dst != s.dst {
			t.Fatal("it does not stay with the new one")
		}
	})
}

// Clients outside get a backend by their flow alone: the same on every node, whatever happened before.
func TestAllNodesChooseTheSameForAClientOutside(t *testing.T) {
	one, other := servedOf(t), servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		slots := map[string]bool{}
		for port := 1; port < 60; port++ {
			p := f.packet(fmt.Sprint("198.51.100.7:", port), "203.0.113.8:80")
			a, b := pass(t, one, desired.FromNetwork, p, "to tunnel"), pass(t, other, desired.FromNetwork, p, "to tunnel")
			if a.mac != b.mac {
				t.Fatalf("port %d: % x and % x", port, a.mac, b.mac)
			}
			slots[string(a.mac[:])] = true
		}
		if len(slots) < 20 {
			t.Fatalf("59 flows to 50 backends got %d of them", len(slots))
		}
	})
}

func TestAPacketForABackendElsewhereIsHandedOverUnchanged(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		for i, frontend := range []string{"203.0.113.5:80", "203.0.113.6:80"} {
			client := fmt.Sprint("198.51.100.7:", 70+i)
			for _, set := range []byte{tcpSYN, tcpACK, tcpFIN | tcpACK} {
				s := pass(t, d, desired.FromNetwork, f.packet(client, frontend, flags(set)), "to tunnel")
				s.goes(t, f, client, frontend)
				if want := [12]byte{2, 'p', 'o', 'l', 'd', 'r', 6, 'h', 0, 0, 0, 0}; s.mac != want || s.ttl != 63 {
					t.Fatalf("MAC addresses % x, TTL %d", s.mac, s.ttl)
				}
			}
		}
	})
}

// Without a tunnel the answers have to come back here: the client's address is lost.
func TestWithoutATunnelAClientOutsideIsMasqueraded(t *testing.T) {
	d := servedOf(t, func(w *desired.Tables) { w.Config.Tunnel = 0 })
	inEveryFamily(t, func(t *testing.T, f family) {
		s := pass(t, d, desired.FromNetwork, f.packet("198.51.100.7:5", "203.0.113.5:80"), "to native")
		s.goes(t, f, "192.0.2.1:5", "10.0.2.7:8080")
		s = pass(t, d, desired.FromNetwork, f.packet("198.51.100.8:5", "203.0.113.5:80"), "to native")
		if s.src.Addr() != f.addr("192.0.2.1") || s.src.Port() == 5 {
			t.Fatalf("another client from the same port goes from %v", s.src)
		}
		s = pass(t, d, desired.FromNetwork, f.packet("10.0.2.7:8080", "192.0.2.1:5", flags(tcpSYN|tcpACK)), "to stack")
		s.goes(t, f, "203.0.113.5:80", "198.51.100.7:5")
	})
}

func TestAnAnswerToAShapedPodIsTranslatedWhenItLeavesTheStack(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		s := pass(t, d, desired.FromPod, f.packet("10.0.1.4:5", "10.96.0.1:80"), "to stack")
		s.goes(t, f, "10.0.1.4:5", "10.0.1.3:8080")
		s = pass(t, d, desired.FromPod, f.packet("10.0.1.3:8080", "10.0.1.4:5", flags(tcpSYN|tcpACK)), "to stack")
		s.goes(t, f, "10.0.1.3:8080", "10.0.1.4:5")
		s = pass(t, d, desired.ToPod, f.packet("10.0.1.3:8080", "10.0.1.4:5", flags(tcpSYN|tcpACK)), "")
		s.goes(t, f, "10.96.0.1:80", "10.0.1.4:5")
		s = pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.11:80"), "to stack") // to a shaped backend
		s.goes(t, f, "10.0.1.2:5", "10.0.1.4:8080")
		s = pass(t, d, desired.FromPod, f.packet("10.0.1.4:8080", "10.0.1.2:5", flags(tcpSYN|tcpACK)), "to stack")
		s.goes(t, f, "10.0.1.4:8080", "10.0.1.2:5")
		s = pass(t, d, desired.ToPod, f.packet("10.0.1.4:8080", "10.0.1.2:5", flags(tcpSYN|tcpACK)), "")
		s.goes(t, f, "10.96.0.11:80", "10.0.1.2:5")
	})
}

func TestWhatTheNodeAsksOfServicesDoesNotLeaveItUnserved(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		pass(t, d, desired.ToNetwork, f.packet("192.0.2.1:5", "10.96.0.7:80"), "drop no such service")
		pass(t, d, desired.ToNetwork, f.packet("192.0.2.1:5", "198.51.100.9:80"), "")
	})
}

// The answer of a backend on the node's own network leaves by the uplink, in the frontend's name.
func TestTheNodesOwnAnswersAreTranslatedOnTheirWayOut(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		p := f.port("host", "203.0.113.9:80", 0, "192.0.2.1:8080")
		if err := d.SyncServices(portsOf(p), now()); err != nil {
			t.Fatal(err)
		}
		s := pass(t, d, desired.FromNetwork, f.packet("198.51.100.7:5", "203.0.113.9:80"), "to stack")
		s.goes(t, f, "198.51.100.7:5", "192.0.2.1:8080")
		s = pass(t, d, desired.ToNetwork, f.packet("192.0.2.1:8080", "198.51.100.7:5", flags(tcpSYN|tcpACK)), "")
		s.goes(t, f, "203.0.113.9:80", "198.51.100.7:5")
	})
}

// Affinity ends when the client has been away for its time, and every use begins that anew.
func TestAffinityEndsWhereItIsNotUsed(t *testing.T) {
	d := servedOf(t)
	f := family{true, cluster.TCP}
	p := f.port("sticky", "10.96.0.9:80", 0, many("10.0.2.%d:8080", 50)...)
	p.Affinity = 100
	if err := d.SyncServices(portsOf(p), now()); err != nil {
		t.Fatal(err)
	}
	port := 0
	ask := func() netip.AddrPort {
		t.Helper()
		port++
		return pass(t, d, desired.FromPod, f.packet(fmt.Sprint("10.0.1.2:", port), "10.96.0.9:80"), "to native").dst
	}
	// away sets back the clock of the only client, and returns what it was.
	away := func(by time.Duration) time.Duration {
		t.Helper()
		rows := map[bpfAffinityKey]bpfAffinity{}
		if err := readTable(d.maps[bpfMapAffinities], &rows); err != nil || len(rows) != 1 {
			t.Fatal(rows, err)
		}
		for k, row := range rows {
			used := time.Duration(row.Used)
			row.Used -= uint64(by)
			if err := d.maps[bpfMapAffinities].Put(k, row); err != nil {
				t.Fatal(err)
			}
			return used
		}
		return 0
	}
	first := ask()
	for range 5 { // 450 s in all, never 100 of them away
		used := away(90 * time.Second)
		if ask() != first {
			t.Fatal("it lost its backend while it was in use")
		}
		if away(0) < used {
			t.Fatal("use does not refresh it")
		}
	}
	away(-time.Hour) // another processor's clock is ahead
	if ask() != first {
		t.Fatal("a use that is not yet over ends it")
	}
	got := map[netip.AddrPort]bool{}
	for range 20 {
		away(101 * time.Second)
		got[ask()] = true
	}
	if len(got) < 3 {
		t.Fatalf("after its time it still gets %v", got)
	}
}
