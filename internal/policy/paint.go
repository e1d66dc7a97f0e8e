package policy

import (
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// paintAll makes rows of the rules that match a class whose pods have those ports. Protocols that are judged like
// every other have no row of their own.
func (p *program) paintAll(match []int, ports []cluster.PodPort) rows {
	all := rows{0: p.paint(match, ports, 0)}
	var protocols []cluster.Protocol
	for _, i := range match {
		for _, port := range p.rules[i].ports {
			protocols = append(protocols, port.Protocol)
		}
	}
	for _, port := range ports {
		protocols = append(protocols, port.Protocol)
	}
	slices.Sort(protocols)
	for _, protocol := range slices.Compact(protocols) {
		if protocol == 0 {
			continue
		}
		if row := p.paint(match, ports, protocol); !slices.Equal(row, all[0]) {
			all[protocol] = row
		}
	}
	return all
}

// ranges returns which ports a rule is about; protocol 0 is one that no port of a rule has.
func (r *rule) ranges(protocol cluster.Protocol, has []cluster.PodPort) (list [][2]int) {
	if r.allPorts {
		return [][2]int{{0, 0xffff}}
	}
	if protocol == 0 {
		return nil
	}
	for _, p := range r.ports {
		if p.Name == "" && p.Protocol == protocol && p.First <= p.Last {
			list = append(list, [2]int{int(p.First), int(p.Last)})
		}
		for _, q := range resolved(p, has) {
			if q.Protocol == protocol {
				list = append(list, [2]int{int(q.Port), int(q.Port)})
			}
		}
	}
	return list
}

// paint decides on every port: the first rule of a stage that is about it does, unless it passes to the next stage. In
// the end, NetworkPolicies that isolate deny what is left; without them, everything is allowed.
func (p *program) paint(match []int, has []cluster.PodPort, protocol cluster.Protocol) Row {
	about := make([][][2]int, len(match))
	starts := []int{0} // of runs of ports that no rule tells apart
	for i, m := range match {
		about[i] = p.rules[m].ranges(protocol, has)
		for _, r := range about[i] {
			starts = append(starts, r[0], r[1]+1)
		}
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	c := newCanvas(len(starts))
	at := func(port int) int { i, _ := slices.BinarySearch(starts, port); return i }
	stage := 0
	for i, m := range match {
		if p.stage[m] != stage {
			stage = p.stage[m]
			c.nextStage()
		}
		decision, final := p.decision(m)
		for _, r := range about[i] {
			c.paint(at(r[0]), at(r[1]+1), decision, final)
		}
	}
	return p.row(starts, c)
}

// decision is a rule's, and whether it is one: passing is not.
func (p *program) decision(rule int) (Decision, bool) {
	switch p.rules[rule].action {
	case cluster.Accept:
		return Allow | Decision(rule), true
	case cluster.Deny:
		return Decision(rule), true
	}
	return 0, false
}

// row joins runs that are decided alike. Where there are too many, who decided is only kept of the first of neighbours.
func (p *program) row(starts []int, c *canvas) Row {
	last := Decision(len(p.rules))
	if len(p.isolators) == 0 {
		last |= Allow
	}
	var row Row
	for i, start := range starts {
		if start > 0xffff {
			break
		}
		d := last
		if c.final[i] {
			d = c.decisions[i]
		}
		row = append(row, Span{uint16(start), 0, d})
	}
	exact := row.join(func(a, b Span) bool { return a.Decision == b.Decision })
	if len(exact) > MaxSpans {
		exact = exact.join(func(a, b Span) bool { return a.Decision.Allows() == b.Decision.Allows() })
	}
	return exact
}

// join makes one span of neighbours that are alike; only the First of each counts.
func (r Row) join(alike func(a, b Span) bool) (joined Row) {
	for _, s := range r {
		if n := len(joined); n > 0 {
			if alike(joined[n-1], s) {
				continue
			}
			joined[n-1].Last = s.First - 1
		}
		joined = append(joined, s)
	}
	joined[len(joined)-1].Last = 0xffff
	return joined
}

// canvas holds decisions on runs of ports. Each run is painted once in a stage: skip leads over those that are.
type canvas struct {
	decisions []Decision
	final     []bool
	skip      []int // the next run, itself included, that is not painted in this stage
}

func newCanvas(runs int) *canvas {
	c := &canvas{make([]Decision, runs), make([]bool, runs), make([]int, runs+1)}
	c.nextStage()
	return c
}

// nextStage leaves those that have been passed to it to be painted again.
func (c *canvas) nextStage() {
	for i := range c.skip {
		c.skip[i] = i
		if i < len(c.final) && c.final[i] {
			c.skip[i] = i + 1
		}
	}
}

func (c *canvas) free(i int) int {
	root := i
	for c.skip[root] != root {
		root = c.skip[root]
	}
	for c.skip[i] != root {
		i, c.skip[i] = c.skip[i], root
	}
	return root
}

// paint decides on the runs from first to before last that are not painted yet.
func (c *canvas) paint(first, last int, d Decision, final bool) {
	for i := c.free(first); i < last; i = c.free(i) {
		c.decisions[i], c.final[i], c.skip[i] = d, final, i+1
	}
}
