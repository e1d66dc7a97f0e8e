// Package objects makes clusters of many Services, twice the same: as Polder's core has them in memory, and as an API
// server tells them. It is pure.
package objects

import (
	"fmt"
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
)

// Size is how many Services there are, with so many endpoints each.
type Size struct{ Services, Endpoints int }

func (s Size) String() string { return fmt.Sprintf("%d×%d", s.Services, s.Endpoints) }

// Content is a cluster's Services, all of one kind: an IPv4 cluster IP and a TCP port each.
type Content struct {
	Size

	// Live, if it is valid, has all the endpoints: they are its address, and its port and those after it. Else every
	// endpoint is an address of its own, where nobody is.
	Live netip.AddrPort

	// Affinity of every Service, in seconds; 0: none.
	Affinity int
}

// ServicePort is what every Service's clients use.
const ServicePort = 80

// perSlice is how many endpoints the control plane puts into one EndpointSlice.
const perSlice = 100

// namespace is everybody's.
const namespace = "bench"

// Name is that of a Service.
func (c Content) Name(i int) cluster.ServiceName {
	return cluster.ServiceName{Namespace: namespace, Name: fmt.Sprintf("service-%d", i)}
}

// ClusterIP is that of a Service: 10.96.0.1 and on.
func (c Content) ClusterIP(i int) netip.Addr { return nth([4]byte{10, 96, 0, 0}, i+1) }

// Endpoint is one of a Service's.
func (c Content) Endpoint(i, e int) netip.AddrPort {
	if c.Live.IsValid() {
		return netip.AddrPortFrom(c.Live.Addr(), c.Live.Port()+uint16(e))
	}
	return netip.AddrPortFrom(nth([4]byte{10, 128, 0, 0}, i*c.Endpoints+e), 8080)
}

func nth(base [4]byte, i int) netip.Addr {
	n := int(base[1])<<16 + i
	return netip.AddrFrom4([4]byte{base[0], byte(n >> 16), byte(n >> 8), byte(n)})
}

// Services returns all of them as Polder's core has them.
func (c Content) Services() map[cluster.ServiceName]*cluster.ServiceObjects {
	all := make(map[cluster.ServiceName]*cluster.ServiceObjects, c.Size.Services)
	for i := range c.Size.Services {
		all[c.Name(i)] = c.Objects(i)
	}
	return all
}

// Objects are those of one Service.
func (c Content) Objects(i int) *cluster.ServiceObjects {
	name := c.Name(i)
	o := &cluster.ServiceObjects{Service: &cluster.Service{
		ServiceName: name, UID: name.Name, ClusterIPs: []netip.Addr{c.ClusterIP(i)}, Affinity: c.Affinity,
		Ports: []cluster.ServicePort{{Protocol: cluster.TCP, Port: ServicePort}},
	}}
	for number, endpoints := range c.slices(i) {
		s := &cluster.EndpointSlice{Name: sliceName(name.Name, number), IPv4: true,
			Ports: []cluster.EndpointPort{{Protocol: cluster.TCP, Port: endpoints[0].Port()}}}
		for _, e := range endpoints {
			s.Endpoints = append(s.Endpoints, cluster.Endpoint{Addr: e.Addr(), Node: "node-2", Ready: true, Serving: true})
		}
		o.Slices = append(o.Slices, s)
	}
	return o
}

// slices deals a Service's endpoints out: those of one slice have one port.
func (c Content) slices(i int) (all [][]netip.AddrPort) {
	for e := range c.Endpoints {
		now, last := c.Endpoint(i, e), len(all)-1
		if last < 0 || all[last][0].Port() != now.Port() || len(all[last]) == perSlice {
			all = append(all, nil)
			last++
		}
		all[last] = append(all[last], now)
	}
	return all
}

// sliceName sorts by number.
func sliceName(service string, number int) string { return fmt.Sprintf("%s-%04d", service, number) }
