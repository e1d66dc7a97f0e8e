package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// How a place gets from class x to class y while pods get other rulesets, one after the other: the rulesets that pods
// leave must treat it as x all the time, those that they enter as y, and any other as x or y.
//
//   - At once, if no ruleset that a pod leaves tells x from y.
//   - At once, after the rows of x were copied to y in these rulesets, if they have none of y and no place is or just was in y.
//   - When all pods have their rulesets, if nothing that is wanted tells x from y.
//   - Else by way of a passing class, which has the rows of x in the rulesets that pods leave and those of y in all
//     others: to that one at once, and to y when all pods have their rulesets.
//
// A ruleset that some pods leave and others enter lets pass of a passing class what passes by both. So does one that some
// leave and others keep, as soon as those have left: what is denied anew waits for nothing.

// step is a place's way from one class to another.
type step struct{ from, to policy.ID }

// middle is the class that places have between the writing of the tables and the end of all swaps.
func (w *policyWriter) middle(from, to policy.ID) policy.ID {
	m, ok := w.steps[step{from, to}]
	if !ok {
		m = w.choose(from, to)
		put(&w.steps, step{from, to}, m)
		put(&w.into, m, true)
	}
	return m
}

func (w *policyWriter) choose(from, to policy.ID) policy.ID {
	s := w.s
	var tell []policy.ID
	for id := range s.left {
		if s.tells(id, from, to) {
			tell = append(tell, id)
		}
	}
	if len(tell) == 0 {
		return to
	}
	if w.mayCopy(tell, to) {
		for _, id := range tell {
			w.putClass(id, to, s.rowsOf(s.rules[id], from))
		}
		return to
	}
	late := true
	for id := range s.wanted {
		late = late && !s.tells(id, from, to)
	}
	if late {
		return from
	}
	return w.pass(from, to)
}

// mayCopy says whether rows of class may be made up in rulesets that are to go.
func (w *policyWriter) mayCopy(in []policy.ID, class policy.ID) bool {
	s := w.s
	if _, recently := s.emptied[class]; s.blind || recently || class == policy.Others || class == plain || s.uses[class] > 0 || w.into[class] {
		return false
	}
	for _, id := range in {
		if _, wanted := s.wanted[id]; wanted || s.has(s.rules[id], class) {
			return false
		}
	}
	return true
}

// pass makes a passing class.
func (w *policyWriter) pass(from, to policy.ID) policy.ID {
	s, class := w.s, policy.ID(rand.Uint64()|1<<32) // no class has this number, by all that chance allows
	for id, r := range s.rules {
		_, wanted := s.wanted[id]
		_, left := s.left[id]
		switch {
		case left && wanted && s.entered[id] && s.tells(id, from, to):
			w.putClass(id, class, s.both(r, from, to))
		case left && wanted && s.tells(id, from, to): // rows of the same protocols now and later: none comes between two look-ups
			w.putClass(id, class, s.both(r, from, from))
			put(&s.strict, pair{id, class}, rulesOf(class, s.both(r, from, to)))
		case left:
			w.putClass(id, class, s.rowsOf(r, from))
		case wanted:
			w.putClass(id, class, s.rowsOf(r, to))
		}
	}
	return class
}

// tighten makes rulesets that pods have left, and others have kept, strict with passing classes.
func (d *Datapath) tighten() error {
	s := &d.policies
	w := policyWriter{d: d, s: s}
	for p, strict := range s.strict {
		if s.uses[p.class] > 0 {
			w.putRows(p.ruleset, strict)
			w.doom(p)
		}
	}
	s.strict = nil
	w.flushRules()
	if len(w.errs) > 0 {
		w.closeUnfit()
		return fmt.Errorf("write policies: %w", errors.Join(w.errs...))
	}
	return nil
}

// rowsOf are the rows that judge a class; none: those of Others do. A class with rows of its own need not have one for
// every protocol, but these are copied as they are, so that Others' count for the rest there, too.
func (s *policies) rowsOf(r rules, class policy.ID) map[cluster.Protocol]policy.Row {
	rows := map[cluster.Protocol]policy.Row{}
	if class == policy.Others {
		return rows
	}
	for p := range s.protocols {
		if row, ok := r[policy.Key{Class: class, Protocol: p}]; ok {
			rows[p] = row
		}
	}
	return rows
}

