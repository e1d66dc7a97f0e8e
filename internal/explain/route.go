package explain

import (
	"fmt"
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
)

// route says which way a packet goes. Without the nodes' kernels, it is known which nodes are neighbours to nobody.
func (c *Cluster) route(from end, src, dst netip.Addr) string {
	own := c.host(from)
	p, n := c.podAt(dst), c.nodeAt(dst)
	switch {
	case p != nil && p == from.pod || src == dst:
		return "back to the sender itself"
	case p != nil:
		n = c.nodeNamed(p.node)
		if n == nil {
			return fmt.Sprintf("to node %q, of which there is no object", p.node)
		}
		if own != nil && own.Name == n.Name {
			return "on the same node, " + own.Name
		}
	case n != nil && own != nil && own.Name == n.Name:
		return "to its own node, " + own.Name
	}
	switch {
	case own == nil && from.pod != nil:
		return fmt.Sprintf("from node %q, of which there is no object", from.pod.node)
	case n == nil:
		return c.leave(from, own, dst)
	case own == nil:
		return fmt.Sprintf("from outside the cluster to %s", n.Name)
	}
	return between(*own, *n, p != nil || !isHost(from))
}

func isHost(e end) bool { return e.pod == nil || e.pod.host }

// between is the way from node to node. A node's own packets to another node's address go as its routes lead.
func between(own, other cluster.Node, ofPods bool) string {
	if !ofPods {
		return fmt.Sprintf("from %s to %s, as the node's own routes lead", own.Name, other.Name)
	}
	return fmt.Sprintf("from %s to %s: natively if they are neighbours, else by the tunnel", own.Name, other.Name)
}

// leave is the way to an address of no pod and no node.
func (c *Cluster) leave(from end, own *cluster.Node, dst netip.Addr) string {
	for _, n := range c.nodes {
		for _, p := range n.PodCIDRs {
			if p.Contains(dst) {
				return fmt.Sprintf("to %s, where no pod has the address: unreachable", n.Name)
			}
		}
	}
	switch {
	case own == nil:
		return "outside the cluster from end to end"
	case isHost(from):
		return fmt.Sprintf("out of the cluster from %s", own.Name)
	}
	if a := own.Address(dst.Is4()); a.IsValid() {
		return fmt.Sprintf("out of the cluster, masqueraded as %s (%s)", a, own.Name)
	}
	return fmt.Sprintf("out of the cluster, masqueraded as an address of %s", own.Name)
}
