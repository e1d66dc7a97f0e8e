package desired

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/route"
)

// Options are what the user may set.
type Options struct {
	Routing         route.Mode
	NeverMasquerade []netip.Prefix // besides the cluster's own
	Services        bool           // serve Services, as kube-proxy does
	Policies        bool           // judge packets by NetworkPolicies and ClusterNetworkPolicies
	ExternalIPs     bool           // honour spec.externalIPs, which let whoever may write a Service take over any address
}

// Compile says which tables this node should have, and what of its input it cannot honour.
func Compile(opts Options, snap *cluster.Snapshot, local cluster.Local) (Tables, []cluster.Problem) {
	problems := slices.Clone(snap.Problems)
	nodes, refused := acceptedNodes(snap.Nodes)
	problems = append(problems, refused...)
	self, why := find(nodes, local.Node)
	off := opts.Routing == route.ModeOff
	if why != "" && !off {
		problems = append(problems, cluster.Problem{Object: "Node/" + local.Node, Message: why})
	}
	problems = append(problems, rivalProblems(opts, local)...)
	peers := route.CompilePeers(opts.Routing, self, nodes, local, opts.Services)
	t := Tables{
		Self:       self,
		Endpoints:  map[netip.Addr]route.Endpoint{},
		Remotes:    peers.Remotes,
		Hooks:      hooks(opts, local, peers.Tunnel != nil),
		Tunnel:     peers.Tunnel,
		Routes:     peers.Routes,
		Rules:      peers.Rules,
		Neighbours: map[route.NeighbourKey]cluster.MAC{},
		Sysctls:    map[string]string{},
		PodMTU:     peers.PodMTU,
	}
	if !off {
		t.Masquerade, t.Sysctls = masquerade(opts, self, nodes), sysctls(self, local, peers.Tunnel != nil)
	}
	t.Config = config(opts, self, snap, local)
	if opts.Services && local.Cookie == 0 {
		withoutSockets(t, self, snap.ServiceCIDRs)
	}
	for _, a := range slices.Concat(self.Addresses, local.Gateways) {
		t.Endpoints[a] = route.Endpoint{}
	}
	for _, p := range local.Pods {
		problems = append(problems, podProblems(p)...)
		if !p.Up && !p.Behind { // the kernel takes no route to it, and nothing would come through
			continue
		}
		rows := route.CompilePod(self, p)
		maps.Copy(t.Endpoints, rows.Endpoints)
		maps.Copy(t.Routes, rows.Routes)
		maps.Copy(t.Neighbours, rows.Neighbours)
	}
	return t, append(problems, peers.Problems...)
}

// asksConntrack says whether others on this node may translate packets.
func asksConntrack(opts Options, local cluster.Local) bool {
	return !opts.Services || len(local.Translators) > 0
}

func config(opts Options, self cluster.Node, snap *cluster.Snapshot, local cluster.Local) Config {
	c := Config{Tunnel: local.Tunnel, Services: opts.Services, Policies: opts.Policies, SocketUDP: local.ClosesSockets, HostCookie: local.Cookie,
		AskConntrack: asksConntrack(opts, local), OthersPods: opts.Routing == route.ModeOff}
	c.PodCIDR4, _ = self.PodCIDR(true)
	c.PodCIDR6, _ = self.PodCIDR(false)
	c.Node4, c.Node6 = self.Address(true), self.Address(false)
	for _, p := range snap.ServiceCIDRs {
		switch ipv4 := p.Addr().Is4(); {
		case ipv4 && !c.ServiceCIDR4.IsValid():
			c.ServiceCIDR4 = p
		case !ipv4 && !c.ServiceCIDR6.IsValid():
			c.ServiceCIDR6 = p
		}
	}
	return c
}

// rivalProblems is about another proxy on this node that serves the same Services.
func rivalProblems(opts Options, local cluster.Local) []cluster.Problem {
	var where []string
	for _, t := range local.Translators {
		if t.Who == cluster.KubeProxy {
			where = append(where, t.Where)
		}
	}
	if !opts.Services || len(where) == 0 {
		return nil
	}
	return []cluster.Problem{{Object: "Node/" + local.Node, Message: fmt.Sprintf(
		"kube-proxy's rules are on this node (%s): both serve Services; stop it and run `polder migrate kube-proxy`",
		strings.Join(where, ", "))}}
}

func podProblems(p cluster.LocalPod) (problems []cluster.Problem) {
	object := "Pod/" + p.Namespace + "/" + p.Name
	if p.Damaged {
		object = "Link/" + p.Link
		problems = append(problems, cluster.Problem{Object: object, Message: fmt.Sprintf(
			"somebody overwrote its record (ifalias): whose it is, is not known; it keeps %v, as the kernel says; deleting the pod removes it", p.Addresses)})
	}
	if !p.Up && !p.Behind {
		problems = append(problems, cluster.Problem{Object: object, Message: fmt.Sprintf(
			"its link %s is down: its ADD was cut off, or somebody set it down; the runtime's DEL removes it, 'ip link set %[1]s up' mends it", p.Link)})
	}
	return problems
}

