// Package oracle answers straight from the cluster's objects what the datapath should do. It is slow, short, and shares
// no code with what it judges. Tests judge by it, and `polder explain` answers with it.
package oracle

import (
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// Node is what the answer depends on besides the Services.
type Node struct {
	Name, Zone  string
	ExternalIPs bool
	Reserved    map[netip.Addr]string
	HostPorts   []HostPort
}

// HostPort is a port of the node that leads to a pod. No two are at one destination.
type HostPort struct {
	To      Destination
	Backend netip.AddrPort
}

// Destination is what a client connects to. An unspecified address stands for any of the node's: a node port.
type Destination struct {
	netip.AddrPort
	Protocol cluster.Protocol
}

// Verdict is what becomes of a client.
type Verdict string

// The verdicts.
const (
	NotAFrontend Verdict = "not a frontend"
	Choose       Verdict = "choose"
	Refuse       Verdict = "refuse"
	Drop         Verdict = "drop"
)

// Backends says what becomes of a client of a destination, and which backends it may get. Outside is a client that is
// neither a pod nor the node itself.
func Backends(services []*cluster.ServiceObjects, node Node, to Destination, outside bool) (map[netip.AddrPort]bool, Verdict) {
	var best *asker
	for _, o := range services {
		for _, p := range o.Service.Ports {
			if a := asks(services, node, o, p, to); a != nil && (best == nil || a.before(best)) {
				best = a
			}
		}
	}
	if best == nil {
		return hostPort(services, node, to)
	}
	return best.answer(node, to.Addr().Is4(), outside)
}

// asker is a port of a Service that asks for a destination.
type asker struct {
	*cluster.ServiceObjects
	port     cluster.ServicePort
	internal bool // as a cluster IP
}

// asks says whether a port of a Service asks for a destination that it may have.
func asks(services []*cluster.ServiceObjects, node Node, o *cluster.ServiceObjects, p cluster.ServicePort, to Destination) *asker {
	svc, addr := o.Service, to.Addr()
	hasFamily := slices.ContainsFunc(svc.ClusterIPs, func(a netip.Addr) bool { return a.Is4() == addr.Is4() })
	if p.Protocol != to.Protocol || !hasFamily || to.Port() == 0 {
		return nil
	}
	if addr.IsUnspecified() {
		if p.NodePort != to.Port() {
			return nil
		}
		return &asker{o, p, false}
	}
	if p.Port != to.Port() {
		return nil
	}
	if slices.Contains(svc.ClusterIPs, addr) {
		return &asker{o, p, true}
	}
	external := slices.Contains(svc.LoadBalancerIPs, addr) || node.ExternalIPs && slices.Contains(svc.ExternalIPs, addr)
	if external && addr.IsGlobalUnicast() && node.Reserved[addr] == "" && !isClusterIP(services, addr) {
		return &asker{o, p, false}
	}
	return nil
}

func isClusterIP(services []*cluster.ServiceObjects, addr netip.Addr) bool {
	for _, o := range services {
		if slices.Contains(o.Service.ClusterIPs, addr) {
			return true
		}
	}
	return false
}

// before says who has a destination that both ask for.
func (a *asker) before(b *asker) bool {
	x, y := a.Service, b.Service
	switch {
	case a.internal != b.internal:
		return a.internal
	case x.Created != y.Created:
		return x.Created < y.Created
	case x.UID != y.UID:
		return x.UID < y.UID
	case x.Namespace != y.Namespace:
		return x.Namespace < y.Namespace
	}
	return x.Name < y.Name
}

func hostPort(services []*cluster.ServiceObjects, node Node, to Destination) (map[netip.AddrPort]bool, Verdict) {
	for _, h := range node.HostPorts {
		unspecified := netip.IPv6Unspecified()
		if to.Addr().Is4() {
			unspecified = netip.IPv4Unspecified()
		}
		nodePort := Destination{netip.AddrPortFrom(unspecified, to.Port()), to.Protocol}
		if h.To != to {
			continue
		}
		if _, verdict := Backends(services, Node{}, nodePort, false); verdict == NotAFrontend {
			return map[netip.AddrPort]bool{h.Backend: true}, Choose
		}
	}
	return nil, NotAFrontend
}

// answer follows the traffic policy that counts for the client.
func (a *asker) answer(node Node, ipv4, outside bool) (map[netip.AddrPort]bool, Verdict) {
	all := a.endpoints(ipv4)
	anywhere := usable(preferred(all, node))
	onlyLocal := a.internal && a.Service.InternalLocal || !a.internal && a.Service.ExternalLocal && outside
	chosen := anywhere
	if onlyLocal {
		chosen = usable(where(all, func(e endpoint) bool { return e.Node == node.Name }))
	}
	switch {
	case len(chosen) > 0:
		return chosen, Choose
	case len(anywhere) > 0:
		return nil, Drop
	}
	return nil, Refuse
}

// endpoint is one of a slice, with the number of the port there.
type endpoint struct {
	cluster.Endpoint
	at netip.AddrPort
}

func (a *asker) endpoints(ipv4 bool) (all []endpoint) {
	for _, s := range a.Slices {
		for _, p := range s.Ports {
			for _, e := range s.Endpoints {
				fits := s.IPv4 == ipv4 && e.Addr.Is4() == ipv4 && p.Name == a.port.Name && p.Protocol == a.port.Protocol
				if fits && p.Port != 0 && e.Addr.IsGlobalUnicast() {
					all = append(all, endpoint{e, netip.AddrPortFrom(e.Addr, p.Port)})
				}
			}
		}
	}
	return all
}

func where(all []endpoint, is func(endpoint) bool) (some []endpoint) {
	for _, e := range all {
		if is(e) {
			some = append(some, e)
		}
	}
	return some
}

// preferred drops the ready endpoints that hints keep for clients elsewhere: hints of nodes if all have some and this
// node is named, else those of zones likewise.
func preferred(all []endpoint, node Node) []endpoint {
	ready := where(all, func(e endpoint) bool { return e.Ready })
	for _, hints := range []struct {
		of   func(endpoint) []string
		here string
	}{
		{func(e endpoint) []string { return e.ForNodes }, node.Name},
		{func(e endpoint) []string { return e.ForZones }, node.Zone},
	} {
		hinted := where(ready, func(e endpoint) bool { return len(hints.of(e)) > 0 })
		here := where(ready, func(e endpoint) bool { return slices.Contains(hints.of(e), hints.here) })
		if len(hinted) == len(ready) && len(here) > 0 {
			return here
		}
	}
	return all
}

// usable are the ready ones; if there are none, those that end and still serve.
func usable(all []endpoint) map[netip.AddrPort]bool {
	some := where(all, func(e endpoint) bool { return e.Ready })
	if len(some) == 0 {
		some = where(all, func(e endpoint) bool { return e.Serving && e.Terminating })
	}
	set := map[netip.AddrPort]bool{}
	for _, e := range some {
		set[e.at] = true
	}
	return set
}
