package explain

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// route says which way a packet goes; of a client outside, by way of the nodes that may have chosen the backend. Without
// the nodes' kernels, it is known which nodes are neighbours to nobody.
func (c *Cluster) route(from end, src, dst netip.Addr, via []cluster.Node) string {
	if from.vacant != nil {
		return fmt.Sprintf("from %s, where no pod has the address: nobody sends from it", from.vacant.Name)
	}
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
		return c.leave(from, own, dst, via)
	case own == nil:
		return enter(n.Name, via)
	}
	return between(*own, *n, p != nil || !isHost(from))
}

func isHost(e end) bool { return e.vacant == nil && (e.pod == nil || e.pod.host) }

// enter is the way of a client outside to a node.
func enter(to string, via []cluster.Node) string {
	switch {
	case !handedOver(to, via):
		return "from outside the cluster to " + to
	case len(via) == 1:
		return fmt.Sprintf("from outside the cluster to %s, which hands it over to %s", via[0].Name, to)
	}
	return fmt.Sprintf("from outside the cluster to %s, by way of whichever node it comes to", to)
}

// handedOver says whether another node than the backend's own may have chosen it.
func handedOver(to string, via []cluster.Node) bool {
	return slices.ContainsFunc(via, func(n cluster.Node) bool { return n.Name != to })
}

// notes says whose address policies see where a client outside gets to a pod by another node: what the agents' flags make
// of it is in no object.
func (c *Cluster) notes(w Way, via []cluster.Node, protocol cluster.Protocol) []string {
	src, to := w.Pairs[0].From, w.Pairs[0].To
	p := c.podAt(to.Addr())
	if p == nil || !handedOver(p.node, via) {
		return nil
	}
	whose, other := "that node's", false
	if len(via) == 1 {
		whose = via[0].Name + "'s"
	}
	for _, n := range via {
		a := n.Address(src.Is4())
		other = other || n.Name != p.node && a.IsValid() && c.Judge(a, to, protocol).Allowed != w.Allowed
	}
	note := fmt.Sprintf("policies see the client's address, %s; with --routing native or --services off they may see %s own instead", src, whose)
	switch {
	case other && w.Allowed:
		note += ", and deny it"
	case other:
		note += ", and allow it"
	}
	return []string{note}
}

// between is the way from node to node. A node's own packets to another node's address go as its routes lead.
func between(own, other cluster.Node, ofPods bool) string {
	if !ofPods {
		return fmt.Sprintf("from %s to %s, as the node's own routes lead", own.Name, other.Name)
	}
	return fmt.Sprintf("from %s to %s: natively if they are neighbours, else by the tunnel", own.Name, other.Name)
}

// nodeOfPodsAt is the node in whose pod CIDRs an address is, nil if there is none.
func (c *Cluster) nodeOfPodsAt(a netip.Addr) *cluster.Node {
	for i, n := range c.nodes {
		if slices.ContainsFunc(n.PodCIDRs, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return &c.nodes[i]
		}
	}
	return nil
}

// leave is the way to an address of no pod and no node.
func (c *Cluster) leave(from end, own *cluster.Node, dst netip.Addr, via []cluster.Node) string {
	if n := c.nodeOfPodsAt(dst); n != nil {
		return fmt.Sprintf("to %s, where no pod has the address: unreachable", n.Name)
	}
	switch {
	case own == nil && len(via) == 1:
		return fmt.Sprintf("from outside the cluster to %s and out of it, under an address of %[1]s", via[0].Name)
	case own == nil && len(via) > 1:
		return "from outside the cluster to whichever node it comes to and out of it, under that node's address"
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