// withoutSockets leads the node's own packets to Services through the loopback device, where a program sees them. What
// comes back carries a Service's address, or one of the node's own, as its source: on that device, that is no lie.
func withoutSockets(t Tables, self cluster.Node, cidrs []netip.Prefix) {
	for _, p := range cidrs {
		if src := self.Address(p.Addr().Is4()); src.IsValid() {
			t.Routes[route.RouteKey{Prefix: p}] = route.Route{Link: route.Loopback, Src: src}
		}
	}
	t.Sysctls["net/ipv4/conf/"+route.Loopback+"/accept_local"] = "1"
	t.Sysctls["net/ipv4/conf/"+route.Loopback+"/rp_filter"] = "2"
}

// find returns a node by its name, and why no pod can get an address on it.
func find(nodes []cluster.Node, name string) (self cluster.Node, why string) {
	i := slices.IndexFunc(nodes, func(n cluster.Node) bool { return n.Name == name })
	switch {
	case i < 0:
		return cluster.Node{Name: name}, "there is no such Node: check --node, or wait for the kubelet to register it"
	case len(nodes[i].PodCIDRs) == 0:
		why = "it has no usable spec.podCIDRs: no pod can get an address (kube-controller-manager assigns them with --allocate-node-cidrs)"
	}
	return nodes[i], why
}

// PodHooks are the programs on a pod's link, in the order in which they are attached.
func PodHooks(opts Options, link string) []Hook {
	hooks := []Hook{{link, FromPod}}
	if opts.Services || opts.Policies {
		hooks = append(hooks, Hook{link, ToPod})
	}
	return hooks
}

func hooks(opts Options, local cluster.Local, tunnel bool) map[Hook]int {
	h := map[Hook]int{}
	for _, p := range local.Pods {
		for _, hook := range PodHooks(opts, p.Link) {
			h[hook] = p.Index
		}
	}
	for _, l := range local.Uplinks {
		h[Hook{l.Name, FromNetwork}] = l.Index
		if opts.Services || opts.Policies {
			h[Hook{l.Name, ToNetwork}] = l.Index
		}
	}
	if opts.Policies && asksConntrack(opts, local) { // what others may translate is judged where it leaves
		for _, l := range local.Others {
			h[Hook{l.Name, ToPod}] = l.Index
		}
	}
	if opts.Services && local.Cookie == 0 {
		h[Hook{route.Loopback, FromHost}] = route.LoopbackIndex
	}
	if tunnel && local.Tunnel != 0 {
		h[Hook{route.TunnelName, FromTunnel}] = local.Tunnel
		h[Hook{route.TunnelName, ToTunnel}] = local.Tunnel
	}
	return h
}

// masquerade covers this node's pods on their way to anything that is not the cluster's.
func masquerade(opts Options, self cluster.Node, nodes []cluster.Node) Masquerade {
	var except []netip.Prefix
	for _, n := range nodes {
		except = append(except, n.PodCIDRs...)
		for _, a := range n.Addresses {
			except = append(except, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, p := range opts.NeverMasquerade {
		except = append(except, p.Masked())
	}
	return Masquerade{From: disjoint(self.PodCIDRs), Except: disjoint(except)}
}

// disjoint sorts prefixes and leaves out those within another.
func disjoint(prefixes []netip.Prefix) []netip.Prefix {
	sorted := slices.SortedFunc(slices.Values(prefixes), func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	var out []netip.Prefix
	for _, p := range sorted {
		if len(out) == 0 || !out[len(out)-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// sysctls lets the kernel forward. Forwarding IPv6 stops a node from accepting router advertisements unless it is
// told to go on (accept_ra 2, Documentation/networking/ip-sysctl.rst): it would lose its own default route.
//
// Reverse path filtering on the tunnel is loose, whatever it is elsewhere: the kernel takes the greater of a link's
// value and that of "all", so 0 would not help where that is 1.
func sysctls(self cluster.Node, local cluster.Local, tunnel bool) map[string]string {
	s := map[string]string{}
	if tunnel && local.Tunnel != 0 {
		s["net/ipv4/conf/"+route.TunnelName+"/rp_filter"] = "2"
	}
	if _, ok := self.PodCIDR(true); ok {
		s["net/ipv4/ip_forward"] = "1"
	}
	if _, ok := self.PodCIDR(false); ok {
		for _, l := range local.Uplinks {
			if l.AcceptsRA {
				s["net/ipv6/conf/"+l.Name+"/accept_ra"] = "2"
			}
		}
		s["net/ipv6/conf/all/forwarding"] = "1"
	}
	return s
}
