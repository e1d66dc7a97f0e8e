package route

import (
	"fmt"
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
)

// Mode is how nodes reach each other's pods.
type Mode string

// The modes. Auto is native where a node's address is on-link and the tunnel where it is not.
const (
	ModeAuto   Mode = "auto"
	ModeNative Mode = "native" // the fabric knows pod CIDRs: no route of ours off-link, nothing encapsulated
	ModeTunnel Mode = "tunnel" // always encapsulate
	ModeOff    Mode = "off"    // another CNI plugin connects pods: it knows how they are reached
)

// Bytes that the tunnel adds: outer Ethernet is not counted by an MTU, inner Ethernet is.
const (
	tunnelOverhead4 = 20 + 8 + 8 + 14 // IPv4, UDP, VXLAN, Ethernet
	tunnelOverhead6 = 40 + 8 + 8 + 14

	defaultMTU = 1500 // where the kernel shows no uplink yet
	minMTU6    = 1280 // RFC 8200, 5: the kernel turns IPv6 off on a link with less
)

// Peers is what the other nodes ask of this one.
type Peers struct {
	Remotes map[netip.Prefix]Remote
	Routes  map[RouteKey]Route
	Rules   map[Rule]bool
	Tunnel  *TunnelDevice
	PodMTU  int

	Problems []cluster.Problem
}

// CompilePeers turns the other nodes into rows. nodes holds every node of the cluster with the pod CIDRs that are
// accepted; self is this one. With handover, nodes hand each other the packets of clients outside through the tunnel,
// whatever way pods' packets take; unless nothing of ours may be on the wire.
func CompilePeers(mode Mode, self cluster.Node, nodes []cluster.Node, local cluster.Local, handover bool) Peers {
	c := compiler{mode: mode, self: self, local: local, mtu: uplinkMTU(local), Peers: Peers{
		Remotes: map[netip.Prefix]Remote{}, Routes: map[RouteKey]Route{}, Rules: map[Rule]bool{}}}
	if mode == ModeTunnel {
		c.tunnelMTU(self.Address(true).Is4(), c.mtu)
	}
	for _, n := range nodes {
		if n.Name != self.Name {
			c.node(n)
		}
	}
	if handover && mode != ModeNative && mode != ModeOff && len(nodes) > 1 {
		c.tunnelFor(self.Address(true).Is4(), uplinkMTU(local))
	}
	if mode != ModeOff {
		c.unreachable()
	}
	c.PodMTU = c.mtu
	if _, ipv6 := self.PodCIDR(false); ipv6 && c.mtu < minMTU6 {
		c.PodMTU = minMTU6
		c.Problems = append(c.Problems, cluster.Problem{Object: "Node/" + self.Name, Message: fmt.Sprintf(
			"the least MTU of its paths is %d for pods, but IPv6 needs %d: raise the MTU of the links between nodes", c.mtu, minMTU6)})
	}
	return c.Peers
}

type compiler struct {
	Peers
	mode  Mode
	self  cluster.Node
	local cluster.Local
	mtu   int // the least so far
}

func uplinkMTU(local cluster.Local) int {
	mtu := 0
	for _, l := range local.Uplinks {
		if mtu == 0 || l.MTU < mtu {
			mtu = l.MTU
		}
	}
	if mtu == 0 {
		return defaultMTU
	}
	return mtu
}

// node compiles one peer: its own addresses, then its pods'.
func (c *compiler) node(n cluster.Node) {
	id, path, ok := c.reach(n)
	if !ok {
		return
	}
	tunnelled := c.kind(path) == Tunnel
	for _, a := range n.Addresses {
		c.host(n, a, id, tunnelled)
	}
	for _, p := range n.PodCIDRs {
		c.pods(n, p, id, path)
	}
}

// reach finds the address that stands for the node: the first one that the kernel has a path to, IPv4 before IPv6.
func (c *compiler) reach(n cluster.Node) (id netip.Addr, path cluster.Path, ok bool) {
	for _, ipv4 := range []bool{true, false} {
		id = n.Address(ipv4)
		if path, ok = c.local.Paths[id]; id.IsValid() && ok {
			return id, path, true
		}
	}
	c.Problems = append(c.Problems, cluster.Problem{Object: "Node/" + n.Name, Message: fmt.Sprintf(
		"this node has no route to any of its addresses %v: its pods cannot be reached", n.Addresses)})
	return netip.Addr{}, cluster.Path{}, false
}

