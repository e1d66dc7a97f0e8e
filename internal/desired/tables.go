// Package desired compiles what the cluster says and what the kernel says into the tables that this node should
// have. It is pure: no I/O, clock, log or goroutine.
package desired

import (
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/route"
)

// Tables are all rows that this node should have. The shell compares them with what is and writes the difference.
type Tables struct {
	// Self is this node as it was compiled for, with the pod CIDRs that are accepted.
	Self cluster.Node

	Config     Config
	Endpoints  map[netip.Addr]route.Endpoint
	Remotes    map[netip.Prefix]route.Remote
	Hooks      map[Hook]int        // value: the link's index
	Tunnel     *route.TunnelDevice // nil: no peer needs one
	Routes     map[route.RouteKey]route.Route
	Rules      map[route.Rule]bool
	Neighbours map[route.NeighbourKey]cluster.MAC
	Masquerade Masquerade
	Sysctls    map[string]string // name with slashes, below /proc/sys: "net/ipv4/ip_forward"

	// PodMTU is the MTU of every pod's link, both ends, in bytes: the least of all paths.
	PodMTU int
}

// Config is the datapath's one configuration row.
type Config struct {
	Tunnel   int // the tunnel device's index, 0 for none
	PodCIDR4 netip.Prefix
	PodCIDR6 netip.Prefix

	Policies     bool   // packets of isolated pods are judged
	Services     bool   // frontends are served
	OthersPods   bool   // another CNI plugin connects pods: only the stack knows their links
	AskConntrack bool   // others on this node translate, too
	SocketUDP    bool   // connected UDP sockets are translated, since those of a backend that is gone can be closed
	HostCookie   uint64 // of this node's network namespace

	Node4, Node6 netip.Addr // this node's own addresses

	ServiceCIDR4 netip.Prefix
	ServiceCIDR6 netip.Prefix
}

// Program is an entry point of the datapath, named as its C function.
type Program string

// The entry points.
const (
	FromPod     Program = "from_pod"     // ingress of the host side of a pod's link
	ToPod       Program = "to_pod"       // egress of it, and of other devices where others translate: what comes through the stack; only with Services or policies
	FromNetwork Program = "from_network" // ingress of an uplink
	ToNetwork   Program = "to_network"   // egress of it; only with Services or policies
	FromTunnel  Program = "from_tunnel"  // ingress of the tunnel device
	ToTunnel    Program = "to_tunnel"    // egress of the tunnel device
	FromHost    Program = "from_host"    // egress of the loopback device; only with Services and without sockets

	// On the root of the node's control groups, for the sockets of all its processes.
	Connect4     Program = "connect4"
	Connect6     Program = "connect6"
	Sendmsg4     Program = "sendmsg4"
	Sendmsg6     Program = "sendmsg6"
	Recvmsg4     Program = "recvmsg4"
	Recvmsg6     Program = "recvmsg6"
	Getpeername4 Program = "getpeername4"
	Getpeername6 Program = "getpeername6"
	Bind4        Program = "bind4"
	Bind6        Program = "bind6"
)

// Hook is a program attached to a link.
type Hook struct {
	Link    string
	Program Program
}

// Masquerade says which packets get this node's address on their way out: those from From to anything but Except.
// Both are sorted, masked and free of overlaps within a list.
type Masquerade struct {
	From   []netip.Prefix
	Except []netip.Prefix
}
