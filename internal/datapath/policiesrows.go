package datapath

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

const (
	rowSpans = len(bpfRule{}.Spans)
	maxParts = 256
)

// plain is a class that no ruleset has rows of: a place that must have a row, and is in no class, has this one.
const plain policy.ID = 2

// ruleRow is a row of the map of rules.
type ruleRow struct {
	key bpfRuleKey
	row bpfRule
}

func encodeBlock(p netip.Prefix) bpfClassKey { return bpfClassKey(encodePrefix(p)) }

func decodeBlock(k bpfClassKey) netip.Prefix { return decodePrefix(bpfRemoteKey(k)) }

func ruleKey(id policy.ID, key policy.Key, part int) bpfRuleKey {
	return bpfRuleKey{Ruleset: uint64(id), Class: uint64(key.Class), Proto: uint8(key.Protocol), Part: uint8(part)}
}

// partsOf is how many rows of the map a Row takes.
func partsOf(row policy.Row) int { return (len(row) + rowSpans - 1) / rowSpans }

func encodePart(row policy.Row, part int) (e bpfRule) {
	for i, s := range row[part*rowSpans : min(len(row), (part+1)*rowSpans)] {
		e.Spans[i] = bpfSpan{First: s.First, Last: s.Last, Decision: uint32(s.Decision)}
	}
	return e
}

// decodeRow puts a Row's parts together. It returns false if they are not as encodePart makes them.
func decodeRow(parts ...bpfRule) (policy.Row, bool) {
	row := make(policy.Row, 0, rowSpans)
	for _, e := range parts {
		for _, s := range e.Spans {
			if s.Last > 0 || len(row) == 0 {
				row = append(row, policy.Span{First: s.First, Last: s.Last, Decision: policy.Decision(s.Decision)})
			}
		}
	}
	if partsOf(row) != len(parts) {
		return nil, false
	}
	for i, e := range parts {
		if encodePart(row, i) != e {
			return nil, false
		}
	}
	return slices.Clone(row), true
}

// has says whether a ruleset has a row of a class.
func (s *policies) has(r rules, class policy.ID) bool {
	for p := range s.protocols {
		if _, ok := r[policy.Key{Class: class, Protocol: p}]; ok {
			return true
		}
	}
	return false
}

// effective is the row that judges, in the order in which programs look for it.
func effective(r rules, class policy.ID, protocol cluster.Protocol) policy.Row {
	for _, c := range []policy.ID{class, policy.Others} {
		for _, p := range []cluster.Protocol{protocol, 0} {
			if row, ok := r[policy.Key{Class: c, Protocol: p}]; ok {
				return row
			}
		}
	}
	return nil
}

// tells says whether a ruleset, as it is in the map, treats two classes differently; or will when it holds nothing back.
func (s *policies) tells(id, a, b policy.ID) bool {
	return s.differ(s.rules[id], a, b) || s.held[id] != nil && s.differ(s.wanted[id], a, b)
}

func (s *policies) differ(r rules, a, b policy.ID) bool {
	if a == b || len(r) == 0 || !s.has(r, a) && !s.has(r, b) {
		return false
	}
	for p := range s.protocols {
		if !slices.Equal(effective(r, a, p), effective(r, b, p)) {
			return true
		}
	}
	return false
}

// both are rows by which passes what passes by both classes.
func (s *policies) both(r rules, a, b policy.ID) map[cluster.Protocol]policy.Row {
	rows := map[cluster.Protocol]policy.Row{}
	for p := range s.protocols {
		rows[p] = intersect(effective(r, a, p), effective(r, b, p))
	}
	return rows
}

func intersect(a, b policy.Row) (row policy.Row) {
	for len(a) > 0 && len(b) > 0 {
		s := policy.Span{First: max(a[0].First, b[0].First), Last: min(a[0].Last, b[0].Last), Decision: a[0].Decision}
		if s.Decision.Allows() {
			s.Decision = b[0].Decision
		}
		if n := len(row) - 1; n >= 0 && row[n].Decision == s.Decision {
			row[n].Last = s.Last
		} else {
			row = append(row, s)
		}
		aEnds, bEnds := a[0].Last == s.Last, b[0].Last == s.Last
		if aEnds {
			a = a[1:]
		}
		if bEnds {
			b = b[1:]
		}
	}
	return row
}

// blockAt is the class that prefixes shorter than this give to an address, as classOf says of each.
func (s *policies) blockAt(addr bpfAddr, shorter int, lengths *[129]int, classOf func(bpfClassKey) (policy.ID, bool)) policy.ID {
	for n := shorter - 1; n >= 0; n-- {
		if lengths[n] == 0 {
			continue
		}
		if class, ok := classOf(bpfClassKey{Prefixlen: uint32(n), Addr: maskAddr(addr, n)}); ok {
			return class
		}
	}
	return policy.Others
}

func maskAddr(a bpfAddr, bits int) bpfAddr {
	for i := range a.Word {
		var mask [4]byte
		if n := min(max(bits-32*i, 0), 32); n > 0 {
			binary.BigEndian.PutUint32(mask[:], ^uint32(0)<<(32-n))
		}
		a.Word[i] &= binary.NativeEndian.Uint32(mask[:])
	}
	return a
}

func (k bpfRuleKey) String() string {
	return fmt.Sprintf("%x of class %x, protocol %d, part %d", k.Ruleset, k.Class, k.Proto, k.Part)
}
