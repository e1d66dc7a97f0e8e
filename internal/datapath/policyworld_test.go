package datapath

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/route"
)

// labels is a set of selectors that match, a bit for each; the upper half are blocks.
type labels uint

const (
	podLabels = 4
	allLabels = 6
)

// rule is one of an ordered list; the first that matches decides.
type rule struct {
	label       int
	allow       bool
	protocol    cluster.Protocol // 0: all
	first, last uint16
}

// text is a ruleset as people write it.
type text struct {
	rules   []rule
	allOpen bool // what no rule matches passes
}

func (x *text) id() policy.ID { return idOf(fmt.Sprint(*x)) }

func idOf(s string) policy.ID {
	sum := sha256.Sum256([]byte(s))
	return policy.ID(binary.BigEndian.Uint64(sum[:]) | 1<<40)
}

func (x *text) labels() (l labels) {
	for _, r := range x.rules {
		l |= 1 << r.label
	}
	return l
}

func (x *text) decide(l labels, protocol cluster.Protocol, port uint16) policy.Decision {
	for i, r := range x.rules {
		if l&(1<<r.label) != 0 && (r.protocol == 0 || r.protocol == protocol) && r.first <= port && port <= r.last {
			return decision(r.allow, i+1)
		}
	}
	return decision(x.allOpen, 0)
}

func decision(allow bool, decider int) policy.Decision {
	d := policy.Decision(decider)
	if allow {
		d |= policy.Allow
	}
	return d
}

func (x *text) row(l labels, protocol cluster.Protocol) (row policy.Row) {
	ends := []int{65535}
	for _, r := range x.rules {
		ends = append(ends, int(r.first)-1, int(r.last))
	}
	slices.Sort(ends)
	next := 0
	for _, end := range slices.Compact(ends) {
		if end < next {
			continue
		}
		row = append(row, policy.Span{First: uint16(next), Last: uint16(end), Decision: x.decide(l, protocol, uint16(next))})
		next = end + 1
	}
	return row
}

// ruleset are the rows for some classes.
func (x *text) ruleset(classes map[labels]bool) *policy.Ruleset {
	rows := map[policy.Key]policy.Row{}
	for l := range classes {
		if l&x.labels() == 0 {
			continue
		}
		x.class(rows, classID(l), l)
	}
	x.class(rows, policy.Others, 0)
	return &policy.Ruleset{Rows: rows}
}

func (x *text) class(rows map[policy.Key]policy.Row, id policy.ID, l labels) {
	rows[policy.Key{Class: id}] = x.row(l, 0)
	for _, p := range []cluster.Protocol{cluster.TCP, cluster.UDP} {
		if row := x.row(l, p); !slices.Equal(row, x.row(l, 0)) {
			rows[policy.Key{Class: id, Protocol: p}] = row
		}
	}
}

func classID(l labels) policy.ID {
	if l == 0 {
		return policy.Others
	}
	return idOf(fmt.Sprint("class ", uint(l)))
}

// policyWorld is all that judges packets on a node.
type policyWorld struct {
	pods   map[cluster.Name][2]*text // ingress, egress; nil: open
	labels map[netip.Addr]labels
	blocks map[netip.Prefix]labels
}

func (w policyWorld) clone() policyWorld {
	return policyWorld{maps.Clone(w.pods), maps.Clone(w.labels), maps.Clone(w.blocks)}
}

// asked are the labels that some ruleset asks for.
func (w policyWorld) asked() (l labels) {
	for _, texts := range w.pods {
		for _, x := range texts {
			if x != nil {
				l |= x.labels()
			}
		}
	}
	return l
}

func (w policyWorld) of(a netip.Addr) labels {
	l := w.labels[a]
	for p, more := range w.blocks {
		if p.Contains(a) {
			l |= more
		}
	}
	return l & w.asked()
}

// all is what the model would say.
func (w policyWorld) all() policy.Changes {
	c := policy.Changes{Subjects: map[cluster.Name]*policy.Subject{}, Addresses: map[netip.Addr]policy.ID{},
		Prefixes: map[netip.Prefix]policy.ID{}, Rulesets: map[policy.ID]*policy.Ruleset{}}
	classes := map[labels]bool{}
	for a, own := range w.labels {
		if own&w.asked() != 0 {
			classes[w.of(a)] = true
			c.Addresses[a] = classID(w.of(a))
		}
	}
	for p, own := range w.blocks {
		if own &= w.asked(); own == 0 {
			continue
		}
		l := labels(0)
		for q, more := range w.blocks {
			if q.Bits() <= p.Bits() && q.Contains(p.Addr()) {
				l |= more & w.asked()
			}
		}
		classes[l] = true
		c.Prefixes[p] = classID(l)
	}
	for name, texts := range w.pods {
		ids := [2]policy.ID{}
		for i, x := range texts {
			if x != nil {
				ids[i] = x.id()
				c.Rulesets[ids[i]] = x.ruleset(classes)
			}
		}
		c.Subjects[name] = &policy.Subject{Ingress: ids[0], Egress: ids[1]}
	}
	return c
}

