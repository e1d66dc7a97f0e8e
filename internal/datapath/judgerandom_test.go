package datapath

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// rulesModel is what the tables say, in the plainest words.
type rulesModel struct {
	classes map[netip.Addr]uint64
	blocks  map[netip.Prefix]uint64
	rows    map[bpfRuleKey][]bpfSpan
}

func (m rulesModel) class(a netip.Addr) uint64 {
	if c, ok := m.classes[a]; ok {
		return c
	}
	longest, class := -1, uint64(0)
	for p, c := range m.blocks {
		if p.Contains(a) && p.Bits() > longest {
			longest, class = p.Bits(), c
		}
	}
	return class
}

func (m rulesModel) allows(ruleset uint64, peer netip.Addr, proto byte, port uint16) bool {
	if ruleset < 2 {
		return ruleset == 0
	}
	class := m.class(peer)
	for _, k := range []bpfRuleKey{{Ruleset: ruleset, Class: class, Proto: proto}, {Ruleset: ruleset, Class: class}, {Ruleset: ruleset, Proto: proto}, {Ruleset: ruleset}} {
		for _, s := range m.rows[k] {
			if s.First <= port && port <= s.Last {
				return s.Decision&letPass != 0
			}
		}
	}
	return false
}

// randomRow cuts all ports into spans.
func randomRow(r *rand.Rand) (spans []bpfSpan) {
	var cuts []int
	for range r.IntN(20) {
		cuts = append(cuts, 1+r.IntN(40))
	}
	slices.Sort(cuts)
	first := 0
	for _, cut := range append(slices.Compact(cuts), 65536) {
		spans = append(spans, span(uint16(first), uint16(cut-1), uint32(r.IntN(2))<<31|uint32(r.IntN(9))))
		first = cut
	}
	return spans
}

func TestRandomPacketsAreJudgedAsTheTablesSay(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pods := []string{"10.0.1.2", "10.0.1.3", "10.0.1.4"}
	others := []string{"10.0.2.7", "10.0.2.8", "198.51.100.7", "198.51.100.200", "192.0.2.2"}
	inCourt(t, func(t *testing.T, c court) {
		for range 15 {
			c.reset()
			m := rulesModel{map[netip.Addr]uint64{}, map[netip.Prefix]uint64{}, map[bpfRuleKey][]bpfSpan{}}
			for _, a := range slices.Concat(pods, others) {
				if r.IntN(2) == 0 {
					class := uint64(10 + r.IntN(3))
					m.classes[c.f.addr(a)] = class
					c.class(a, class)
				}
			}
			for range 3 {
				a, bits, class := others[r.IntN(len(others))], 16+r.IntN(17), uint64(10+r.IntN(3))
				if !c.f.ipv4 {
					bits *= 4
				}
				m.blocks[netip.PrefixFrom(c.f.addr(a), bits).Masked()] = class
				c.block(a, bits, bits, class)
			}
			for range 25 {
				k := bpfRuleKey{Ruleset: uint64(100 + r.IntN(3)), Class: []uint64{0, 10, 11, 12}[r.IntN(4)], Proto: []byte{0, byte(c.f.protocol)}[r.IntN(2)]}
				if m.rows[k] == nil {
					m.rows[k] = randomRow(r)
					c.row(k.Ruleset, k.Class, k.Proto, m.rows[k]...)
				}
			}
			rulesets := map[string][2]uint64{}
			for _, p := range pods {
				rulesets[p] = [2]uint64{[]uint64{0, 1, 100, 101, 102}[r.IntN(5)], []uint64{0, 1, 100, 101, 102}[r.IntN(5)]}
				c.isolate(p, rulesets[p][0], rulesets[p][1])
			}
			for i := range 60 { // every packet begins a flow
				from, to := slices.Concat(pods[:2], others)[r.IntN(7)], pods[r.IntN(3)]
				if from[:7] == "10.0.1." {
					to = slices.Concat(pods, others)[r.IntN(8)]
				}
				if from == to {
					continue
				}
				port := uint16(r.IntN(45))
				want := ""
				if !m.allows(rulesets[from][1], c.f.addr(to), byte(c.f.protocol), port) {
					want = toEgress
				} else if !m.allows(rulesets[to][0], c.f.addr(from), byte(c.f.protocol), port) {
					want = toIngress
				}
				p, link := c.hookOf(from)
				got := c.runIn(p, link, 0, c.f.packet(fmt.Sprint(from, ":", 1000+i), fmt.Sprint(to, ":", port)).bytes())
				if want == "" && got[:3] == "to " {
					continue
				}
				if got != want {
					t.Fatalf("%s to %s, port %d: %s, want %s", from, to, port, got, want)
				}
			}
		}
	})
}
