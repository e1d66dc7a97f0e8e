package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// readBack makes the memory of the maps what they say.
func (w *policyWriter) readBack() error {
	s, d := w.s, w.d
	w.before.classes, w.before.blocks = s.classes.late, s.blocks.late
	next := policies{subjects: s.subjects, wanted: s.wanted, left: s.left, entered: s.entered, emptied: s.emptied, doomed: map[pair]time.Time{}, strict: s.strict, held: s.held, heldSince: s.heldSince, begun: s.begun,
		written: s.written, wrote: s.wrote, unfit: s.unfit, protocols: map[cluster.Protocol]bool{0: true}, uses: map[policy.ID]int{}}
	err := errors.Join(eachRow(d.maps[bpfMapClasses], func(k bpfAddr, class policy.ID) { next.setAddress(k, target{class: class}) }),
		eachRow(d.maps[bpfMapBlocks], func(k bpfClassKey, class policy.ID) { next.setBlock(k, target{class: class}) }),
		w.readRules(&next))
	if err != nil {
		s.known = false
		return err
	}
	for p, at := range s.doomed {
		if _, there := next.rules[p.ruleset]; there && next.has(next.rules[p.ruleset], p.class) {
			next.doomed[p] = at
		}
	}
	for p := range s.protocols {
		next.protocols[p] = true
	}
	next.aims = maps.Clone(next.uses)
	*s = next
	return nil
}

// rowName is what the parts of a row have in common.
type rowName struct {
	ruleset policy.ID
	key     policy.Key
}

func (w *policyWriter) readRules(s *policies) error {
	long := map[rowName]map[uint8]bpfRule{}
	err := eachRow(w.d.maps[bpfMapRules], func(k bpfRuleKey, part bpfRule) {
		n := rowName{policy.ID(k.Ruleset), policyKey(k)}
		if k.Unused != [6]uint8{} {
			w.stray = append(w.stray, k)
		} else if row, ok := decodeRow(part); ok && k.Part == 0 && row[len(row)-1].Last == math.MaxUint16 {
			s.noteRow(n, row)
		} else {
			if long[n] == nil {
				long[n] = map[uint8]bpfRule{}
			}
			long[n][k.Part] = part
		}
	})
	for n, parts := range long {
		row, ok := joinParts(parts)
		if _, twice := s.rules[n.ruleset][n.key]; ok && !twice {
			s.noteRow(n, row)
			continue
		}
		for part := range parts { // put anew, or deleted
			w.stray = append(w.stray, ruleKey(n.ruleset, n.key, int(part)))
		}
		if s.rules[n.ruleset][n.key] == nil {
			s.noteRow(n, policy.Row{})
		}
	}
	return err
}

func joinParts(parts map[uint8]bpfRule) (policy.Row, bool) {
	list := make([]bpfRule, 0, len(parts))
	for i := range len(parts) {
		part, ok := parts[uint8(i)]
		if !ok {
			return nil, false
		}
		list = append(list, part)
	}
	return decodeRow(list...)
}

func (s *policies) noteRow(n rowName, row policy.Row) {
	if s.rules[n.ruleset] == nil {
		put(&s.rules, n.ruleset, rules{})
	}
	s.rules[n.ruleset][n.key] = row
	s.ruleRows += partsOf(row)
	s.protocols[n.key.Protocol] = true
}

func policyKey(k bpfRuleKey) policy.Key {
	return policy.Key{Class: policy.ID(k.Class), Protocol: cluster.Protocol(k.Proto)}
}

// putInOrder writes rows in order, and says which are written. It goes on past one that has no place if that is wanted.
func putInOrder[K, V any](w *policyWriter, table string, keys []K, values []V, goOn bool) (done []bool, first error) {
	m, s := w.d.maps[table], w.s
	done = make([]bool, len(keys))
	size := batchSize
	if s.wrote != nil {
		size = 1
	}
	for at := 0; at < len(keys) && (goOn || first == nil); at += size {
		end := min(at+size, len(keys))
		s.written.Rows, s.written.Calls = s.written.Rows+uint64(end-at), s.written.Calls+1
		_, batch := m.BatchUpdate(keys[at:end], values[at:end], nil)
		for i := at; i < end; i++ { // a batch ends at the first that has no place
			var err error
			if batch != nil {
				err = m.Put(keys[i], values[i])
			}
			if err != nil {
				first = cmp.Or(first, fmt.Errorf("put into %s: %w", m, err))
				if !goOn {
					return done, first
				}
				continue
			}
			done[i] = true
		}
		note(w, table, keys[at:end], "put")
	}
	return done, first
}

