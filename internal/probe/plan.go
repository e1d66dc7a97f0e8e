package probe

import (
	"math/rand/v2"
	"net/netip"
	"slices"
)

// sampleAbove is the number of endpoints up to which every ordered pair is probed.
const sampleAbove = 64

// samplePairs is about how many pairs a sample has: as many as sampleAbove endpoints have in all.
const samplePairs = sampleAbove * (sampleAbove - 1)

// pair is an ordered pair of endpoints, by their places in the list of all.
type pair struct{ from, to int }

// choosePairs returns the ordered pairs to probe, and how many there are. The sample is the same for the same number
// of nodes and endpoints: each endpoint sends and receives equally often, and every pair of nodes is in it as long as
// they are few. The first endpoints are the nodes.
func choosePairs(nodes, endpoints int, all bool) (pairs []pair, possible int) {
	possible = endpoints * (endpoints - 1)
	if all || endpoints <= sampleAbove {
		for from := range endpoints {
			for to := range endpoints {
				if from != to {
					pairs = append(pairs, pair{from, to})
				}
			}
		}
		return pairs, possible
	}
	seen := map[pair]bool{}
	add := func(p pair) {
		if p.from != p.to && !seen[p] {
			seen[p] = true
			pairs = append(pairs, p)
		}
	}
	if nodes <= sampleAbove {
		for from := range nodes {
			for to := range nodes {
				add(pair{from, to})
			}
		}
	}
	// A circle of all endpoints in random order: everyone sends to those at the same few distances.
	random := rand.New(rand.NewPCG(uint64(nodes), uint64(endpoints)))
	circle := random.Perm(endpoints)
	distances := random.Perm(endpoints - 1)[:min(endpoints-1, max(1, samplePairs/endpoints))]
	for _, d := range distances {
		for i := range circle {
			add(pair{circle[i], circle[(i+d+1)%endpoints]})
		}
	}
	return pairs, possible
}

// path is one address of the receiver of a pair.
type path struct {
	from, to *end
	at       listener
}

// paths are the paths of a pair: all of the receiver's addresses of families that the sender has, too.
func paths(from, to *end) []path {
	var list []path
	for _, l := range to.Listeners {
		if from.has(l.Address.Is4()) {
			list = append(list, path{from, to, l})
		}
	}
	return list
}

func (e *end) has(ipv4 bool) bool { return e.address(ipv4).IsValid() }

// address is what the endpoint sends from in a family, the zero one if it is not of it.
func (e *end) address(ipv4 bool) netip.Addr {
	for _, l := range e.Listeners {
		if l.Address.Is4() == ipv4 {
			return l.Address
		}
	}
	return netip.Addr{}
}

// isDenied says whether anything that would be tried on the path is not to get through.
func (p path) isDenied(denied func(netip.Addr, netip.AddrPort, bool) bool) bool {
	if denied == nil {
		return false
	}
	from := p.from.address(p.at.Address.Is4())
	return denied(from, netip.AddrPortFrom(p.at.Address, p.at.TCP), false) || denied(from, netip.AddrPortFrom(p.at.Address, p.at.UDP), true)
}

// owns says whether an address is the endpoint's own: in the pod, or in the node's object.
func (e *end) owns(a netip.Addr) bool {
	if e.isNode() && slices.Contains(e.session.node.Addresses, a) {
		return true
	}
	for _, l := range e.Listeners {
		if l.Address == a {
			return true
		}
	}
	return false
}