func (c *compiler) kind(path cluster.Path) Kind {
	switch {
	case c.mode == ModeTunnel:
		return Tunnel
	case c.mode == ModeOff:
		return Fabric
	case path.OnLink:
		return Native
	case c.mode == ModeNative:
		return Fabric
	}
	return Tunnel
}

// host compiles one address of a peer. Pods reach nodes behind the tunnel through it as well: the fabric there
// knows no pod's address. The node's own traffic never does.
func (c *compiler) host(n cluster.Node, a, id netip.Addr, tunnelled bool) {
	path, ok := c.local.Paths[a]
	prefix := netip.PrefixFrom(a, a.BitLen())
	switch {
	case tunnelled:
		c.tunnel(id, c.local.Paths[id])
		c.Remotes[prefix] = Remote{Kind: Tunnel, Node: id, Host: true}
		if own, has := c.self.PodCIDR(a.Is4()); has {
			c.Routes[RouteKey{TunnelTable, prefix}] = Route{Link: TunnelName}
			c.Rules[Rule{own, TunnelTable}] = true
		}
	case !ok: // an address of the node's that is for others, an ExternalIP
		c.Remotes[prefix] = Remote{Kind: Fabric, Node: id, Host: true}
	case path.OnLink && c.mode != ModeOff:
		c.limit(path.MTU)
		c.Remotes[prefix] = Remote{Kind: Native, Node: id, Via: a, Index: path.Link.Index, Host: true}
	default:
		c.limit(path.MTU)
		c.Remotes[prefix] = Remote{Kind: Fabric, Node: id, Host: true}
	}
}

// pods compiles one pod CIDR of a peer: natively by the node's address of the same family, else through the tunnel,
// which carries either family over either.
func (c *compiler) pods(n cluster.Node, p netip.Prefix, id netip.Addr, idPath cluster.Path) {
	via := n.Address(p.Addr().Is4())
	path, ok := c.local.Paths[via]
	kind := Tunnel
	if ok && c.kind(idPath) != Tunnel {
		kind = c.kind(path)
	} else if !ok && (c.mode == ModeNative || c.mode == ModeOff) {
		kind = Fabric
	}
	src := c.self.Address(p.Addr().Is4())
	switch kind {
	case Native:
		c.limit(path.MTU)
		c.Remotes[p] = Remote{Kind: Native, Node: id, Via: via, Index: path.Link.Index}
		c.Routes[RouteKey{0, p}] = Route{Link: path.Link.Name, Via: via, Src: src}
	case Fabric:
		c.Remotes[p] = Remote{Kind: Fabric, Node: id}
	case Tunnel:
		c.tunnel(id, idPath)
		c.Remotes[p] = Remote{Kind: Tunnel, Node: id}
		c.Routes[RouteKey{0, p}] = Route{Link: TunnelName, Src: src}
	}
}

func (c *compiler) limit(mtu int) {
	if mtu > 0 && mtu < c.mtu {
		c.mtu = mtu
	}
}

func (c *compiler) tunnel(to netip.Addr, path cluster.Path) { c.tunnelMTU(to.Is4(), path.MTU) }

// tunnelMTU asks for the tunnel device, and for packets of pods that fit into it.
func (c *compiler) tunnelMTU(ipv4 bool, path int) { c.limit(c.tunnelFor(ipv4, path)) }

// tunnelFor asks for the tunnel device, with room for the outer headers on a path, and returns what fits.
func (c *compiler) tunnelFor(ipv4 bool, path int) int {
	mtu := path - tunnelOverhead6
	if ipv4 {
		mtu = path - tunnelOverhead4
	}
	if c.Tunnel == nil {
		c.Tunnel = &TunnelDevice{Name: TunnelName, MTU: mtu, Port: TunnelPort, MAC: tunnelMAC()}
	}
	c.Tunnel.MTU = min(c.Tunnel.MTU, mtu)
	return mtu
}

// unreachable answers for the addresses of this node that no pod has: an error at once, not a loop by way of the
// default route.
func (c *compiler) unreachable() {
	for _, p := range c.self.PodCIDRs {
		c.Routes[RouteKey{0, p}] = Route{Unreachable: true}
	}
}
