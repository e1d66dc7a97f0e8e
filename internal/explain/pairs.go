package explain

import (
	"cmp"
	"fmt"
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
)

// Cell is one question about all pairs.
type Cell struct {
	From, To string // names of pods
	Protocol cluster.Protocol
	Port     uint16
	IPv4     bool
}

// Ruling is the answer.
type Ruling struct {
	Allowed bool
	Because []string
}

// PortText is a cell's port as people write it.
func (c Cell) PortText() string { return fmt.Sprintf("%d/%s", c.Port, c.Protocol) }

// Compare orders by receiver, port, family and sender.
func (c Cell) Compare(d Cell) int {
	family := func(c Cell) int {
		if c.IPv4 {
			return 4
		}
		return 6
	}
	return cmp.Or(cmp.Compare(c.To, d.To), cmp.Compare(c.Port, d.Port), cmp.Compare(c.Protocol, d.Protocol),
		cmp.Compare(family(c), family(d)), cmp.Compare(c.From, d.From))
}

// Pairs answers for all pods that have addresses to themselves and all ports that they declare; of pods that declare none, all
// that any policy names.
func (c *Cluster) Pairs() map[Cell]Ruling {
	all, named := map[Cell]Ruling{}, c.namedPorts()
	for _, from := range c.pods {
		for _, to := range c.pods {
			if from == to || from.host || to.host {
				continue
			}
			ports := to.ports
			if len(ports) == 0 {
				ports = named
			}
			for _, p := range ports {
				c.cells(all, from, to, p)
			}
		}
	}
	return all
}

func (c *Cluster) cells(all map[Cell]Ruling, from, to *pod, p port) {
	for _, src := range from.addresses {
		for _, dst := range to.addresses {
			if src.Is4() == dst.Is4() {
				w := c.Judge(src, netip.AddrPortFrom(dst, p.number), p.protocol)
				all[Cell{from.name, to.name, p.protocol, p.number, src.Is4()}] = Ruling{w.Allowed, w.Because()}
			}
		}
	}
}