// since are the changes from what was said before.
func since(before, now policy.Changes) policy.Changes {
	c := policy.Changes{Subjects: map[cluster.Name]*policy.Subject{}, Addresses: map[netip.Addr]policy.ID{},
		Prefixes: map[netip.Prefix]policy.ID{}, Rulesets: map[policy.ID]*policy.Ruleset{}}
	same := func(a, b *policy.Ruleset) bool { return maps.EqualFunc(a.Rows, b.Rows, slices.Equal[policy.Row]) }
	for k := range before.Subjects {
		c.Subjects[k] = nil
	}
	maps.Copy(c.Subjects, now.Subjects)
	for k := range before.Addresses {
		c.Addresses[k] = policy.Others
	}
	maps.Copy(c.Addresses, now.Addresses)
	maps.DeleteFunc(c.Addresses, func(k netip.Addr, v policy.ID) bool { return before.Addresses[k] == v })
	for k := range before.Prefixes {
		c.Prefixes[k] = policy.Others
	}
	maps.Copy(c.Prefixes, now.Prefixes)
	maps.DeleteFunc(c.Prefixes, func(k netip.Prefix, v policy.ID) bool { return before.Prefixes[k] == v })
	for k := range before.Rulesets {
		c.Rulesets[k] = nil
	}
	for k, r := range now.Rulesets {
		c.Rulesets[k] = r
		if old := before.Rulesets[k]; old != nil && same(old, r) {
			delete(c.Rulesets, k)
		}
	}
	return c
}

// policyDice make worlds in which much changes at once.
type policyDice struct{ *rand.Rand }

func podName(i int) cluster.Name { return cluster.Name{Namespace: "ns", Name: fmt.Sprint("pod", i)} }

func podAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 1, byte(2 + i)}) }

