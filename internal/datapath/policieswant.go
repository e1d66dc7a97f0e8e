package datapath

import (
	"maps"
	"net/netip"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// policyWriter is one sync: first it gathers what is wanted, then it writes.
type policyWriter struct {
	d     *Datapath
	s     *policies
	again bool // the maps have been read: what is written is news
	first bool // and it is not known what an earlier agent wrote just before

	rulesets  map[policy.ID]rules // nil: not wanted any more
	addresses map[bpfAddr]target
	prefixes  map[bpfClassKey]target

	before struct { // at a resync: what had been put off
		classes map[bpfAddr]late
		blocks  map[bpfClassKey]late
	}
	stray   []bpfRuleKey // and rows that make no sense
	steps   map[step]policy.ID
	into    map[policy.ID]bool // classes that some step leads to
	puts    []ruleRow
	deletes []bpfRuleKey
	changes []Change
	errs    []error
}

// target is what is wanted of a place.
type target struct {
	class policy.ID
	gone  bool // no row
}

func targetOf(class policy.ID) target { return target{class, class == policy.Others} }

func (w *policyWriter) wantAddress(k bpfAddr, class policy.ID) { put(&w.addresses, k, targetOf(class)) }

func (w *policyWriter) wantBlock(k bpfClassKey, class policy.ID) {
	put(&w.prefixes, k, targetOf(class))
}

// wantSubjects notes which rulesets pods leave and enter.
func (w *policyWriter) wantSubjects(changed map[cluster.Name]*policy.Subject) {
	s := w.s
	for name, next := range changed {
		had := s.subjects[name]
		if next == nil {
			delete(s.subjects, name)
			w.leave(had.Ingress, had.Egress)
			continue
		}
		for _, ids := range [][2]policy.ID{{had.Ingress, next.Ingress}, {had.Egress, next.Egress}} {
			if ids[0] != ids[1] {
				w.leave(ids[0])
				put(&s.entered, ids[1], true)
			}
		}
		put(&s.subjects, name, *next)
	}
}

func (w *policyWriter) leave(ids ...policy.ID) {
	for _, id := range ids {
		if id != policy.Open && id != policy.Closed {
			put(&w.s.left, id, time.Time{})
		}
	}
}

func (w *policyWriter) wantRulesets(changed map[policy.ID]*policy.Ruleset) {
	s := w.s
	for id, ruleset := range changed {
		if ruleset == nil {
			if _, ok := s.wanted[id]; ok {
				w.leave(id)
			}
			delete(s.wanted, id)
			put(&w.rulesets, id, nil)
			continue
		}
		rows := maps.Clone(ruleset.Rows)
		for key := range rows {
			put(&s.protocols, key.Protocol, true)
		}
		put(&s.wanted, id, rows)
		put(&w.rulesets, id, rows)
	}
}

// wantAll makes what differs between the maps and all the changes.
func (w *policyWriter) wantAll(all policy.Changes) {
	s, gone := w.s, map[policy.ID]*policy.Ruleset{}
	for id := range s.rules {
		gone[id] = nil
	}
	for id := range s.wanted {
		gone[id] = nil
	}
	for id := range all.Rulesets {
		delete(gone, id)
	}
	w.wantRulesets(gone)
	w.wantRulesets(all.Rulesets)
	for addr, class := range all.Addresses {
		if k := encodeAddr(addr); s.classes.now[k] != class {
			w.wantAddress(k, class)
		}
	}
	for k := range s.classes.now {
		if all.Addresses[decodeAddr(k)] == policy.Others {
			w.wantAddress(k, policy.Others)
		}
	}
	for prefix, class := range all.Prefixes {
		if k := encodeBlock(prefix); s.blocks.now[k] != class {
			w.wantBlock(k, class)
		}
	}
	for k := range s.blocks.now {
		if all.Prefixes[decodeBlock(k)] == policy.Others {
			w.wantBlock(k, policy.Others)
		}
	}
}

// noteLive finds out which rulesets programs may judge by. Who has which is not known of an earlier agent's: any pod may
// leave any of them, or just have left it, and enter any that is wanted.
func (w *policyWriter) noteLive() error {
	s := w.s
	named, err := w.d.namedRulesets()
	if err != nil {
		return err
	}
	for id := range named {
		_, wanted := s.wanted[id]
		_, left := s.left[id]
		if !wanted && !left {
			w.leave(id)
		}
	}
	if s.begun {
		return nil
	}
	for id := range s.rules {
		w.leave(id)
	}
	for id := range s.wanted {
		put(&s.entered, id, true)
	}
	return nil
}

// takeUp makes what was put off part of this sync, which may have a better way now, and counts what will be.
func (w *policyWriter) takeUp() {
	s := w.s
	for k, l := range s.classes.late {
		if _, ok := w.addresses[k]; !ok {
			put(&w.addresses, k, target{l.class, l.gone})
		}
	}
	for k, l := range s.blocks.late {
		if _, ok := w.prefixes[k]; !ok {
			put(&w.prefixes, k, target{l.class, l.gone})
		}
	}
	w.keepFamilies()
	aimAt(s, s.classes, w.addresses)
	aimAt(s, s.blocks, w.prefixes)
}

// keepFamilies sees to it that no IPv6 prefix says anything of IPv4 addresses, which are mapped into that family here: where
// one holds them, 0.0.0.0/0 has a row in any case.
func (w *policyWriter) keepFamilies() {
	all, covered := encodeBlock(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), false
	for n := range all.Prefixlen {
		_, ok := w.blockAim(bpfClassKey{Prefixlen: n, Addr: maskAddr(all.Addr, int(n))})
		covered = covered || ok
	}
	class, present := w.blockAim(all)
	switch {
	case covered && !present:
		w.wantBlock(all, plain)
	case !covered && present && class == plain:
		w.wantBlock(all, policy.Others)
	}
}

func aimAt[K comparable](s *policies, p places[K], targets map[K]target) {
	for k, t := range targets {
		if class, ok := p.aim(k); ok {
			tally(s.aims, class, -1)
		}
		if !t.gone {
			tally(s.aims, t.class, +1)
		}
	}
}

func tally(of map[policy.ID]int, id policy.ID, by int) {
	if of[id] += by; of[id] == 0 {
		delete(of, id)
	}
}