func deleteInOrder[K any](w *policyWriter, table string, keys []K) error {
	m, s := w.d.maps[table], w.s
	for _, k := range keys {
		s.written.Rows, s.written.Calls = s.written.Rows+1, s.written.Calls+1
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", m, err)
		}
		note(w, table, []K{k}, "delete")
	}
	return nil
}

// note says what was written, after a reading that did not expect it.
func note[K any](w *policyWriter, table string, keys []K, verb string) {
	if w.s.wrote != nil {
		w.s.wrote()
	}
	if !w.again || w.first {
		return
	}
	for _, k := range keys {
		w.changes = append(w.changes, Change{table, placeName(k), verb})
	}
}

func placeName(k any) string {
	switch k := k.(type) {
	case bpfAddr:
		return decodeAddr(k).String()
	case bpfClassKey:
		return decodeBlock(k).String()
	}
	return fmt.Sprint(k)
}

// namedRulesets are those that endpoints have.
func (d *Datapath) namedRulesets() (map[policy.ID]bool, error) {
	named := map[policy.ID]bool{}
	err := eachRow(d.maps[bpfMapEndpoints], func(_ bpfAddr, e bpfEndpoint) {
		named[policy.ID(e.Ingress)], named[policy.ID(e.Egress)] = true, true
	})
	delete(named, policy.Open)
	delete(named, policy.Closed)
	return named, err
}

// closeUnfit closes the pods that have rulesets which do not fit.
func (w *policyWriter) closeUnfit() {
	s, m, closed := w.s, w.d.maps[bpfMapEndpoints], map[bpfAddr]bpfEndpoint{}
	if len(s.unfit) == 0 {
		return
	}
	w.errs = append(w.errs, eachRow(m, func(k bpfAddr, e bpfEndpoint) {
		if ingress, egress := s.unfit[policy.ID(e.Ingress)], s.unfit[policy.ID(e.Egress)]; ingress || egress {
			if ingress {
				e.Ingress = uint64(policy.Closed)
			}
			if egress {
				e.Egress = uint64(policy.Closed)
			}
			closed[k] = e
		}
	}))
	for k, e := range closed {
		if err := m.Put(k, e); err != nil {
			w.errs = append(w.errs, fmt.Errorf("close endpoint %s: %w", decodeAddr(k), err))
		}
		note(w, "endpoints", []bpfAddr{k}, "close")
	}
	w.errs = append(w.errs, w.d.BumpEpoch())
}

// openBlocks makes programs look for prefixes, before there are any.
func (w *policyWriter) openBlocks(any bool) bool {
	if !any {
		return true
	}
	if err := w.d.setBlocks(1); err != nil {
		w.errs = append(w.errs, err)
		return false
	}
	return true
}

// blocksFlag is what a configuration has to say of prefixes that says have now: that there are some, unless it is known that
// there are none.
func (d *Datapath) blocksFlag(have uint8, judged bool) uint8 {
	s := &d.policies
	switch {
	case len(s.blocks.now)+len(s.blocks.late) > 0 || judged && !s.begun:
		return 1
	case !s.known:
		return have
	}
	return 0
}

// setBlocks says in the configuration whether there are prefixes with classes. Who knows that is who writes them.
func (d *Datapath) setBlocks(blocks uint8) error {
	var c bpfConfig
	m := d.maps[bpfMapConfiguration]
	if err := m.Lookup(uint32(0), &c); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if c.Blocks == blocks {
		return nil
	}
	c.Blocks = blocks
	if err := m.Put(uint32(0), c); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
