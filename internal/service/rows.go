// Package service turns Services and EndpointSlices into rows: which addresses clients use, and which backends
// serve them on this node. It is pure.
package service

import (
	"cmp"
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
)

// PortName identifies one port of a Service in one address family: what is chosen, and swapped, as a whole.
type PortName struct {
	cluster.ServiceName
	Port     string // its name; empty where the Service has but one
	Protocol cluster.Protocol
	IPv4     bool
}

// Compare orders by Service, then port, protocol and family, IPv4 first.
func (n PortName) Compare(other PortName) int {
	family := func(ipv4 bool) int {
		if ipv4 {
			return 4
		}
		return 6
	}
	return cmp.Or(n.ServiceName.Compare(other.ServiceName), cmp.Compare(n.Port, other.Port),
		cmp.Compare(n.Protocol, other.Protocol), cmp.Compare(family(n.IPv4), family(other.IPv4)))
}

// Frontend is an address, port and protocol that clients use. An unspecified address (0.0.0.0 or ::) stands for every
// address of every node: a node port.
type Frontend struct {
	Addr     netip.Addr
	Port     uint16
	Protocol cluster.Protocol
}

func (f Frontend) String() string {
	return netip.AddrPortFrom(f.Addr, f.Port).String() + "/" + f.Protocol.String()
}

// Compare orders by address, port and protocol.
func (f Frontend) Compare(other Frontend) int {
	return cmp.Or(f.Addr.Compare(other.Addr), cmp.Compare(f.Port, other.Port), cmp.Compare(f.Protocol, other.Protocol))
}

// Kind is what makes an address a frontend.
type Kind uint8

// The kinds. All but ClusterIP are external: they follow externalTrafficPolicy where the client is outside.
const (
	ClusterIP Kind = iota
	ExternalIP
	LoadBalancer
	NodePort
	HostPort
)

func (k Kind) String() string {
	return [...]string{"ClusterIP", "ExternalIP", "LoadBalancer", "NodePort", "HostPort"}[k]
}

// Backend is an address and port that serves a frontend.
type Backend struct {
	Addr netip.Addr
	Port uint16
}

// Compare orders by address, then port.
func (b Backend) Compare(other Backend) int {
	return cmp.Or(b.Addr.Compare(other.Addr), cmp.Compare(b.Port, other.Port))
}

// Port is what one port of a Service asks of this node in one address family.
type Port struct {
	Name PortName

	// Frontends are those that it has, after conflicts with others are settled.
	Frontends map[Frontend]Kind

	// Cluster and Local are the backends to choose from, each sorted and without doubles: Cluster whatever their
	// node, Local those of this node. Local is filled only where a traffic policy that a frontend follows is Local.
	// Equal lists may be one list.
	Cluster, Local []Backend

	InternalLocal bool // the cluster IP leads to Local alone
	ExternalLocal bool // so do external frontends for clients from outside; pods and the node itself get Cluster

	Affinity     int            // seconds; 0: none
	SourceRanges []netip.Prefix // of the port's family: who may use frontends of kind LoadBalancer; empty: everybody

	// LocalReady is the number of this node's endpoints of the Service, whatever their port, that are ready: what a
	// load balancer's health check asks.
	LocalReady          int
	HealthCheckNodePort uint16
}

// Choose returns the backends for a client of a frontend of some kind. None: refuse the client, or where drop is set,
// leave it without an answer (there are backends elsewhere; other nodes have them).
func (p *Port) Choose(kind Kind, outside bool) (backends []Backend, drop bool) {
	local := p.InternalLocal
	if kind != ClusterIP {
		local = p.ExternalLocal && outside
	}
	if !local {
		return p.Cluster, false
	}
	return p.Local, len(p.Local) == 0 && len(p.Cluster) > 0
}
