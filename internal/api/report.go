package api

import (
	"net/netip"
	"time"
)

// NodeReport is what the agent answers to the verb Report: what this node is, has and does, for people and for
// programs that read `polder status -o json`. Lists are sorted by their first field unless they say otherwise.
// A field may be added; none is renamed or changes its meaning.
type NodeReport struct {
	Node    string    `json:"node"`
	Version string    `json:"version"` // the agent's
	Ready   bool      `json:"ready"`   // ADD would succeed now
	Synced  time.Time `json:"synced,omitzero"`

	Addresses []Pool     `json:"addresses,omitempty"`
	Peers     []Peer     `json:"peers,omitempty"`
	Pods      []LocalPod `json:"pods,omitempty"`
	Programs  []Hook     `json:"programs,omitempty"`

	// Counters are packets since the datapath was first loaded on this node, by outcome: a drop reason by its name
	// ("drop spoofed source"), or the way a packet was forwarded ("to pod", "to peer").
	Counters map[string]uint64 `json:"counters,omitempty"`

	Problems []Problem `json:"problems,omitempty"`
	Repairs  []Repair  `json:"repairs,omitempty"` // newest first
}

// Pool is one of the node's pod CIDRs. Free does not count what is never given out; Used, Free and Cooling add up to
// what can be.
type Pool struct {
	CIDR    netip.Prefix `json:"cidr"`
	Used    uint64       `json:"used"`
	Free    uint64       `json:"free"`    // saturates at the type's greatest value
	Cooling uint64       `json:"cooling"` // freed a moment ago, not given out again yet
}

// Peer is another node. IPv4 and IPv6 say how its pods are reached; nil: not at all, since this node or the other
// has no such addresses.
type Peer struct {
	Node      string         `json:"node"`
	Addresses []netip.Addr   `json:"addresses,omitempty"`
	PodCIDRs  []netip.Prefix `json:"podCIDRs,omitempty"`
	IPv4      *PeerPath      `json:"ipv4,omitempty"`
	IPv6      *PeerPath      `json:"ipv6,omitempty"`
}

// PeerPath is how packets get to a peer's pods in one family.
type PeerPath struct {
	Kind string `json:"kind"` // "native", "tunnel" or "fabric", as route.Kind prints itself
	MTU  int    `json:"mtu"`  // bytes of an IP packet between pods on this path
}

// LocalPod is a pod's link on this node.
type LocalPod struct {
	Namespace   string       `json:"namespace,omitempty"` // empty, as Name: the runtime named no Kubernetes pod
	Name        string       `json:"name,omitempty"`
	Addresses   []netip.Addr `json:"addresses,omitempty"`
	Link        string       `json:"link"` // the host side's name
	MTU         int          `json:"mtu"`
	Network     string       `json:"network"`
	ContainerID string       `json:"containerID"`
	Ifname      string       `json:"ifname"` // inside the pod

	Policies *PodPolicies `json:"policies,omitempty"` // nil: policies are off
}

// PodPolicies is what policies make of a pod.
type PodPolicies struct {
	Ingress PolicyState `json:"ingress"`
	Egress  PolicyState `json:"egress"`
	Why     string      `json:"why,omitempty"` // a direction is closed: in words
}

// PolicyState is what policies make of one direction.
type PolicyState string

// The states.
const (
	Open     PolicyState = "open"     // no policy isolates the pod
	Isolated PolicyState = "isolated" // what its policies allow passes
	Closed   PolicyState = "closed"   // nothing passes but to and from its own node
)

// Hook is a program of the datapath on a link.
type Hook struct {
	Link    string `json:"link"`
	Program string `json:"program"` // as desired.Program names it
	How     string `json:"how"`     // "tcx", or "clsact" where the kernel has no tcx; "missing": wanted, not there
}

// Problem is something about one object that Polder cannot honour.
type Problem struct {
	Object  string `json:"object"`
	Message string `json:"message"`
}

// Repair is something of Polder's that foreign hands changed and the agent set right.
type Repair struct {
	Time  time.Time `json:"time"`
	Table string    `json:"table"` // "routes", "programs", …
	Row   string    `json:"row"`
	Verb  string    `json:"verb"` // "put back", "removed"
}
