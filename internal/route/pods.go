package route

import (
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
)

// PodRows are the rows of one local pod.
type PodRows struct {
	Endpoints  map[netip.Addr]Endpoint
	Routes     map[RouteKey]Route
	Neighbours map[NeighbourKey]cluster.MAC
}

// CompilePod turns one local pod into its rows. The node's own address is the source of what the node sends it. How the
// node reaches a pod of another plugin is that one's to say.
func CompilePod(self cluster.Node, p cluster.LocalPod) PodRows {
	rows := PodRows{map[netip.Addr]Endpoint{}, map[RouteKey]Route{}, map[NeighbourKey]cluster.MAC{}}
	for _, a := range p.Addresses {
		rows.Endpoints[a] = Endpoint{Index: p.Index, PodMAC: p.PodMAC, HostMAC: p.HostMAC, Shaped: p.Shaped,
			Ingress: p.Ingress, Egress: p.Egress, Late: p.Late}
		if p.Behind {
			continue
		}
		rows.Routes[RouteKey{0, netip.PrefixFrom(a, a.BitLen())}] = Route{Link: p.Link, Src: self.Address(a.Is4())}
		rows.Neighbours[NeighbourKey{p.Link, a}] = p.PodMAC
	}
	return rows
}
