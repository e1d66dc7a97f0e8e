package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/polder-net/polder/internal/policy"
)

// sync writes in the order in which programs do not notice: rows of rulesets before places that have their classes.
func (w *policyWriter) sync() error {
	s := w.s
	if s.unfit == nil || w.again {
		s.unfit = map[policy.ID]bool{}
	}
	w.takeUp()
	w.writeRulesets()
	blocks, addresses := w.planBlocks(), w.planAddresses()
	w.flushRules()
	w.closeUnfit()
	if !w.movePlaces(blocks, addresses) {
		w.closeUnfit()
	}
	putOff(&s.blocks, w.before.blocks, w.prefixes, blocks.keys)
	putOff(&s.classes, w.before.classes, w.addresses, addresses.keys)
	err := errors.Join(w.errs...)
	s.known = s.known && err == nil
	if err != nil {
		return fmt.Errorf("write policies: %w", err)
	}
	return nil
}

// writeRulesets puts the rows of rulesets that are wanted, those that are there already first, and takes care of what is
// there besides.
func (w *policyWriter) writeRulesets() {
	s := w.s
	ids := slices.SortedFunc(maps.Keys(w.rulesets), func(a, b policy.ID) int {
		return cmp.Or(cmp.Compare(min(len(s.rules[b]), 1), min(len(s.rules[a]), 1)), cmp.Compare(a, b))
	})
	for _, id := range ids {
		want := w.rulesets[id]
		if want != nil {
			want = w.hold(id, want)
			w.putRows(id, want)
		} else {
			s.forgetHeld(id)
		}
		for key := range s.rules[id] {
			if _, ok := want[key]; ok {
				continue
			}
			if want != nil && (key.Class == policy.Others || s.has(want, key.Class)) {
				w.deleteRows(id, key)
			} else {
				w.doom(pair{id, key.Class})
			}
		}
	}
	for p := range s.doomed {
		want, wanted := s.wanted[p.ruleset]
		switch {
		case wanted && s.has(want, p.class):
			delete(s.doomed, p)
		case wanted && s.held[p.ruleset][p.class]:
			delete(s.doomed, p)
		case wanted && s.aims[p.class] > 0: // rows that were made up in a ruleset that is wanted again
			w.deletePair(p)
		}
	}
}

func (w *policyWriter) doom(p pair) {
	if _, ok := w.s.doomed[p]; ok {
		return
	}
	put(&w.s.doomed, p, time.Time{})
	if _, left := w.s.left[p.ruleset]; w.again && !w.first && !left {
		w.changes = append(w.changes, Change{"rules", fmt.Sprintf("%x of class %x", p.ruleset, p.class), "delete"})
	}
}

// deletePair deletes rows that a class has in a ruleset.
func (w *policyWriter) deletePair(p pair) {
	s := w.s
	for _, protocol := range slices.Sorted(maps.Keys(s.protocols)) { // 0 first: the others never fall to it
		if key := (policy.Key{Class: p.class, Protocol: protocol}); s.rules[p.ruleset][key] != nil {
			w.deleteRows(p.ruleset, key)
		}
	}
	delete(s.doomed, p)
}

func (w *policyWriter) deleteRows(id policy.ID, key policy.Key) {
	s := w.s
	for part := range partsOf(s.rules[id][key]) {
		w.deletes = append(w.deletes, ruleKey(id, key, part))
	}
	s.ruleRows -= partsOf(s.rules[id][key])
	if delete(s.rules[id], key); len(s.rules[id]) == 0 {
		delete(s.rules, id)
	}
}

