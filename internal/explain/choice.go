package explain

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
)

// choice is what Services make of a packet's destination.
type choice struct {
	service  *Service // nil: none has it
	backends []netip.AddrPort
	refusals []string
	via      map[netip.AddrPort][]cluster.Node // of a client outside: which nodes may choose a backend; nil: the Service's have no say
}

// choose asks the Services what becomes of a client's packet to an address.
func (c *Cluster) choose(from end, src netip.Addr, to netip.AddrPort, protocol cluster.Protocol) choice {
	dst := oracle.Destination{AddrPort: to, Protocol: protocol}
	at := c.nodeAt(to.Addr())
	if at != nil {
		dst.AddrPort = netip.AddrPortFrom(unspecified(to.Addr()), to.Port())
	}
	s := c.servedAt(dst)
	if s == nil {
		return c.notServed(to, protocol, at)
	}
	found := choice{service: s, via: map[netip.AddrPort][]cluster.Node{}}
	if refusal := c.notAdmitted(s, src, to.Addr()); refusal != "" {
		found.refusals = []string{refusal}
		return found
	}
	nodes, outside := c.choosers(from, at, s.Policy == local)
	for _, n := range nodes {
		backends, verdict := oracle.Backends(c.services, oracle.Node{Name: n.Name, Zone: n.Zone}, dst, outside)
		switch verdict {
		case oracle.Refuse:
			found.add("refused: no endpoint is ready")
		case oracle.Drop:
			found.add(fmt.Sprintf("dropped at %s: no endpoint there, and the policy is Local", n.Name))
		case oracle.Choose:
			found.backends = append(found.backends, slices.Collect(maps.Keys(backends))...)
			for b := range backends {
				if c.isOutside(from) {
					found.via[b] = append(found.via[b], n)
				}
			}
		}
	}
	slices.SortFunc(found.backends, netip.AddrPort.Compare)
	found.backends = slices.Compact(found.backends)
	return found
}

func (ch *choice) add(refusal string) {
	if !slices.Contains(ch.refusals, refusal) {
		ch.refusals = append(ch.refusals, refusal)
	}
}

// tellFamily says of refusals which family they are of.
func (ch *choice) tellFamily(family string) {
	for i, r := range ch.refusals {
		ch.refusals[i] = family + " " + r
	}
}

// choosers are the nodes of which one chooses a backend: the client's own; that of a node port, which of another node is asked
// where backends are to be local; or, of a client outside, whichever its packet comes to. At: the node whose port it is, nil:
// it is none. It also says whether the client is outside for them.
func (c *Cluster) choosers(from end, at *cluster.Node, local bool) (nodes []cluster.Node, outside bool) {
	own := c.host(from)
	if own == nil && from.pod != nil { // of a node that nobody knows
		own = &cluster.Node{Name: from.pod.node}
	}
	switch {
	case at != nil && (own == nil || local && own.Name != at.Name):
		return []cluster.Node{*at}, true
	case own != nil:
		return []cluster.Node{*own}, false
	}
	return c.nodes, true
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// servedAt finds the Service port that has a destination, nil if there is none: a cluster IP is nobody else's, and of
// others the older Service has it.
func (c *Cluster) servedAt(to oracle.Destination) *Service {
	var found *Service
	var of *cluster.Service
	for _, o := range c.services {
		s := o.Service
		for _, p := range s.Ports {
			kind := kindOf(s, p, to)
			if kind == "" || found != nil && (found.Kind == clusterIP || kind != clusterIP && !older(s, of)) {
				continue
			}
			found, of = &Service{Name: s.String(), Port: p.Name, Kind: kind, Policy: anywhere, Traffic: "external"}, s
			if kind == clusterIP {
				found.Traffic = "internal"
			}
			if kind == clusterIP && s.InternalLocal || kind != clusterIP && s.ExternalLocal {
				found.Policy = local
			}
		}
	}
	return found
}

func older(a, b *cluster.Service) bool {
	return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.UID, b.UID), a.Compare(b.ServiceName)) < 0
}

// The traffic policies.
const (
	anywhere = "Cluster"
	local    = "Local"
)

// The kinds of a Service's addresses.
const (
	clusterIP       = "cluster IP"
	nodePort        = "node port"
	externalAddress = "external address"
)

// kindOf says what a destination is of a Service's port; empty: nothing. External IPs, which agents honour only where they
// are told to, are nothing.
func kindOf(s *cluster.Service, p cluster.ServicePort, to oracle.Destination) string {
	hasFamily := slices.ContainsFunc(s.ClusterIPs, func(a netip.Addr) bool { return a.Is4() == to.Addr().Is4() })
	switch {
	case p.Protocol != to.Protocol || !hasFamily:
		return ""
	case to.Addr().IsUnspecified() && p.NodePort == to.Port() && to.Port() != 0:
		return nodePort
	case p.Port != to.Port():
		return ""
	case slices.Contains(s.ClusterIPs, to.Addr()):
		return clusterIP
	case slices.Contains(s.LoadBalancerIPs, to.Addr()) && to.Addr().IsGlobalUnicast():
		return externalAddress
	}
	return ""
}

// notServed is a destination of no Service's port: a host port, a cluster IP that refuses, or itself.
func (c *Cluster) notServed(to netip.AddrPort, protocol cluster.Protocol, at *cluster.Node) choice {
	if s := c.serviceAt(to.Addr()); s != nil {
		refusal := fmt.Sprintf("refused: it has no port %d/%s", to.Port(), protocol)
		if protocol == ICMP {
			refusal = "not delivered: Services are for TCP, UDP and SCTP"
		}
		return choice{
			service:  &Service{Name: s.String(), Kind: clusterIP, Policy: anywhere, Traffic: "internal"},
			refusals: []string{refusal},
		}
	}
	if backend, ok := c.hostPort(to, protocol, at); ok {
		return choice{backends: []netip.AddrPort{backend}}
	}
	return choice{backends: []netip.AddrPort{to}}
}

// hostPort finds the pod port that a port of a node leads to.
func (c *Cluster) hostPort(to netip.AddrPort, protocol cluster.Protocol, at *cluster.Node) (netip.AddrPort, bool) {
	for _, o := range c.objects.Pods {
		if at == nil || o.Spec.NodeName != at.Name || o.Spec.HostNetwork {
			continue
		}
		for _, p := range oracle.PodPorts(o) {
			of, ok := protocolOf(p.Protocol)
			if !ok || of != protocol || p.HostPort == 0 || p.HostPort != int32(to.Port()) {
				continue
			}
			for _, a := range oracle.PodAddresses(o) {
				if a.Is4() == to.Addr().Is4() {
					return netip.AddrPortFrom(a, uint16(p.ContainerPort)), true
				}
			}
		}
	}
	return netip.AddrPort{}, false
}

// notAdmitted says why a load balancer's address is not for a client; empty: it is.
func (c *Cluster) notAdmitted(s *Service, src, to netip.Addr) string {
	of := c.serviceNamed(s.Name)
	inRange := func(p netip.Prefix) bool { return p.Contains(src) }
	if !slices.Contains(of.LoadBalancerIPs, to) || len(of.SourceRanges) == 0 || slices.ContainsFunc(of.SourceRanges, inRange) {
		return ""
	}
	return fmt.Sprintf("dropped: %s is not in loadBalancerSourceRanges", src)
}
