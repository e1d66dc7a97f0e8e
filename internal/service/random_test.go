package service_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

// dice make clusters in which everything collides: few names, addresses and ports.
type dice struct{ *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 0))} }

func (d dice) one(in int) bool { return d.IntN(in) == 0 }

func pick[E any](d dice, from ...E) E { return from[d.IntN(len(from))] }

// some picks up to n.
func some[E any](d dice, n int, from ...E) (list []E) {
	for range d.IntN(n + 1) {
		list = append(list, pick(d, from...))
	}
	return list
}

func addrs(texts ...string) (list []netip.Addr) {
	for _, t := range texts {
		list = append(list, netip.MustParseAddr(t))
	}
	return list
}

func clusterIPs(ipv4 bool) []netip.Addr {
	if ipv4 {
		return addrs("10.96.0.1", "10.96.0.2", "10.96.0.3", "10.96.0.4")
	}
	return addrs("fd00:96::1", "fd00:96::2", "fd00:96::3")
}

func externals() []netip.Addr {
	return append(addrs("203.0.113.1", "203.0.113.2", "2001:db8:f::1", "192.0.2.1", "10.0.1.2", "127.0.0.1", "0.0.0.0",
		"169.254.1.1", "fe80::1", "224.0.0.1", "10.96.0.9"), slices.Concat(clusterIPs(true), clusterIPs(false))...)
}

func serviceNames() []cluster.ServiceName {
	return []cluster.ServiceName{{Namespace: "a", Name: "db"}, {Namespace: "a", Name: "web"}, {Namespace: "b", Name: "api"},
		{Namespace: "b", Name: "web"}, {Namespace: "c", Name: "x"}}
}

func protocols() []cluster.Protocol {
	return []cluster.Protocol{cluster.TCP, cluster.UDP, cluster.SCTP}
}

func (d dice) self() service.Self {
	s := service.Self{Node: pick(d, "n1", "n2"), Zone: pick(d, "", "z1", "z2"), ExternalIPs: !d.one(3),
		Reserved: map[netip.Addr]string{}}
	for _, a := range some(d, 3, addrs("192.0.2.1", "10.0.1.2", "203.0.113.2")...) {
		s.Reserved[a] = pick(d, "Node/n1", "Pod/a/p")
	}
	return s
}

func (d dice) service(name cluster.ServiceName) *cluster.Service {
	s := &cluster.Service{ServiceName: name, UID: pick(d, "u1", "u2", "u3"), Created: int64(d.IntN(3)),
		ExternalIPs: some(d, 2, externals()...), LoadBalancerIPs: some(d, 2, externals()...),
		InternalLocal: d.one(3), ExternalLocal: d.one(3), Affinity: pick(d, 0, 0, 10800)}
	for _, ipv4 := range pick(d, []bool{true}, []bool{false}, []bool{true, false}, []bool{false, true}, nil) {
		s.ClusterIPs = append(s.ClusterIPs, pick(d, clusterIPs(ipv4)...))
	}
	for range 1 + d.IntN(3) {
		s.Ports = append(s.Ports, cluster.ServicePort{Name: pick(d, "", "p", "q"), Protocol: pick(d, protocols()...),
			Port: pick[uint16](d, 80, 443), NodePort: pick[uint16](d, 0, 30080, 30081)})
	}
	for _, p := range some(d, 2, "10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0") {
		s.SourceRanges = append(s.SourceRanges, netip.MustParsePrefix(p))
	}
	if s.ExternalLocal {
		s.HealthCheckNodePort = pick[uint16](d, 0, 31000)
	}
	return s
}

func (d dice) slices() (list []*cluster.EndpointSlice) {
	for i := range d.IntN(6) {
		s := &cluster.EndpointSlice{Name: fmt.Sprint("s", i), IPv4: !d.one(3)}
		for range 1 + d.IntN(6) {
			s.Ports = append(s.Ports, cluster.EndpointPort{Name: pick(d, "", "p", "q"),
				Protocol: pick(d, protocols()...), Port: pick[uint16](d, 8080, 8080, 9090, 0)})
		}
		hints := !d.one(3) // hints matter where all have them
		for range d.IntN(6) {
			s.Endpoints = append(s.Endpoints, d.endpoint(s.IPv4, hints))
		}
		list = append(list, s)
	}
	return list
}

func (d dice) endpoint(ipv4, hints bool) cluster.Endpoint {
	e := cluster.Endpoint{Node: pick(d, "", "n1", "n2", "n3"), Addr: netip.AddrFrom4([4]byte{10, 0, 1, byte(1 + d.IntN(6))})}
	if !ipv4 {
		e.Addr = netip.MustParseAddr(fmt.Sprint("fd00:1::", 1+d.IntN(6)))
	}
	if d.one(12) {
		e.Addr = pick(d, addrs("127.0.0.1", "169.254.169.254", "0.0.0.0", "::1", "fe80::1", "10.0.1.1", "fd00:1::1", "ff02::1")...)
	}
	e.Ready, e.Serving, e.Terminating = !d.one(3), !d.one(3), d.one(2)
	if hints && !d.one(8) {
		e.ForZones = []string{pick(d, "z1", "z2", "z3")}
	}
	if hints && d.one(2) {
		e.ForNodes = []string{pick(d, "n1", "n2", "n3")}
	}
	return e
}

func (d dice) objects(name cluster.ServiceName) *cluster.ServiceObjects {
	return &cluster.ServiceObjects{Service: d.service(name), Slices: d.slices()}
}

func (d dice) podPorts() (list []service.PodPort) {
	for _, at := range d.Perm(6)[:d.IntN(4)] {
		a := addrs("192.0.2.1", "2001:db8::1")[at%2]
		b := addrs("10.0.1.9", "fd00:1::9")[at%2]
		list = append(list, service.PodPort{Namespace: pick(d, "a", "b"), Pod: pick(d, "db", "p"),
			Frontend: service.Frontend{Addr: a, Port: []uint16{80, 30080, 8080}[at/2], Protocol: cluster.TCP},
			Backend:  service.Backend{Addr: b, Port: 80}})
	}
	return list
}
