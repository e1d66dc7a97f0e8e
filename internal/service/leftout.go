package service

import (
	"cmp"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
)

// Excluded is an endpoint that is a backend of a port neither for one traffic policy nor for the other.
type Excluded struct {
	Port    PortName
	Backend Backend // its Port is 0 where the endpoint's slice has no such port
	Reason  string  // in plain words
}

// LeftOut says why endpoints of a Service are left out on this node: port by port, sorted as the backends are. It knows
// nothing of other Services: that this one has what it asks for.
func LeftOut(self Self, objects *cluster.ServiceObjects) []Excluded {
	if objects == nil || objects.Service == nil {
		return nil
	}
	var all []Excluded
	for _, name := range portNames(objects.Service) {
		c := chooser{self, objects.Slices, name.Port, name.Protocol, name.IPv4}
		chosen := c.cluster()
		if asksLocal(self, objects.Service, name) {
			chosen = append(chosen, c.local()...)
		}
		all = append(all, c.leftOut(name, chosen)...)
	}
	return all
}

// asksLocal says whether a traffic policy that a frontend of the port would follow is Local.
func asksLocal(self Self, svc *cluster.Service, name PortName) bool {
	for f, c := range claims(self, svc) {
		if c.name(f) == name && followsLocal(c.kind, svc.InternalLocal, svc.ExternalLocal) {
			return true
		}
	}
	return false
}

func (c *chooser) leftOut(name PortName, chosen []Backend) []Excluded {
	p, out := c.preference(), []Excluded(nil)
	for _, s := range c.slices {
		if s.IPv4 != c.ipv4 {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			for _, number := range c.numbers(s) {
				if b := (Backend{e.Addr, number}); !contains(chosen, b) {
					out = append(out, Excluded{name, b, c.reason(s, e, number, p)})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b Excluded) int {
		return cmp.Or(a.Backend.Compare(b.Backend), strings.Compare(a.Reason, b.Reason))
	})
	return slices.Compact(out)
}

// contains looks for a backend; port 0 stands for any.
func contains(chosen []Backend, b Backend) bool {
	return slices.ContainsFunc(chosen, func(c Backend) bool { return c.Addr == b.Addr && (c.Port == b.Port || b.Port == 0) })
}

// numbers lists what a slice has for the port: 0 alone if it has nothing.
func (c *chooser) numbers(s *cluster.EndpointSlice) (numbers []uint16) {
	for _, p := range s.Ports {
		if p.Name == c.port && p.Protocol == c.protocol && p.Port != 0 {
			numbers = append(numbers, p.Port)
		}
	}
	if len(numbers) == 0 {
		return []uint16{0}
	}
	return numbers
}

func (c *chooser) reason(s *cluster.EndpointSlice, e *cluster.Endpoint, number uint16, p preference) string {
	refused := refusedEndpoint(s, e.Addr, max(number, 1))
	switch {
	case refused != "":
		return "refused: " + refused
	case number == 0:
		return "its slice has no number for this port"
	case e.Ready && p == sameNode:
		return "another node is preferred for it: " + strings.Join(e.ForNodes, ",")
	case e.Ready:
		return "another zone is preferred for it: " + strings.Join(e.ForZones, ",")
	case lastResort(e):
		return "terminating, and others are ready"
	case e.Terminating:
		return "terminating"
	}
	return "not ready"
}
