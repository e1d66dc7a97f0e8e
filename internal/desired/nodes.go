package desired

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// acceptedNodes sorts the nodes by name and leaves out the pod CIDRs that cannot be honoured: those that overlap one
// of an earlier node or hold a node's own address. Every node of the cluster comes to the same answer.
func acceptedNodes(nodes []cluster.Node) (accepted []cluster.Node, problems []cluster.Problem) {
	accepted = slices.SortedFunc(slices.Values(nodes), func(a, b cluster.Node) int { return cmp.Compare(a.Name, b.Name) })
	c := newConflicts(accepted)
	for i, n := range accepted {
		var cidrs []netip.Prefix
		for _, p := range n.PodCIDRs {
			if why := c.find(p); why != "" {
				problems = append(problems, cluster.Problem{Object: "Node/" + n.Name, Message: fmt.Sprintf(
					"pod CIDR %s %s: it is not used; give the node another one", p, why)})
				continue
			}
			cidrs = append(cidrs, p)
			c.accept(p, n.Name)
		}
		accepted[i].PodCIDRs = cidrs
	}
	return accepted, problems
}

// conflicts finds overlaps without comparing everything with everything: a cluster's pod CIDRs have one or two
// lengths, so each prefix and address is noted under its parents of these lengths alone.
type conflicts struct {
	lengths []int
	taken   map[netip.Prefix]string // accepted prefixes: what they are, and whose
	within  map[netip.Prefix]string // their parents
	holds   map[netip.Prefix]string // the parents of the nodes' addresses
}

func newConflicts(nodes []cluster.Node) *conflicts {
	c := &conflicts{taken: map[netip.Prefix]string{}, within: map[netip.Prefix]string{}, holds: map[netip.Prefix]string{}}
	for _, n := range nodes {
		for _, p := range n.PodCIDRs {
			if !slices.Contains(c.lengths, p.Bits()) {
				c.lengths = append(c.lengths, p.Bits())
			}
		}
	}
	for _, n := range nodes {
		for _, a := range n.Addresses {
			note(c.holds, a, c.lengths, a.BitLen(), fmt.Sprintf("holds %s, an address of node %s", a, n.Name))
		}
	}
	return c
}

// note writes text under each parent of an address up to a length, unless an earlier one stands there.
func note(m map[netip.Prefix]string, a netip.Addr, lengths []int, upTo int, text string) {
	for _, bits := range lengths {
		parent, err := a.Prefix(bits)
		if err != nil || bits > upTo { // a length of the other family
			continue
		}
		if _, ok := m[parent]; !ok {
			m[parent] = text
		}
	}
}

func (c *conflicts) accept(p netip.Prefix, node string) {
	text := fmt.Sprintf("overlaps %s of node %s", p, node)
	c.taken[p] = text
	note(c.within, p.Addr(), c.lengths, p.Bits(), text)
}

// find returns what is wrong with a prefix, or nothing.
func (c *conflicts) find(p netip.Prefix) string {
	for _, bits := range c.lengths {
		parent, err := p.Addr().Prefix(bits)
		if err == nil && bits <= p.Bits() && c.taken[parent] != "" {
			return c.taken[parent]
		}
	}
	return cmp.Or(c.within[p], c.holds[p])
}
