package netdev

import (
	"fmt"

	"github.com/polder-net/polder/internal/cluster"
)

// CheckPodRows says whether this node still has what PutPod wrote for a pod: to each of its addresses a route of its
// own, by its link, and the pod's MAC address as a permanent neighbour. The error names the first that is not there.
func (k *Kernel) CheckPodRows(p cluster.LocalPod) error {
	c, err := k.take()
	if err != nil {
		return err
	}
	defer k.give(c)
	found, err := c.lookups(p.Addresses)
	if err != nil {
		return fmt.Errorf("check routes to %s: %w", p.Link, err)
	}
	for _, a := range p.Addresses {
		r, ok := found[a]
		if !ok || !r.prefix.IsSingleIP() || len(r.hops) != 1 || r.hops[0].index != p.Index {
			return fmt.Errorf("check link %s: the node has no route to %s by it", p.Link, a)
		}
		if err := c.checkNeighbour(p.Index, a, p.PodMAC); err != nil {
			return fmt.Errorf("check link %s: %w", p.Link, err)
		}
	}
	return nil
}
