package explain

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/polder-net/polder/internal/oracle"
)

// Place is an end of connections that change: a pod, a node or a region of what is outside.
type Place struct {
	Name  string       // "ns/pod", "node/name", or a region's block with an address of it; of several addresses, with which one
	Block netip.Prefix // of a region; of others the zero value
	node  string       // which it is, or where the pod runs in the later cluster; empty: none
}

// otherNodes stands for all nodes but the one where a pod runs, with which it may always talk.
const otherNodes = "node/*"

// OtherNodes are the nodes where a pod does not run, and the place that stands for all of them.
func (d *Difference) OtherNodes(pod Place) (nodes []Place, all Place) {
	for _, n := range d.nodes {
		if n.node != pod.node {
			nodes = append(nodes, n)
		}
	}
	return nodes, Place{Name: otherNodes}
}

// IsPod says whether it is neither a node nor a region.
func (p Place) IsPod() bool { return !p.Block.IsValid() && !p.IsNode() }

// IsNode says whether it is a node.
func (p Place) IsNode() bool { return !p.Block.IsValid() && isNodeName(p.Name) }

func isNodeName(name string) bool { return len(name) > 5 && name[:5] == "node/" }

// site is an address of a place in both clusters.
type site struct {
	Place
	at    [2]netip.Addr
	pods  [2]*corev1.Pod // whose the addresses are; nil: no pod's
	class *class
}

func (s *site) ipv4() bool { return s.at[1].Is4() }

// pod names whose address it is; empty: no pod's.
func (s *site) pod() string {
	if s.pods[1] == nil {
		return ""
	}
	return s.pods[1].Namespace + "/" + s.pods[1].Name
}

// sites are those of which something can be said, and the names of the others: of pods and nodes that only one of the clusters
// has, or that have no address there.
func (b *both) sites() (all []*site, left []string) {
	pods, nodes := map[string][2][]netip.Addr{}, map[string][2][]netip.Addr{}
	for i, c := range b.clusters {
		for _, p := range c.pods {
			if !p.host {
				own := slices.DeleteFunc(slices.Clone(p.addresses), func(a netip.Addr) bool { return !isPodOf(b.owners[i][a], p.name) })
				addAddresses(pods, p.name, i, own)
			}
		}
		for _, n := range c.objects.Nodes {
			addAddresses(nodes, "node/"+n.Name, i, slices.DeleteFunc(oracle.NodeAddresses(n), func(a netip.Addr) bool { return b.owners[i][a] != nil }))
		}
	}
	for _, of := range []map[string][2][]netip.Addr{pods, nodes} {
		for name, addresses := range of {
			sites, not := sitesOf(name, addresses)
			all, left = append(all, sites...), append(left, not...)
		}
	}
	for i := range b.regions {
		r := &b.regions[i]
		if !slices.ContainsFunc(all, func(s *site) bool { return s.ipv4() == r.block.Addr().Is4() }) {
			r.sample = netip.Addr{} // nobody is there to talk to it
		}
		if r.sample.IsValid() {
			all = append(all, &site{Place: r.place(), at: [2]netip.Addr{r.sample, r.sample}})
		}
	}
	for _, s := range all {
		s.pods = [2]*corev1.Pod{b.owners[0][s.at[0]], b.owners[1][s.at[1]]}
		if s.pods[1] != nil {
			s.node = s.pods[1].Spec.NodeName
		} else if nodes := b.nodes[1][s.at[1]]; len(nodes) > 0 {
			s.node = nodes[0].Name
		}
	}
	slices.Sort(left)
	return all, left
}

func isPodOf(p *corev1.Pod, name string) bool { return p != nil && p.Namespace+"/"+p.Name == name }

func addAddresses(of map[string][2][]netip.Addr, name string, i int, more []netip.Addr) {
	addresses := of[name]
	addresses[i] = append(addresses[i], more...)
	of[name] = addresses
}

// place is a region as an end. That of a whole family is what is outside.
func (r region) place() Place {
	if r.within < 0 {
		return Place{Name: fmt.Sprintf("outside (%s)", r.sample), Block: r.block}
	}
	return Place{Name: fmt.Sprintf("%s (%s)", r.block, r.sample), Block: r.block}
}

// sitesOf pairs the addresses that somebody has in both clusters: those that stay, then the others of a family in order.
func sitesOf(name string, addresses [2][]netip.Addr) (sites []*site, left []string) {
	if len(addresses[0]) == 0 || len(addresses[1]) == 0 {
		return nil, []string{name}
	}
	for _, ipv4 := range []bool{true, false} {
		var of [2][]netip.Addr
		for i := range addresses {
			for _, a := range addresses[i] {
				if a.Is4() == ipv4 && !slices.Contains(of[i], a) {
					of[i] = append(of[i], a)
				}
			}
		}
		several := len(of[0]) > 1 || len(of[1]) > 1
		label := func(a netip.Addr) string {
			if !several {
				return name
			}
			return fmt.Sprintf("%s (%s)", name, a)
		}
		for _, pair := range pairUp(of[0], of[1]) {
			switch {
			case pair[0].IsValid() && pair[1].IsValid():
				sites = append(sites, &site{Place: Place{Name: label(pair[1])}, at: pair})
			case pair[0].IsValid():
				left = append(left, fmt.Sprintf("%s (%s)", name, pair[0]))
			default:
				left = append(left, fmt.Sprintf("%s (%s)", name, pair[1]))
			}
		}
	}
	return sites, left
}

// pairUp pairs equals, then others by position. Who is without a partner is with the invalid address.
func pairUp(old, now []netip.Addr) (pairs [][2]netip.Addr) {
	var gone, come []netip.Addr
	for _, a := range old {
		if slices.Contains(now, a) {
			pairs = append(pairs, [2]netip.Addr{a, a})
		} else {
			gone = append(gone, a)
		}
	}
	for _, a := range now {
		if !slices.Contains(old, a) {
			come = append(come, a)
		}
	}
	for i := range max(len(gone), len(come)) {
		var pair [2]netip.Addr
		if i < len(gone) {
			pair[0] = gone[i]
		}
		if i < len(come) {
			pair[1] = come[i]
		}
		pairs = append(pairs, pair)
	}
	return pairs
}
