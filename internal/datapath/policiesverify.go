package datapath

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/polder-net/polder/internal/policy"
)

// rounds are what VerifyPolicies has yet to look at.
type rounds struct {
	classes []bpfAddr
	blocks  []bpfClassKey
	rules   []policy.ID
}

// VerifyPolicies reads back some of what was written, in turn, so many rows or a few more, and repairs what somebody else's
// hands took away or changed: nobody waits for the reading of a hundred thousand rows. What they added is found by
// ResyncPolicies.
func (d *Datapath) VerifyPolicies(rows int) ([]Change, error) {
	s := &d.policies
	if !s.known {
		return nil, nil
	}
	r := &s.rounds
	if len(r.classes)+len(r.blocks)+len(r.rules) == 0 {
		*r = rounds{slices.Collect(maps.Keys(s.classes.now)), slices.Collect(maps.Keys(s.blocks.now)), slices.Collect(maps.Keys(s.rules))}
	}
	w := policyWriter{d: d, s: s, again: true}
	for ; rows > 0 && len(r.rules) > 0; r.rules = r.rules[1:] {
		rows -= w.verifyRuleset(r.rules[0])
	}
	w.flushRules()
	var err error
	r.blocks, err = verifyPlaces(&w, bpfMapBlocks, s.blocks, r.blocks, &rows)
	w.errs = append(w.errs, err)
	r.classes, err = verifyPlaces(&w, bpfMapClasses, s.classes, r.classes, &rows)
	w.errs = append(w.errs, err)
	if len(w.changes) > 0 {
		w.errs = append(w.errs, d.BumpEpoch())
	}
	if err := errors.Join(w.errs...); err != nil {
		s.known = false
		return w.changes, fmt.Errorf("repair policies: %w", err)
	}
	return w.changes, nil
}

func (w *policyWriter) verifyRuleset(id policy.ID) (looked int) {
	for key, row := range w.s.rules[id] {
		for part := range partsOf(row) {
			var have bpfRule
			looked++
			k, want := ruleKey(id, key, part), encodePart(row, part)
			if w.d.maps[bpfMapRules].Lookup(k, &have) != nil || have != want {
				w.puts = append(w.puts, ruleRow{k, want})
			}
		}
	}
	return looked
}

func verifyPlaces[K comparable](w *policyWriter, table string, p places[K], turn []K, rows *int) ([]K, error) {
	var m moves[K]
	for ; *rows > 0 && len(turn) > 0; turn = turn[1:] {
		*rows--
		want, ok := p.now[turn[0]]
		var have policy.ID
		if ok && (w.d.maps[table].Lookup(turn[0], &have) != nil || have != want) {
			m.put(turn[0], want)
		}
	}
	_, err := putInOrder(w, table, m.keys, m.classes, true)
	return turn, err
}
