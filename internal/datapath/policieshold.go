package datapath

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// A ruleset that is wanted again, just after pods left it, may have rows that judge the classes of places as what these
// were when the pods left; or none, since nobody wanted any. A program that found the ruleset at such a pod may find a place's
// class only now. So what rows of such classes let pass anew waits until no program can be that late.

// hold are the rows to be written of a ruleset that is wanted.
func (w *policyWriter) hold(id policy.ID, want rules) rules {
	s, have := w.s, w.s.rules[id]
	if _, left := s.left[id]; !left || len(have) == 0 {
		return want
	}
	rows := maps.Clone(want)
	for class := range w.changing(have, want) {
		if !w.mayBeFound(class) || !s.looser(have, want, class) {
			continue
		}
		if !s.held[id][class] {
			s.holdBack(id, class)
		}
		for p := range s.protocols {
			rows[policy.Key{Class: class, Protocol: p}] = held(effective(have, class, p), judging(want, class, p))
		}
	}
	return rows
}

func (s *policies) holdBack(id, class policy.ID) {
	if s.held[id] == nil {
		put(&s.held, id, map[policy.ID]bool{})
	}
	s.held[id][class] = true
	put(&s.heldSince, id, time.Time{})
}

// held is what passes by the row that is there and by that which is wanted. A row that makes no sense is put right at once.
func held(have, want policy.Row) policy.Row {
	if len(have) == 0 {
		return want
	}
	return intersect(have, want)
}

// judging is the row that judges, if only because there is none.
func judging(r rules, class policy.ID, protocol cluster.Protocol) policy.Row {
	if row := effective(r, class, protocol); len(row) > 0 {
		return row
	}
	return policy.Row{{Last: math.MaxUint16}}
}

// changing are the classes whose rows differ; where those of Others do, all that programs may find.
func (w *policyWriter) changing(have, want rules) map[policy.ID]bool {
	classes := map[policy.ID]bool{}
	for key, row := range want {
		if !slices.Equal(have[key], row) {
			classes[key.Class] = true
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok {
			classes[key.Class] = true
		}
	}
	if classes[policy.Others] {
		for class := range w.s.uses {
			classes[class] = true
		}
		for class := range w.s.emptied {
			classes[class] = true
		}
	}
	return classes
}

// mayBeFound says whether a program may find, or just have found, that a place has a class.
func (w *policyWriter) mayBeFound(class policy.ID) bool {
	_, recently := w.s.emptied[class]
	return w.s.blind || recently || class == policy.Others || w.s.uses[class] > 0
}

// looser says whether rows that are wanted let pass of a class what those that are there do not.
func (s *policies) looser(have, want rules, class policy.ID) bool {
	for p := range s.protocols {
		if next := judging(want, class, p); !sameAllowed(held(effective(have, class, p), next), next) {
			return true
		}
	}
	return false
}

// sameAllowed says whether two rows let the same ports pass.
func sameAllowed(a, b policy.Row) bool { return slices.Equal(allowed(a), allowed(b)) }

func allowed(row policy.Row) (ports policy.Row) {
	for _, s := range row {
		s.Decision &= policy.Allow
		if n := len(ports) - 1; n >= 0 && ports[n].Decision == s.Decision {
			ports[n].Last = s.Last
		} else {
			ports = append(ports, s)
		}
	}
	return ports
}

func (s *policies) forgetHeld(id policy.ID) {
	delete(s.held, id)
	delete(s.heldSince, id)
}

// release gives rulesets the rows that are wanted of them, where no program judges any more for who left them before they
// were wanted again. Who left one after that has been judged by it as it should be.
func (w *policyWriter) release(now time.Time) {
	for id, since := range w.s.heldSince {
		if _, left := w.s.left[id]; !left || over(since, now) {
			w.putHeld(id)
		}
	}
}

func (w *policyWriter) putHeld(id policy.ID) {
	s, held, want := w.s, w.s.held[id], w.s.wanted[id]
	s.forgetHeld(id)
	w.putRows(id, want)
	for class := range held {
		for _, p := range slices.Sorted(maps.Keys(s.protocols)) { // 0 first, as in deletePair
			key := policy.Key{Class: class, Protocol: p}
			if _, ok := want[key]; !ok && s.rules[id][key] != nil {
				w.deleteRows(id, key)
			}
		}
	}
}
