package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/service"
)

// entries are the rows of a map of flows.
func entries(t testing.TB, m *ebpf.Map) map[bpfTuple]bpfFlow {
	t.Helper()
	var all map[bpfTuple]bpfFlow
	if err := readTable(m, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// begin opens a flow, and settle makes it one that has had packets both ways.
func begin(t testing.TB, d *Datapath, f family, client, frontend string) seen {
	t.Helper()
	return pass(t, d, desired.FromPod, f.packet(client, frontend), "to pod")
}

func settle(t testing.TB, d *Datapath, f family, client, frontend string) seen {
	t.Helper()
	s := begin(t, d, f, client, frontend)
	back := f.packet("10.0.1.3:8080", fmt.Sprint(client[:len("10.0.1.2")], ":", s.src.Port()), flags(tcpSYN|tcpACK))
	pass(t, d, desired.FromPod, back, "to pod").goes(t, f, frontend, client)
	return pass(t, d, desired.FromPod, f.packet(client, frontend, flags(tcpACK)), "to pod")
}

func TestAFlowSettlesWithOnePacketEachWayAndOneMore(t *testing.T) {
	d := servedOf(t)
	inEveryFamily(t, func(t *testing.T, f family) {
		flows, opening := d.maps[bpfMapFlows], d.maps[bpfMapOpening]
		had := len(entries(t, flows))
		begin(t, d, f, "10.0.1.2:5", "10.96.0.1:80")
		if len(entries(t, opening)) != 2 || len(entries(t, flows)) != had {
			t.Fatalf("after a packet: %d opening, %d settled", len(entries(t, opening)), len(entries(t, flows)))
		}
		begin(t, d, f, "10.0.1.2:5", "10.96.0.1:80") // again, unanswered
		if len(entries(t, opening)) != 2 {
			t.Fatal("a second packet settles it, unanswered")
		}
		settle(t, d, f, "10.0.1.2:5", "10.96.0.1:80")
		if len(entries(t, opening)) != 0 || len(entries(t, flows)) != had+2 {
			t.Fatalf("after one each way and one more: %d opening, %d settled", len(entries(t, opening)), len(entries(t, flows)))
		}
	})
}

func TestASYNBeginsAnewOnlyWhereTheLastConnectionIsOver(t *testing.T) {
	f := family{true, cluster.TCP}
	many := []string{"10.0.1.3:8080", "10.0.1.5:8080", "10.0.1.6:8080", "10.0.1.7:8080"}
	for _, c := range []struct {
		name string
		end  func(*testing.T, *Datapath)
		anew bool
	}{
		{"it is alive", func(*testing.T, *Datapath) {}, false},
		{"the client closed it", func(t *testing.T, d *Datapath) {
			pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.1:80", flags(tcpFIN|tcpACK)), "to pod")
		}, true},
		{"the client reset it", func(t *testing.T, d *Datapath) {
			pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.1:80", flags(tcpRST)), "to pod")
		}, true},
		{"the backend reset it", func(t *testing.T, d *Datapath) {
			pass(t, d, desired.FromPod, f.packet("10.0.1.3:8080", "10.0.1.2:5", flags(tcpRST)), "to pod")
		}, true},
		{"the backend is silent", func(t *testing.T, d *Datapath) {
			change(t, d.maps[bpfMapFlows], func(f *bpfFlow) {
				if f.Flags&bpfFlowFlagsFLOW_REPLY != 0 {
					f.Used -= 3
				}
			})
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := servedOf(t)
			settle(t, d, f, "10.0.1.2:5", "10.96.0.1:80")
			c.end(t, d)
			p := f.port("local", "10.96.0.1:80", service.ClusterIP, many[1:]...)
			if err := d.SyncServices(portsOf(p), now()); err != nil {
				t.Fatal(err)
			}
			want := "to pod"
			if c.anew {
				want = "to stack" // those backends are not there
			}
			s := pass(t, d, desired.FromPod, f.packet("10.0.1.2:5", "10.96.0.1:80"), want)
			if anew := s.dst != f.at(many[0]); anew != c.anew {
				t.Fatalf("it goes to %v", s.dst)
			}
		})
	}
}

// change edits the rows of a map of flows.
func change(t testing.TB, m *ebpf.Map, edit func(*bpfFlow)) {
	t.Helper()
	for k, v := range entries(t, m) {
		edit(&v)
		if err := m.Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAFullMapOfFlowsKeepsNewOnesOutAndOldOnesGoOn(t *testing.T) {
	d := served(t, openSized(t, map[string]uint32{bpfMapFlows: 64}))
	f := family{true, cluster.TCP}
	for port := 1; port <= 32; port++ {
		settle(t, d, f, fmt.Sprint("10.0.1.2:", port), "10.96.0.1:80")
	}
	for port := 33; port < 40; port++ {
		client := fmt.Sprint("10.0.1.2:", port)
		begin(t, d, f, client, "10.96.0.1:80")
		pass(t, d, desired.FromPod, f.packet("10.0.1.3:8080", client, flags(tcpSYN|tcpACK)), "to pod")
		pass(t, d, desired.FromPod, f.packet(client, "10.96.0.1:80", flags(tcpACK)), "drop flows full")
	}
	for port := 1; port <= 32; port++ {
		client := fmt.Sprint("10.0.1.2:", port)
		pass(t, d, desired.FromPod, f.packet(client, "10.96.0.1:80", flags(tcpACK)), "to pod").goes(t, f, client, "10.0.1.3:8080")
		pass(t, d, desired.FromPod, f.packet("10.0.1.3:8080", client, flags(tcpACK)), "to pod").goes(t, f, "10.96.0.1:80", client)
	}
	change(t, d.maps[bpfMapFlows], func(f *bpfFlow) { f.Flags |= bpfFlowFlagsFLOW_CLOSING })
	if n, err := d.sweepFlows(nowTicks() + closingTicks + 2); err != nil || n != 78 {
		t.Fatalf("%d ended, %v", n, err)
	}
	settle(t, d, f, "10.0.1.2:99", "10.96.0.1:80") // there is room again
}

func TestAFloodOfNewFlowsCostsNoSettledOneItsPlace(t *testing.T) {
	d := servedOf(t)
	f := family{true, cluster.TCP}
	for port := 1; port <= 50; port++ {
		settle(t, d, f, fmt.Sprint("10.0.1.2:", port), "10.96.0.1:80")
	}
	flood := f.packet("198.51.100.7:5", "203.0.113.1:80").bytes()
	opts := ebpf.RunOptions{Context: skb{Ifindex: lo}, Repeat: 1}
	for i := range 2*65536 + 1000 {
		binary.BigEndian.PutUint32(flood[26:], 0xc6330000+uint32(i)) // source address
		opts.Data = flood
		if _, err := d.programs[desired.FromNetwork].Run(&opts); err != nil {
			t.Fatal(err)
		}
	}
	counters, err := d.Counters()
	if err != nil || counters["drop flows full"] > 0 || counters["to pod"] < 2*65536 {
		t.Fatalf("%v, %v", counters, err)
	}
	for port := 1; port <= 50; port++ {
		client := fmt.Sprint("10.0.1.2:", port)
		pass(t, d, desired.FromPod, f.packet(client, "10.96.0.1:80", flags(tcpACK)), "to pod").goes(t, f, client, "10.0.1.3:8080")
		pass(t, d, desired.FromPod, f.packet("10.0.1.3:8080", client, flags(tcpACK)), "to pod").goes(t, f, "10.96.0.1:80", client)
	}
}

// A client's packets tell that the answers reach it, where they take another way.
func TestAFlowHandedToAnotherNodeSettles(t *testing.T) {
	d := servedOf(t)
	f := family{true, cluster.TCP}
	for _, set := range []byte{tcpSYN, tcpACK} {
		pass(t, d, desired.FromNetwork, f.packet("198.51.100.7:5", "203.0.113.5:80", flags(set)), "to tunnel")
	}
	if all := entries(t, d.maps[bpfMapFlows]); len(all) != 1 || len(entries(t, d.maps[bpfMapOpening])) != 0 {
		t.Fatalf("%v", all)
	}
}

func TestFlowsEndInTheirTime(t *testing.T) {
	tcp, udp := family{true, cluster.TCP}, family{false, cluster.UDP}
	for _, c := range []struct {
		name   string
		f      family
		open   bool
		flags  bpfFlowFlags // of the client's direction, besides
		limit  uint32
		closer bpfFlowFlags // of the answers'
	}{
		{"opening TCP", tcp, true, 0, openingTicks, 0},
		{"opening UDP", udp, true, 0, openingTicks, 0},
		{"settled TCP", tcp, false, 0, streamIdle, 0},
		{"settled UDP", udp, false, 0, datagramIdle, 0},
		{"TCP closed by the client", tcp, false, bpfFlowFlagsFLOW_CLOSING, closingTicks, 0},
		{"TCP closed by the backend", tcp, false, 0, closingTicks, bpfFlowFlagsFLOW_CLOSING},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := servedOf(t)
			m := d.maps[bpfMapFlows]
			if c.open {
				m = d.maps[bpfMapOpening]
				begin(t, d, c.f, "10.0.1.2:5", "10.96.0.1:80")
			} else {
				settle(t, d, c.f, "10.0.1.2:5", "10.96.0.1:80")
			}
			at := nowTicks() + 1<<20 // what is to come is as good as what was
			age := func(by uint32, reply bool) {
				change(t, m, func(f *bpfFlow) {
					isReply := f.Flags&bpfFlowFlagsFLOW_REPLY != 0
					if isReply {
						f.Flags |= c.closer
					} else {
						f.Flags |= c.flags
					}
					if isReply == reply {
						f.Used = at - by
					}
				})
			}
			sweeps := func(want int) {
				t.Helper()
				if n, err := d.sweepFlows(at); err != nil || n != want {
					t.Fatalf("%d ended, want %d (%v)", n, want, err)
				}
			}
			age(c.limit, false)
			age(c.limit+1, true)
			sweeps(0) // one direction is in use
			age(c.limit+1, false)
			age(c.limit, true)
			sweeps(0)
			age(c.limit+1, true)
			sweeps(2)
		})
	}
}

func TestAHalfFlowEndsSoon(t *testing.T) {
	d := servedOf(t)
	f := family{true, cluster.TCP}
	begin(t, d, f, "10.0.1.2:5", "10.96.0.1:80")
	m := d.maps[bpfMapOpening]
	for k, v := range entries(t, m) {
		if v.Flags&bpfFlowFlagsFLOW_REPLY == 0 {
			if err := m.Delete(k); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n, err := d.SweepFlows(); n != 0 || err != nil {
		t.Fatalf("%d ended at once, %v: its other half may be about to be written", n, err)
	}
	change(t, m, func(f *bpfFlow) { f.Used -= 3 })
	if n, err := d.SweepFlows(); n != 1 || err != nil {
		t.Fatalf("%d ended, %v", n, err)
	}
}

func TestDatagramsFlowsEndWithTheirBackend(t *testing.T) {
	d := servedOf(t)
	for _, c := range []struct {
		name string
		next func(family) *service.Port
		udp  int // directions that end, of two flows; of TCP's, none
	}{
		{"another backend", func(f family) *service.Port {
			return f.port("local", "10.96.0.1:80", service.ClusterIP, "10.0.2.7:8080")
		}, 4},
		{"another target port", func(f family) *service.Port {
			return f.port("local", "10.96.0.1:80", service.ClusterIP, "10.0.1.3:9090")
		}, 4},
		{"no endpoints left", func(f family) *service.Port { return f.port("local", "10.96.0.1:80", service.ClusterIP) }, 4},
		{"no Service", func(family) *service.Port { return nil }, 4},
		{"one more backend", func(f family) *service.Port {
			return f.port("local", "10.96.0.1:80", service.ClusterIP, "10.0.1.3:8080", "10.0.2.7:8080")
		}, 0},
	} {
		inEveryFamily(t, func(t *testing.T, f family) {
			name := f.port("local", "10.96.0.1:80", service.ClusterIP).Name
			if err := d.SyncServices(portMap{name: f.ports()[name]}, now()); err != nil {
				t.Fatal(err)
			}
			begin(t, d, f, "10.0.1.2:5", "10.96.0.1:80")
			settle(t, d, f, "10.0.1.2:6", "10.96.0.1:80")
			if err := d.SyncServices(portMap{name: c.next(f)}, now()); err != nil {
				t.Fatal(err)
			}
			want := 0
			if f.protocol == cluster.UDP {
				want = c.udp
			}
			if n, err := d.SweepFlows(); err != nil || n != want {
				t.Fatalf("%s: %d ended, want %d (%v)", c.name, n, want, err)
			}
			if _, err := d.sweepFlows(nowTicks() + 1<<20); err != nil { // the rest, for the next case
				t.Fatal(err)
			}
		})
	}
}

// The other node's choice is remembered, too: its datagrams must not go there for ever.
func TestAHandedDatagramFlowEndsWithItsBackend(t *testing.T) {
	d := servedOf(t)
	f := family{true, cluster.UDP}
	pass(t, d, desired.FromNetwork, f.packet("198.51.100.7:5", "203.0.113.6:80"), "to tunnel")
	if n, err := d.SweepFlows(); n != 0 || err != nil {
		t.Fatalf("%d ended, %v", n, err)
	}
	p := f.port("lb-tunnel", "203.0.113.6:80", service.LoadBalancer, "10.0.1.3:8080")
	if err := d.SyncServices(portsOf(p), now()); err != nil {
		t.Fatal(err)
	}
	if n, err := d.SweepFlows(); n != 1 || err != nil {
		t.Fatalf("%d ended, %v", n, err)
	}
	pass(t, d, desired.FromNetwork, f.packet("198.51.100.7:5", "203.0.113.6:80"), "to pod")
}

func TestMarksOfLongAgoAreCleared(t *testing.T) {
	d := servedOf(t)
	begin(t, d, family{true, cluster.TCP}, "10.0.1.2:5", "10.96.0.1:80")
	m := d.maps[bpfMapMarks]
	marked := func() (all []uint32) {
		if err := eachRow(m, func(index, at uint32) {
			if at != 0 {
				all = append(all, index)
			}
		}); err != nil {
			t.Fatal(err)
		}
		return all
	}
	if n := len(marked()); n != 2 {
		t.Fatalf("%d marks, want the client's and the frontend's", n)
	}
	if _, err := d.SweepFlows(); err != nil || len(marked()) != 2 {
		t.Fatalf("%v, %v", marked(), err)
	}
	if err := m.Put(marked()[0], nowTicks()+markTicks); err != nil {
		t.Fatal(err)
	}
	if _, err := d.sweepFlows(nowTicks() + markTicks + 2); err != nil || len(marked()) != 1 {
		t.Fatalf("%v, %v", marked(), err)
	}
}

func TestFlowsAreListed(t *testing.T) {
	d := servedOf(t)
	f := family{true, cluster.TCP}
	settle(t, d, f, "10.0.1.2:5", "10.96.0.1:80")
	pass(t, d, desired.FromNetwork, f.packet("198.51.100.7:5", "203.0.113.6:80"), "to tunnel")
	list, err := d.Flows()
	want := map[Flow]bool{
		{cluster.TCP, f.at("10.0.1.2:5"), f.at("10.96.0.1:80"), f.at("10.0.1.3:8080"), netip.Addr{}, true}:          true,
		{cluster.TCP, f.at("198.51.100.7:5"), f.at("203.0.113.6:80"), netip.AddrPort{}, f.addr("192.0.2.3"), false}: true,
	}
	if err != nil || len(list) != 2 || !want[list[0]] || !want[list[1]] {
		t.Fatalf("%v, %v", list, err)
	}
}

// Where flows make room for each other all the time, on all processors at once, none gets another's packets.
func TestNoPacketGoesTheWayOfAnotherFlow(t *testing.T) {
	d := served(t, openSized(t, map[string]uint32{bpfMapOpening: 64}))
	f := family{true, cluster.UDP}
	const services = 40
	all := portMap{}
	for i := range services {
		p := f.port(fmt.Sprint("s", i), fmt.Sprintf("10.96.1.%d:80", i), service.ClusterIP, fmt.Sprint("10.0.1.3:", 9000+i))
		all[p.Name] = p
	}
	if err := d.SyncServices(all, now()); err != nil {
		t.Fatal(err)
	}
	packets := make([][]byte, services)
	for i := range packets {
		packets[i] = f.packet("10.0.1.2:5", fmt.Sprintf("10.96.1.%d:80", i)).bytes()
	}
	errs := make(chan error)
	for worker := range 4 {
		go func() {
			opts := ebpf.RunOptions{Context: skb{Ifindex: lo}, Repeat: 1, DataOut: make([]byte, 256)}
			for n := range 20000 {
				i := (n*7 + worker*11) % services
				opts.Data, opts.DataOut = packets[i], opts.DataOut[:256]
				verdict, err := d.programs[desired.FromPod].Run(&opts)
				if err == nil && verdict == actRedirect {
					var s seen
					if s, err = read(opts.DataOut); err == nil && s.dst.Port() != uint16(9000+i) {
						err = fmt.Errorf("packet to Service %d goes to %v", i, s.dst)
					}
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
