package explain

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
)

// Ports are consecutive ports of a protocol. ICMP, which stands for all protocols without ports, has 0 alone.
type Ports struct {
	Protocol    cluster.Protocol
	First, Last uint16
}

const lastPort = 1<<16 - 1

func protocolsInOrder() []cluster.Protocol {
	return []cluster.Protocol{cluster.TCP, cluster.UDP, cluster.SCTP, ICMP}
}

// String is "80/TCP", "1-79/TCP" or "ICMP".
func (p Ports) String() string {
	switch {
	case p.Protocol == ICMP:
		return protocolName(ICMP)
	case p.First == p.Last:
		return fmt.Sprintf("%d/%s", p.First, p.Protocol)
	}
	return fmt.Sprintf("%d-%d/%s", p.First, p.Last, p.Protocol)
}

// portClasses parts all ports of all protocols by those that are named, so that no part holds one of a named range's ports and
// one that is not of it.
func portClasses(of []Ports) (classes []Ports) {
	for _, protocol := range protocolsInOrder()[:3] {
		begins := map[int]bool{1: true}
		for _, p := range of {
			if p.Protocol == protocol {
				begins[int(p.First)], begins[int(p.Last)+1] = true, true
			}
		}
		delete(begins, lastPort+1)
		sorted := slices.Sorted(maps.Keys(begins))
		for i, first := range sorted {
			last := lastPort
			if i+1 < len(sorted) {
				last = sorted[i+1] - 1
			}
			classes = append(classes, Ports{protocol, uint16(first), uint16(last)})
		}
	}
	return append(classes, Ports{Protocol: ICMP})
}

// PortsText lists classes of ports in few words: "443/TCP", "all TCP but 80", "everything".
func PortsText(list []Ports) string {
	var texts []string
	wholes := 0
	for _, protocol := range protocolsInOrder() {
		of := joined(list, protocol)
		gaps := gapsIn(of)
		switch {
		case len(of) == 0:
		case len(gaps) == 0:
			wholes++
			texts = append(texts, allOf(protocol))
		case len(gaps) < len(of):
			texts = append(texts, "all "+protocol.String()+" but "+strings.Join(gaps, " and "))
		default:
			for _, p := range of {
				texts = append(texts, p.String())
			}
		}
	}
	if wholes == len(protocolsInOrder()) {
		return "everything"
	}
	return strings.Join(texts, ", ")
}

func allOf(protocol cluster.Protocol) string {
	if protocol == ICMP {
		return protocolName(ICMP)
	}
	return "all " + protocol.String()
}

// joined are the ports of a protocol, in order, as few ranges as there may be.
func joined(list []Ports, protocol cluster.Protocol) (of []Ports) {
	list = slices.DeleteFunc(slices.Clone(list), func(p Ports) bool { return p.Protocol != protocol })
	slices.SortFunc(list, func(a, b Ports) int { return int(a.First) - int(b.First) })
	for _, p := range list {
		if n := len(of) - 1; n >= 0 && int(of[n].Last)+1 == int(p.First) {
			of[n].Last = p.Last
			continue
		}
		of = append(of, p)
	}
	return of
}

// gapsIn are the ports beside ranges that are joined.
func gapsIn(of []Ports) (gaps []string) {
	if len(of) == 0 || of[0].Protocol == ICMP {
		return nil
	}
	next := 1
	gap := func(last int) {
		switch {
		case next == last:
			gaps = append(gaps, fmt.Sprint(next))
		case next < last:
			gaps = append(gaps, fmt.Sprintf("%d-%d", next, last))
		}
	}
	for _, p := range of {
		gap(int(p.First) - 1)
		next = int(p.Last) + 1
	}
	gap(lastPort)
	return gaps
}
