package service

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// chooser chooses the backends of one port of a Service in one family. An endpoint may be in several slices: it then
// counts for each of them, so that it is chosen if it would be by what any of them says.
type chooser struct {
	self     Self
	slices   []*cluster.EndpointSlice
	port     string
	protocol cluster.Protocol
	ipv4     bool
}

// candidates yields what may be chosen: endpoints that are not refused, with each number that their slice has for the port.
func (c *chooser) candidates() iter.Seq2[Backend, *cluster.Endpoint] {
	return func(yield func(Backend, *cluster.Endpoint) bool) {
		for _, s := range c.slices {
			for _, p := range s.Ports {
				if s.IPv4 != c.ipv4 || p.Name != c.port || p.Protocol != c.protocol {
					continue
				}
				for i := range s.Endpoints {
					e := &s.Endpoints[i]
					if refusedEndpoint(s, e.Addr, p.Port) == "" && !yield(Backend{e.Addr, p.Port}, e) {
						return
					}
				}
			}
		}
	}
}

// preference is which clients' endpoints are preferred.
type preference uint8

const (
	anywhere preference = iota
	sameZone
	sameNode
)

// preference follows the hints if every ready endpoint has some and one of them names this node, else this node's zone.
func (c *chooser) preference() preference {
	allNodes, allZones, node, zone := true, true, false, false
	for _, e := range c.candidates() {
		if e.Ready {
			allNodes = allNodes && len(e.ForNodes) > 0
			allZones = allZones && len(e.ForZones) > 0
			node = node || c.prefers(e, sameNode)
			zone = zone || c.prefers(e, sameZone)
		}
	}
	switch {
	case allNodes && node:
		return sameNode
	case allZones && zone:
		return sameZone
	}
	return anywhere
}

func (c *chooser) prefers(e *cluster.Endpoint, p preference) bool {
	switch p {
	case sameNode:
		return c.self.Node != "" && slices.Contains(e.ForNodes, c.self.Node)
	case sameZone:
		return c.self.Zone != "" && slices.Contains(e.ForZones, c.self.Zone)
	}
	return true
}

// cluster is the set for traffic policy Cluster: ready endpoints that hints do not keep for others. Where nothing is
// ready anywhere, those that end but still serve.
func (c *chooser) cluster() []Backend {
	p := c.preference()
	list := c.collect(func(e *cluster.Endpoint) bool { return e.Ready && c.prefers(e, p) })
	if len(list) == 0 {
		list = c.collect(lastResort)
	}
	return list
}

// local is the set for traffic policy Local: hints do not matter, and the last resort is this node's own.
func (c *chooser) local() []Backend {
	list := c.collect(func(e *cluster.Endpoint) bool { return e.Ready && isLocal(c.self, e) })
	if len(list) == 0 {
		list = c.collect(func(e *cluster.Endpoint) bool { return lastResort(e) && isLocal(c.self, e) })
	}
	return list
}

func lastResort(e *cluster.Endpoint) bool { return e.Serving && e.Terminating }

func isLocal(self Self, e *cluster.Endpoint) bool { return self.Node != "" && e.Node == self.Node }

// collect lists the candidates that are wanted: sorted, without doubles, no longer than need be.
func (c *chooser) collect(wanted func(*cluster.Endpoint) bool) []Backend {
	n := 0
	for _, e := range c.candidates() {
		if wanted(e) {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	list := make([]Backend, 0, n)
	for b, e := range c.candidates() {
		if wanted(e) {
			list = append(list, b)
		}
	}
	slices.SortFunc(list, Backend.Compare)
	return slices.Compact(list)
}

// localReady counts the addresses of this node's ready endpoints, whatever their port: a load balancer's health check
// is one for the whole Service.
func localReady(self Self, all []*cluster.EndpointSlice, ipv4 bool) int {
	var found []netip.Addr
	for _, s := range all {
		numbered := slices.ContainsFunc(s.Ports, func(p cluster.EndpointPort) bool { return p.Port != 0 })
		if s.IPv4 != ipv4 || !numbered {
			continue
		}
		for i := range s.Endpoints {
			if e := &s.Endpoints[i]; e.Ready && isLocal(self, e) && refusedEndpoint(s, e.Addr, 1) == "" {
				found = append(found, e.Addr)
			}
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	return len(slices.Compact(found))
}
