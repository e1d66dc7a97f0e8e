// Package route turns nodes and local pods into rows: who is reached how, by the datapath and by the kernel's own
// stack. It is pure.
package route

import (
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
)

// Endpoint is an address of this node that the datapath delivers to without asking the kernel's stack. Key: the address.
type Endpoint struct {
	// Index of the host side of the pod's link; 0: the address is this node's own and the stack's.
	Index           int
	PodMAC, HostMAC cluster.MAC

	// Shaped: the pod's packets must pass through the queues of its link, so both ways lead through the stack.
	Shaped bool

	// The rulesets of the pod (policy.ID): 0: everything passes. Late: it ran before it was isolated, so that it has
	// flows which nobody has seen begin.
	Ingress, Egress uint64
	Late            bool
}

// Kind is how packets get to a remote prefix.
type Kind uint8

// The values are those of enum remote_kind in bpf/types.h.
const (
	Native Kind = iota + 1 // to Via, a neighbour on a link of ours
	Fabric                 // wherever the kernel's own routes lead: the fabric knows pod CIDRs
	Tunnel                 // encapsulated to the node's address
)

func (k Kind) String() string {
	switch k {
	case Native:
		return "native"
	case Fabric:
		return "fabric"
	case Tunnel:
		return "tunnel"
	}
	return "unknown"
}

// Remote is a prefix that belongs to another node: its pod CIDR or one of its own addresses. Key: the prefix.
type Remote struct {
	Kind  Kind
	Node  netip.Addr // the node's identity, and the tunnel's far end
	Via   netip.Addr // Native: the next hop
	Index int        // Native: the link of the next hop
	Host  bool       // the prefix is the node's own address, not its pods'
}

// RouteKey identifies a kernel route among those that Polder owns.
type RouteKey struct {
	Table  int // 0: the main table
	Prefix netip.Prefix
}

// Route is a kernel route that Polder owns: the stack's view of what the datapath does.
type Route struct {
	Link        string     // empty: the route says "unreachable"
	Via         netip.Addr // zero: on-link
	Src         netip.Addr // preferred source; zero: the kernel's choice
	Unreachable bool
}

// Loopback is the device that leads the node's own packets to Services past from_host, where no socket program has
// replaced the Service's address. Its index is 1 in every network namespace.
const (
	Loopback      = "lo"
	LoopbackIndex = 1
)

// Rule sends packets from a source prefix to a routing table of ours. Key: the prefix; value: the table.
type Rule struct {
	From  netip.Prefix
	Table int
}

// NeighbourKey identifies a neighbour entry.
type NeighbourKey struct {
	Link string
	Addr netip.Addr
}

// TunnelDevice is the one VXLAN device of a node; all its nodes' devices share one MAC address, so that no node
// needs to learn another's.
type TunnelDevice struct {
	Name string
	MTU  int // bytes
	Port uint16
	MAC  cluster.MAC
}

// The tunnel's constants, the same on every node of a cluster.
const (
	TunnelName = "polder-vxlan"
	TunnelPort = 4789   // IANA's
	TunnelVNI  = 0x706f // "po"

	// TunnelTable is the routing table that leads pods to the addresses of nodes behind the tunnel.
	TunnelTable = 28783
)

// tunnelMAC is the address of every node's tunnel device: locally administered.
func tunnelMAC() cluster.MAC { return cluster.MAC{0x02, 'p', 'o', 'l', 'd', 'r'} }
