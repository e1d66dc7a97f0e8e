// Package cluster holds the inputs of the core: what the cluster's objects say (Snapshot) and what this
// node's kernel says (Local). Both are read-only values; the package does no I/O and decides nothing.
package cluster

import "net/netip"

// Snapshot is what a source of cluster state says at one instant. Nobody changes it once it is published.
// Lists are sorted by name (Nodes) and by namespace, then name (Pods).
type Snapshot struct {
	Nodes []Node
	Pods  []Pod // of this node; of a folder of manifests, all

	// What policies need, of the whole cluster; nil: there are none, or nobody asked the source for them. ClusterPolicies
	// and AllNamespaces have names alone. Of pods of other nodes, AllPods need not have the UID.
	AllPods         *Map[Pod]
	AllNamespaces   *Map[Namespace]
	NetworkPolicies *Map[NetworkPolicy]
	ClusterPolicies *Map[ClusterPolicy]

	Services     *Services      // nil: there are none, or nobody asked the source for them
	ServiceCIDRs []netip.Prefix // what cluster IPs are taken from, sorted; empty: not known

	// Incomplete: something could not be read and never has been, so what is missing here may well be wanted.
	Incomplete bool

	// Problems are objects that could not be read: a manifest that does not parse, a node with a bad CIDR.
	Problems []Problem
}

// Node returns the node of that name, and whether there is one.
func (s *Snapshot) Node(name string) (Node, bool) {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// Node is what Polder reads of a Kubernetes Node.
type Node struct {
	Name string

	// Addresses are status.addresses of type InternalIP, then ExternalIP, in the object's order.
	// The first InternalIP of a family is the node's own address in that family.
	Addresses []netip.Addr

	// PodCIDRs are spec.podCIDRs: at most one prefix a family, masked.
	PodCIDRs []netip.Prefix

	Labels  Labels
	Zone    string // label topology.kubernetes.io/zone
	Leaving bool   // it is being deleted, or the cluster autoscaler is about to: no new traffic from load balancers
}

// Address returns the node's own address in a family: its first one that is IPv4 or not.
// The zero Addr says that it has none.
func (n Node) Address(ipv4 bool) netip.Addr {
	for _, a := range n.Addresses {
		if a.Is4() == ipv4 {
			return a
		}
	}
	return netip.Addr{}
}

// PodCIDR returns the node's pod CIDR in a family, and whether it has one.
func (n Node) PodCIDR(ipv4 bool) (netip.Prefix, bool) {
	for _, p := range n.PodCIDRs {
		if p.Addr().Is4() == ipv4 {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Pod is what Polder reads of a Kubernetes Pod.
type Pod struct {
	Namespace, Name string
	UID             string // as the kubelet and the runtime know it
	Node            string
	HostNetwork     bool
	Addresses       []netip.Addr // status.podIPs
	Labels          Labels
	Ports           []PodPort // those with a name
}

// Namespace is what Polder reads of a Kubernetes Namespace.
type Namespace struct {
	Name        string
	Labels      Labels
	Terminating bool
}

// Problem is something about one object that Polder cannot honour. It never stops what other objects ask for.
type Problem struct {
	Object  string // "Node/worker-1", "Pod/default/web", or a manifest's file name
	Message string // one line: what is wrong and what to do
}
