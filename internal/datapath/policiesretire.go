package datapath

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/polder-net/polder/internal/policy"
)

// RetiredPolicies says whether something waits for RetirePolicies: places for their last class, rows for their deletion.
func (d *Datapath) RetiredPolicies() bool {
	s := &d.policies
	return len(s.classes.late)+len(s.blocks.late)+len(s.doomed)+len(s.left)+len(s.emptied) > 0
}

// RetirePolicies does what had to wait until all pods have their rulesets, and a while longer: a program may have read its
// endpoint just before. What nobody wants goes a while after the last place that had to do with it. Until SwappedPolicies
// is called, and while endpoints name rulesets that are not wanted, nothing happens. After an error, the next call must be
// ResyncPolicies.
func (d *Datapath) RetirePolicies(now time.Time) error {
	s := &d.policies
	if !s.known || !d.RetiredPolicies() {
		return nil
	}
	named, err := d.namedRulesets()
	if err != nil {
		return err
	}
	w := policyWriter{d: d, s: s}
	w.stillInUse(named, now)
	if !w.stuck(named) {
		w.forgetLeft(now)
		w.release(now)
		err = w.finish(now)
	}
	for p, since := range s.doomed {
		if over(since, now) {
			w.deletePair(p)
		}
	}
	w.flushRules()
	if len(s.blocks.now) == 0 && len(s.blocks.late) == 0 {
		err = errors.Join(err, d.setBlocks(0))
	}
	if err = errors.Join(append(w.errs, err)...); err != nil {
		s.known = false
		return fmt.Errorf("retire policies: %w", err)
	}
	return nil
}

func over(since, now time.Time) bool { return !since.IsZero() && now.Sub(since) >= retireAfter }

// stillInUse lets rows wait that a program may read now.
func (w *policyWriter) stillInUse(named map[policy.ID]bool, now time.Time) {
	s := w.s
	for p, since := range s.doomed {
		_, wanted := s.wanted[p.ruleset]
		if !since.IsZero() && (named[p.ruleset] && !wanted || wanted && s.uses[p.class] > 0) {
			s.doomed[p] = now
		}
	}
}

// stuck says whether a pod still has a ruleset that it should not have.
func (w *policyWriter) stuck(named map[policy.ID]bool) bool {
	for id := range named {
		if _, wanted := w.s.wanted[id]; !wanted {
			return true
		}
	}
	return false
}

// forgetLeft forgets which rulesets and classes programs may just have read, when they cannot any more.
func (w *policyWriter) forgetLeft(now time.Time) {
	for id, since := range w.s.left {
		if over(since, now) {
			delete(w.s.left, id)
		}
	}
	start(w.s.emptied, now)
	for id, since := range w.s.emptied {
		if over(since, now) {
			delete(w.s.emptied, id)
		}
	}
}

// finish gives places their last class: prefixes from the longest on, and those that are to go from the shortest on, since
// what they cover falls to the next shorter one. Addresses without a row fall to prefixes, so they come last.
func (w *policyWriter) finish(now time.Time) error {
	s := w.s
	blocks, waiting := due(s.blocks, now)
	slices.SortFunc(blocks.gone, func(a, b bpfClassKey) int { return longestFirst(b, a) })
	put := orderBlocks(blocks)
	moved := len(put.keys) + len(put.gone)
	if !movePlaces(w, bpfMapBlocks, put, s.setBlock) {
		return nil
	}
	forget(s.blocks, put)
	if !waiting {
		addresses, _ := due(s.classes, now)
		moved += len(addresses.keys) + len(addresses.gone)
		if !movePlaces(w, bpfMapClasses, addresses, s.setAddress) {
			return nil
		}
		forget(s.classes, addresses)
	}
	if moved == 0 {
		return nil
	}
	return w.d.BumpEpoch()
}

// due are the writes that have waited long enough, and whether others have not.
func due[K comparable](p places[K], now time.Time) (m moves[K], waiting bool) {
	for k, l := range p.late {
		switch {
		case !over(l.since, now):
			waiting = true
		case l.gone:
			m.gone = append(m.gone, k)
		default:
			m.put(k, l.class)
		}
	}
	return m, waiting
}

func orderBlocks(m moves[bpfClassKey]) moves[bpfClassKey] {
	order := make([]int, len(m.keys))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return longestFirst(m.keys[a], m.keys[b]) })
	sorted := moves[bpfClassKey]{gone: m.gone}
	for _, i := range order {
		sorted.put(m.keys[i], m.classes[i])
	}
	return sorted
}

func forget[K comparable](p places[K], m moves[K]) {
	for _, k := range m.keys {
		delete(p.late, k)
	}
	for _, k := range m.gone {
		delete(p.late, k)
	}
}
