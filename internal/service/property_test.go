package service_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/service"
)

var (
	clusters = flag.Int("clusters", 2000, "how many random clusters the oracle is asked about")
	seedFlag = flag.Uint64("seed", 0, "repeat the random tests of this seed")
	update   = flag.Bool("update", false, "write what is compiled into the scenarios")
)

func seed(t *testing.T) uint64 {
	s := *seedFlag
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-seed=%d", s)
	return s
}

// state is what a Table was told last.
type state struct {
	self     service.Self
	services map[cluster.ServiceName]*cluster.ServiceObjects
	pods     []service.PodPort
}

// fresh tells a new Table the same, in random order.
func (s state) fresh(d dice) *service.Table {
	t := service.NewTable(s.self)
	if d.one(2) {
		t.SetPodPorts(s.pods)
		defer t.SetSelf(s.self)
	} else {
		defer t.SetPodPorts(s.pods)
	}
	names := serviceNames()
	d.Shuffle(len(names), reflect.Swapper(names))
	for _, name := range names {
		t.SetService(name, s.services[name])
	}
	return t
}

// step changes one thing, and tells the Table.
func (s *state) step(d dice, t *service.Table) string {
	name := pick(d, serviceNames()...)
	old := s.services[name]
	switch d.IntN(10) {
	case 0:
		if next := d.self(); d.one(2) {
			s.self = next
		} else {
			s.self.Reserved = next.Reserved
		}
		t.SetSelf(s.self)
		return fmt.Sprintf("self %+v", s.self)
	case 1:
		s.pods = d.podPorts()
		t.SetPodPorts(s.pods)
		return fmt.Sprintf("pods %v", s.pods)
	case 2, 3:
		delete(s.services, name)
		t.SetService(name, pick(d, nil, &cluster.ServiceObjects{Slices: d.slices()}))
		return fmt.Sprintf("no %s", name)
	case 4, 5, 6:
		if old != nil {
			s.services[name] = &cluster.ServiceObjects{Service: old.Service, Slices: d.slices()}
			break
		}
		fallthrough
	default:
		s.services[name] = d.objects(name)
	}
	t.SetService(name, s.services[name])
	return fmt.Sprintf("service %+v", s.services[name].Service)
}

func TestATableIsTheSameWhateverItsHistory(t *testing.T) {
	first := seed(t)
	for i := range uint64(150) {
		d := newDice(first + i)
		s := state{self: d.self(), services: map[cluster.ServiceName]*cluster.ServiceObjects{}}
		table := service.NewTable(s.self)
		var steps []string
		for range 40 {
			steps = append(steps, s.step(d, table))
			want := s.fresh(d)
			diff := cmp.Diff(want.Ports(), table.Ports(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
			if diff += cmp.Diff(want.Problems(), table.Problems()); diff != "" {
				t.Fatalf("-seed=%d: after\n%q\nit differs from a fresh one (-fresh +it):\n%s", first+i, steps, diff)
			}
		}
	}
}

func TestWhatChangedIsExactlyTheDifference(t *testing.T) {
	first := seed(t)
	for i := range uint64(150) {
		d := newDice(first + i)
		s := state{self: d.self(), services: map[cluster.ServiceName]*cluster.ServiceObjects{}}
		table := service.NewTable(s.self)
		known := map[service.PortName]*service.Port{}
		for range 40 {
			for range d.IntN(4) {
				s.step(d, table)
			}
			want := difference(known, table.Ports())
			if got := table.Changed(); !reflect.DeepEqual(got, want) {
				t.Fatalf("-seed=%d: changed %v, want %v", first+i, got, want)
			}
			known = maps.Clone(table.Ports())
		}
	}
}

func difference(old, now map[service.PortName]*service.Port) map[service.PortName]*service.Port {
	d := map[service.PortName]*service.Port{}
	for name, p := range now {
		if !reflect.DeepEqual(old[name], p) {
			d[name] = p
		}
	}
	for name := range old {
		if now[name] == nil {
			d[name] = nil
		}
	}
	return d
}

func TestATableAnswersAsTheOracleDoes(t *testing.T) {
	first := seed(t)
	asked := map[oracle.Verdict]int{}
	for i := range uint64(*clusters) {
		d := newDice(first + i)
		s, table := random(d)
		objects := slices.Collect(maps.Values(s.services))
		byFrontend := frontends(t, table)
		for _, to := range destinations() {
			for _, outside := range []bool{false, true} {
				wantSet, want := oracle.Backends(objects, facts(s), to, outside)
				gotSet, got := answer(byFrontend, to, outside)
				asked[want]++
				if got != want || !maps.Equal(gotSet, wantSet) {
					t.Fatalf("-seed=%d: %v, outside %v: %s %v, but the oracle says %s %v", first+i, to, outside, got, gotSet, want, wantSet)
				}
			}
		}
	}
	t.Logf("%v", asked)
}

// random is a cluster at one instant, and a Table that was told of it.
func random(d dice) (state, *service.Table) {
	s := state{self: d.self(), services: map[cluster.ServiceName]*cluster.ServiceObjects{}, pods: d.podPorts()}
	for _, name := range some(d, 5, serviceNames()...) {
		s.services[name] = d.objects(name)
	}
	return s, s.fresh(d)
}

func facts(s state) oracle.Node {
	n := oracle.Node{Name: s.self.Node, Zone: s.self.Zone, ExternalIPs: s.self.ExternalIPs, Reserved: s.self.Reserved}
	for _, p := range s.pods {
		n.HostPorts = append(n.HostPorts, oracle.HostPort{
			To:      oracle.Destination{AddrPort: netip.AddrPortFrom(p.Frontend.Addr, p.Frontend.Port), Protocol: p.Frontend.Protocol},
			Backend: netip.AddrPortFrom(p.Backend.Addr, p.Backend.Port)})
	}
	return n
}

// frontends finds the port of each; no two may have the same.
func frontends(t *testing.T, table *service.Table) map[service.Frontend]*service.Port {
	all := map[service.Frontend]*service.Port{}
	for _, p := range table.Ports() {
		for f := range p.Frontends {
			if all[f] != nil {
				t.Fatalf("%s leads to %v and to %v", f, all[f].Name, p.Name)
			}
			all[f] = p
		}
	}
	return all
}

func destinations() (all []oracle.Destination) {
	for _, a := range append(externals(), addrs("::", "2001:db8::1")...) {
		for _, port := range []uint16{80, 443, 8080, 30080, 30081} {
			for _, protocol := range protocols() {
				all = append(all, oracle.Destination{AddrPort: netip.AddrPortFrom(a, port), Protocol: protocol})
			}
		}
	}
	return all
}

func answer(all map[service.Frontend]*service.Port, to oracle.Destination, outside bool) (map[netip.AddrPort]bool, oracle.Verdict) {
	f := service.Frontend{Addr: to.Addr(), Port: to.Port(), Protocol: to.Protocol}
	p := all[f]
	if p == nil {
		return nil, oracle.NotAFrontend
	}
	backends, drop := p.Choose(p.Frontends[f], outside)
	switch {
	case drop:
		return nil, oracle.Drop
	case len(backends) == 0:
		return nil, oracle.Refuse
	}
	set := map[netip.AddrPort]bool{}
	for _, b := range backends {
		set[netip.AddrPortFrom(b.Addr, b.Port)] = true
	}
	return set, oracle.Choose
}
