package service

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// portNames lists the ports of a Service in each of its families. Ports of one name and protocol are one: they lead to
// the same backends.
func portNames(svc *cluster.Service) []PortName {
	names := make([]PortName, 0, len(svc.Ports)*len(svc.ClusterIPs))
	for _, ipv4 := range []bool{true, false} {
		if hasFamily(svc, ipv4) {
			for _, p := range svc.Ports {
				names = append(names, PortName{svc.ServiceName, p.Name, p.Protocol, ipv4})
			}
		}
	}
	if len(names) > 1 {
		slices.SortFunc(names, PortName.Compare)
	}
	return slices.Compact(names)
}

// compile makes the ports of a Service, sorted by name, with the frontends that it has been given.
func (t *Table) compile(o *cluster.ServiceObjects) []*Port {
	svc, names := o.Service, portNames(o.Service)
	ports := make([]*Port, len(names))
	for i, name := range names {
		ports[i] = &Port{Name: name, Frontends: map[Frontend]Kind{}, InternalLocal: svc.InternalLocal,
			ExternalLocal: svc.ExternalLocal, Affinity: svc.Affinity, HealthCheckNodePort: svc.HealthCheckNodePort}
	}
	for f, c := range claims(t.self, svc) {
		if t.frontends.owners[f] == c && t.blocked(f.Addr, c) == "" {
			find(ports, c.name(f)).Frontends[f] = c.kind
		}
	}
	for _, ipv4 := range []bool{true, false} {
		t.fill(o, ipv4, ports)
	}
	return ports
}

// find returns the port of a name, nil if there is none.
func find(ports []*Port, name PortName) *Port {
	at, found := slices.BinarySearchFunc(ports, name, func(p *Port, n PortName) int { return p.Name.Compare(n) })
	if !found {
		return nil
	}
	return ports[at]
}

// fill gives the ports of one family their backends. Equal lists are one list.
func (t *Table) fill(o *cluster.ServiceObjects, ipv4 bool, ports []*Port) {
	if !hasFamily(o.Service, ipv4) {
		return
	}
	ready, ranges := localReady(t.self, o.Slices, ipv4), sourceRanges(o.Service, ipv4)
	var last []Backend
	for _, p := range ports {
		name := p.Name
		if name.IPv4 != ipv4 {
			continue
		}
		c := chooser{t.self, o.Slices, name.Port, name.Protocol, ipv4}
		p.LocalReady, p.SourceRanges = ready, ranges
		p.Cluster = shared(c.cluster(), last)
		if p.usesLocal() {
			p.Local = shared(c.local(), p.Cluster)
		}
		last = p.Cluster
		if old := t.ports[name]; old != nil {
			p.Cluster, p.Local = shared(p.Cluster, old.Cluster), shared(p.Local, old.Local)
			p.SourceRanges = shared(p.SourceRanges, old.SourceRanges)
		}
	}
}

// usesLocal says whether a traffic policy that a frontend follows is Local.
func (p *Port) usesLocal() bool {
	for _, kind := range p.Frontends {
		if followsLocal(kind, p.InternalLocal, p.ExternalLocal) {
			return true
		}
	}
	return false
}

func followsLocal(kind Kind, internal, external bool) bool {
	return kind == ClusterIP && internal || kind != ClusterIP && external
}

// shared returns old where it is equal.
func shared[E comparable](list, old []E) []E {
	if slices.Equal(list, old) {
		return old
	}
	return list
}

// sourceRanges are a Service's of one family: sorted, none where everybody may come in.
func sourceRanges(svc *cluster.Service, ipv4 bool) []netip.Prefix {
	var ranges []netip.Prefix
	for _, r := range svc.SourceRanges {
		if r.Addr().Is4() != ipv4 {
			continue
		}
		if r.Bits() == 0 {
			return nil
		}
		ranges = append(ranges, r)
	}
	slices.SortFunc(ranges, netip.Prefix.Compare)
	return slices.Compact(ranges)
}

// equal says whether two ports are the same. Nil is no port.
func equal(a, b *Port) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Name == b.Name && maps.Equal(a.Frontends, b.Frontends) &&
		slices.Equal(a.Cluster, b.Cluster) && slices.Equal(a.Local, b.Local) &&
		a.InternalLocal == b.InternalLocal && a.ExternalLocal == b.ExternalLocal && a.Affinity == b.Affinity &&
		slices.Equal(a.SourceRanges, b.SourceRanges) &&
		a.LocalReady == b.LocalReady && a.HealthCheckNodePort == b.HealthCheckNodePort
}