// putRows puts rows of a ruleset, if they all fit. Of a class, that of protocol 0 comes last, and of a row its first part.
func (w *policyWriter) putRows(id policy.ID, want rules) {
	s, more := w.s, 0
	var keys []policy.Key
	for key, row := range want {
		have, ok := s.rules[id][key]
		if ok && slices.Equal(have, row) {
			continue
		}
		if partsOf(row) > maxParts || len(row) == 0 {
			w.noFit(id, fmt.Errorf("%d spans of ports in one row", len(row)))
			return
		}
		keys, more = append(keys, key), more+partsOf(row)-partsOf(have)
	}
	if room := int(w.d.maps[bpfMapRules].MaxEntries()); len(keys) > 0 && s.ruleRows+max(more, 0) > room {
		w.noFit(id, errFull)
		return
	}
	slices.SortFunc(keys, func(a, b policy.Key) int {
		return cmp.Or(cmp.Compare(b.Class, a.Class), cmp.Compare(b.Protocol, a.Protocol))
	})
	for _, key := range keys {
		row, had := want[key], partsOf(s.rules[id][key])
		for part := partsOf(row) - 1; part >= 0; part-- {
			w.puts = append(w.puts, ruleRow{ruleKey(id, key, part), encodePart(row, part)})
		}
		for part := partsOf(row); part < had; part++ {
			w.deletes = append(w.deletes, ruleKey(id, key, part))
		}
		if s.rules[id] == nil {
			put(&s.rules, id, rules{})
		}
		s.rules[id][key] = row
		put(&s.protocols, key.Protocol, true)
	}
	s.ruleRows += more
}

// noFit notes that no pod may be judged by a ruleset.
func (w *policyWriter) noFit(id policy.ID, err error) {
	w.errs = append(w.errs, fmt.Errorf("write ruleset %x: %w", id, err))
	w.s.unfit[id] = true
}

// flushRules writes rows of rulesets.
func (w *policyWriter) flushRules() {
	keys, rows := make([]bpfRuleKey, len(w.puts)), make([]bpfRule, len(w.puts))
	for i, p := range w.puts {
		keys[i], rows[i] = p.key, p.row
	}
	done, err := putInOrder(w, bpfMapRules, keys, rows, true)
	for i, ok := range done {
		if !ok {
			w.noFit(policy.ID(keys[i].Ruleset), err)
		}
	}
	for _, k := range w.stray {
		if row := w.s.rules[policy.ID(k.Ruleset)][policyKey(k)]; int(k.Part) >= partsOf(row) {
			w.deletes = append(w.deletes, k)
		}
	}
	if err := deleteInOrder(w, bpfMapRules, w.deletes); err != nil {
		w.errs = append(w.errs, err)
	}
	w.puts, w.deletes, w.stray = nil, nil, nil
}

// movePlaces puts addresses before prefixes, so that none of those that move follows a prefix. A place that cannot be
// moved is judged as something that it is not, as Others perhaps, and some ruleset may allow that more: no ruleset that is
// wanted fits then, and false is returned.
func (w *policyWriter) movePlaces(blocks moves[bpfClassKey], addresses moves[bpfAddr]) bool {
	s := w.s
	ok := w.openBlocks(len(blocks.keys)+len(s.blocks.now) > 0) &&
		movePlaces(w, bpfMapClasses, addresses, s.setAddress) && movePlaces(w, bpfMapBlocks, blocks, s.setBlock)
	if !ok {
		for id := range s.wanted {
			s.unfit[id] = true
		}
	}
	return ok
}

func movePlaces[K comparable](w *policyWriter, table string, m moves[K], set func(K, target)) bool {
	done, err := putInOrder(w, table, m.keys, m.classes, false)
	for i, ok := range done {
		if ok {
			set(m.keys[i], target{class: m.classes[i]})
		}
	}
	if err != nil {
		w.errs = append(w.errs, err)
		return false
	}
	if err := deleteInOrder(w, table, m.gone); err != nil {
		w.errs = append(w.errs, err)
		return false
	}
	for _, k := range m.gone {
		set(k, target{gone: true})
	}
	return true
}

// setAddress notes what the map says of an address now.
func (s *policies) setAddress(k bpfAddr, t target) { setPlace(s, &s.classes, k, t) }

// setBlock does it for a prefix.
func (s *policies) setBlock(k bpfClassKey, t target) {
	_, before := s.blocks.now[k]
	setPlace(s, &s.blocks, k, t)
	if before != !t.gone {
		s.lengths[k.Prefixlen] += map[bool]int{true: -1, false: +1}[t.gone]
	}
}

func setPlace[K comparable](s *policies, p *places[K], k K, t target) {
	if class, ok := p.now[k]; ok {
		tally(s.uses, class, -1)
		if s.uses[class] == 0 {
			put(&s.emptied, class, time.Time{})
		}
	}
	if t.gone {
		delete(p.now, k)
		return
	}
	put(&p.now, k, t.class)
	tally(s.uses, t.class, +1)
	delete(s.emptied, t.class)
}
