package explain

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// Cell is one question about all pairs.
type Cell struct {
	From, To string // names of pods, or what Outside calls addresses
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

// party is one end of a cell.
type party struct {
	name      string
	addresses []netip.Addr
	ports     []port // to which others connect
}

// Pairs answers for all pods and all ports that they declare; of pods that declare none, all that any policy names. With
// outside, for a sample of what is outside, too: an address of each block that a policy names, and of none.
func (c *Cluster) Pairs(outside bool) map[Cell]Ruling {
	all := map[Cell]Ruling{}
	parties := c.parties(outside)
	for _, from := range parties {
		for _, to := range parties {
			if from.name == to.name || c.podNamed(from.name) == nil && c.podNamed(to.name) == nil {
				continue
			}
			for _, p := range to.ports {
				c.cells(all, from, to, p)
			}
		}
	}
	return all
}

func (c *Cluster) cells(all map[Cell]Ruling, from, to party, p port) {
	for _, src := range from.addresses {
		for _, dst := range to.addresses {
			if src.Is4() == dst.Is4() {
				w := c.Judge(src, netip.AddrPortFrom(dst, p.number), p.protocol)
				all[Cell{from.name, to.name, p.protocol, p.number, src.Is4()}] = Ruling{w.Allowed, w.Because()}
			}
		}
	}
}

// parties are the pods that have addresses to themselves, and samples of what is outside.
func (c *Cluster) parties(outside bool) (all []party) {
	named := c.namedPorts()
	for _, p := range c.pods {
		if p.host || len(p.addresses) == 0 {
			continue
		}
		of := party{p.name, p.addresses, slices.Clone(p.ports)}
		if c.beside != nil {
			if twin := c.beside.podNamed(p.name); twin != nil {
				of.ports = append(of.ports, twin.ports...)
			}
		}
		if len(of.ports) == 0 {
			of.ports = named
		}
		all = append(all, of)
	}
	if !outside {
		return all
	}
	for name, a := range c.samples() {
		all = append(all, party{name, []netip.Addr{a}, named})
	}
	slices.SortFunc(all, func(a, b party) int { return cmp.Compare(a.name, b.name) })
	return all
}

// namedPorts are the numbers that policies name, each once; 80 if none names any.
func (c *Cluster) namedPorts() []port {
	set := map[port]bool{}
	add := func(p cluster.Protocol, number int32) {
		if number > 0 && number < 1<<16 {
			set[port{"", p, uint16(number)}] = true
		}
	}
	c.eachPort(add)
	if len(set) == 0 {
		add(cluster.TCP, 80)
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b port) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.protocol, b.protocol))
	})
}