// putClass puts rows of a class that is no place's yet, and that nobody will want.
func (w *policyWriter) putClass(id, class policy.ID, of map[cluster.Protocol]policy.Row) {
	if len(of) == 0 {
		return
	}
	w.putRows(id, rulesOf(class, of))
	w.doom(pair{id, class})
}

func rulesOf(class policy.ID, of map[cluster.Protocol]policy.Row) rules {
	rows := rules{}
	for p, row := range of {
		rows[policy.Key{Class: class, Protocol: p}] = row
	}
	return rows
}

// moves are the writes of one table of places.
type moves[K comparable] struct {
	keys    []K
	classes []policy.ID
	gone    []K
}

func (m *moves[K]) put(k K, class policy.ID) {
	m.keys, m.classes = append(m.keys, k), append(m.classes, class)
}

// planBlocks plans prefixes, the longest first: a place never falls to a shorter prefix that has moved already. None goes
// before the end, since a shorter one may be yet to move.
func (w *policyWriter) planBlocks() (m moves[bpfClassKey]) {
	s, lengths := w.s, w.lengths()
	keys := make([]bpfClassKey, 0, len(w.prefixes))
	for k := range w.prefixes {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, longestFirst)
	for _, k := range keys {
		t := w.prefixes[k]
		have, present := s.blocks.now[k]
		if !present && t.gone || present && !t.gone && have == t.class {
			continue
		}
		from, to := have, t.class
		if !present {
			from = s.blockAt(k.Addr, int(k.Prefixlen), lengths, s.blockNow)
		}
		if t.gone {
			to = s.blockAt(k.Addr, int(k.Prefixlen), lengths, w.blockAim)
		}
		middle := w.middle(from, to)
		if middle = rowFor(middle); !present || middle != have {
			m.put(k, middle)
		}
	}
	return m
}

func longestFirst(a, b bpfClassKey) int { return cmp.Compare(b.Prefixlen, a.Prefixlen) }

func rowFor(class policy.ID) policy.ID {
	if class == policy.Others {
		return plain
	}
	return class
}

func (s *policies) blockNow(k bpfClassKey) (policy.ID, bool) {
	class, ok := s.blocks.now[k]
	return class, ok
}

// blockAim is what a prefix will say.
func (w *policyWriter) blockAim(k bpfClassKey) (policy.ID, bool) {
	if t, ok := w.prefixes[k]; ok {
		return t.class, !t.gone
	}
	return w.s.blockNow(k)
}

// lengths are those of all prefixes that there are or will be.
func (w *policyWriter) lengths() *[129]int {
	lengths := w.s.lengths
	for k := range w.prefixes {
		lengths[k.Prefixlen]++
	}
	return &lengths
}

// planAddresses plans addresses. While prefixes move, each address that is to move has a row of its own.
func (w *policyWriter) planAddresses() (m moves[bpfAddr]) {
	s, lengths, shifting := w.s, w.lengths(), len(w.prefixes) > 0
	m.keys, m.classes = make([]bpfAddr, 0, len(w.addresses)), make([]policy.ID, 0, len(w.addresses))
	for k, t := range w.addresses {
		have, present := s.classes.now[k]
		if !present && t.gone || present && !t.gone && have == t.class {
			continue
		}
		from, to := have, t.class
		if !present {
			from = s.blockAt(k, 129, lengths, s.blockNow)
		}
		if t.gone {
			to = s.blockAt(k, 129, lengths, w.blockAim)
		}
		middle := w.middle(from, to)
		switch {
		case !shifting && t.gone && middle == to:
			m.gone = append(m.gone, k)
		case !shifting && !present && middle == from:
		case !present || rowFor(middle) != have:
			m.put(k, rowFor(middle))
		}
	}
	return m
}

// putOff notes what is to be done when all pods have their rulesets. A place that stays where it was, on the same way,
// has waited already.
func putOff[K comparable](p *places[K], before map[K]late, targets map[K]target, moved []K) {
	had := before
	if had == nil {
		had = p.late
	}
	p.late = map[K]late{}
	for k, t := range targets {
		have, present := p.now[k]
		if present == !t.gone && (t.gone || have == t.class) {
			continue
		}
		l := late{class: t.class, gone: t.gone}
		if old, ok := had[k]; ok && old.class == l.class && old.gone == l.gone {
			l.since = old.since
		}
		p.late[k] = l
	}
	for _, k := range moved {
		if l, ok := p.late[k]; ok {
			l.since = time.Time{}
			p.late[k] = l
		}
	}
}