func peers() (all []netip.Addr) {
	for _, s := range []string{"10.0.1.2", "10.0.2.2", "10.0.2.3", "10.1.2.3", "10.1.2.4", "10.1.3.1", "10.2.0.1", "192.0.2.1", "fd00::1", "fd00::1:1", "fd00:1::1"} {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func (d policyDice) text() *text {
	if d.IntN(6) == 0 {
		return nil
	}
	x := &text{allOpen: d.IntN(3) == 0}
	for range d.IntN(4) {
		r := rule{label: d.IntN(allLabels), allow: d.IntN(2) == 0, protocol: []cluster.Protocol{0, cluster.TCP, cluster.UDP}[d.IntN(3)], last: 65535}
		if d.IntN(2) == 0 {
			r.first, r.last = []uint16{80, 443, 8000}[d.IntN(3)], 8080
		}
		x.rules = append(x.rules, r)
	}
	if d.IntN(10) == 0 { // many spans
		for i := range uint16(9) {
			x.rules = append(x.rules, rule{label: 0, allow: true, first: 100 * i, last: 100*i + 10})
		}
	}
	return x
}

// next changes something of a world.
func (d policyDice) next(w policyWorld, texts []*text) policyWorld {
	w = w.clone()
	for range 1 + d.IntN(5) {
		switch d.IntN(4) {
		case 0:
			w.pods[podName(d.IntN(4))] = [2]*text{texts[d.IntN(len(texts))], texts[d.IntN(len(texts))]}
		case 1:
			w.labels[peers()[d.IntN(len(peers()))]] = labels(d.Uint()) & (1<<podLabels - 1)
		case 2:
			p, l := d.block(), labels(1<<(podLabels+d.IntN(allLabels-podLabels)))
			if w.blocks[p]&l != 0 {
				delete(w.blocks, p)
			} else {
				w.blocks[p] |= l
			}
		case 3:
			delete(w.pods, podName(d.IntN(4)))
		}
	}
	return w
}

func (d policyDice) block() netip.Prefix {
	all := []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "10.0.2.0/24", "0.0.0.0/0", "::/0", "fd00::/16", "fd00::/64"}
	return netip.MustParsePrefix(all[d.IntN(len(all))])
}

// kernelState is what programs find at some moment.
type kernelState struct {
	at        time.Time
	endpoints map[bpfAddr]bpfEndpoint
	classes   map[bpfAddr]policy.ID
	blocks    map[bpfClassKey]policy.ID
	rules     map[bpfRuleKey]bpfRule
}

// stateOf reads the tables.
func stateOf(t testing.TB, d *Datapath) (s kernelState) {
	t.Helper()
	s.endpoints, s.classes = listRows[bpfAddr, bpfEndpoint](t, d.maps[bpfMapEndpoints]), listRows[bpfAddr, policy.ID](t, d.maps[bpfMapClasses])
	s.blocks, s.rules = listRows[bpfClassKey, policy.ID](t, d.maps[bpfMapBlocks]), listRows[bpfRuleKey, bpfRule](t, d.maps[bpfMapRules])
	return s
}

func listRows[K comparable, V any](t testing.TB, m *ebpf.Map) map[K]V {
	t.Helper()
	rows, keys, values := map[K]V{}, make([]K, 512), make([]V, 512)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			rows[keys[i]] = values[i]
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return rows
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s kernelState) classOf(a netip.Addr) policy.ID {
	key := encodeAddr(a)
	if class, ok := s.classes[key]; ok {
		return class
	}
	best, class := -1, policy.Others
	for k, c := range s.blocks {
		if maskAddr(key, int(k.Prefixlen)) == k.Addr && int(k.Prefixlen) > best {
			best, class = int(k.Prefixlen), c
		}
	}
	return class
}

// find is one look-up.
func (s kernelState) find(ruleset, class policy.ID, protocol cluster.Protocol, port uint16) (policy.Decision, bool) {
	for part := 0; ; part++ {
		row, ok := s.rules[ruleKey(ruleset, policy.Key{Class: class, Protocol: protocol}, part)]
		if !ok {
			return 0, part > 0
		}
		for _, span := range row.Spans {
			if span.First <= port && port <= span.Last {
				return policy.Decision(span.Decision), true
			}
		}
	}
}

// packet is one that pod sends or gets.
type packet struct {
	pod      int
	egress   bool
	peer     netip.Addr
	protocol cluster.Protocol
	port     uint16
}

func packets() (all []packet) {
	for pod := range 4 {
		for _, egress := range []bool{false, true} {
			for _, peer := range peers() {
				for _, port := range []uint16{0, 80, 105, 450, 8080} {
					for _, protocol := range []cluster.Protocol{1, cluster.TCP, cluster.UDP} {
						if port != 0 && protocol == 1 {
							continue
						}
						all = append(all, packet{pod, egress, peer, protocol, port})
					}
				}
			}
		}
	}
	return all
}

func (w policyWorld) passes(p packet, of labels) bool {
	texts, known := w.pods[podName(p.pod)]
	if !known {
		return false
	}
	x := texts[bits.Len(uint(flag(p.egress)))]
	return x == nil || x.decide(of, p.protocol, p.port).Allows()
}

// truth is which of all packets pass in a world.
type truth []bool

func truthOf(w policyWorld) (all truth) {
	of := map[netip.Addr]labels{}
	for _, a := range peers() {
		of[a] = w.of(a)
	}
	for _, p := range packets() {
		all = append(all, w.passes(p, of[p.peer]))
	}
	return all
}

// passes does what a program does, which may take its time: each look-up is in the next of the states given.
func (p packet) passes(when func() kernelState) (policy.ID, bool) {
	e, ok := when().endpoints[encodeAddr(podAddr(p.pod))]
	if !ok {
		return policy.Closed, false
	}
	ruleset := policy.ID(e.Ingress)
	if p.egress {
		ruleset = policy.ID(e.Egress)
	}
	if ruleset == policy.Open || ruleset == policy.Closed {
		return ruleset, ruleset == policy.Open
	}
	class := when().classOf(p.peer)
	for _, c := range []policy.ID{class, policy.Others} {
		for _, protocol := range []cluster.Protocol{p.protocol, 0} {
			if decision, ok := when().find(ruleset, c, protocol, p.port); ok {
				return ruleset, decision.Allows()
			}
		}
	}
	return ruleset, false
}

func endpointOf(s policy.Subject, index int) route.Endpoint {
	return route.Endpoint{Index: index, Ingress: uint64(s.Ingress), Egress: uint64(s.Egress)}
}
