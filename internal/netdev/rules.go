package netdev

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/table"
)

// rulePriority puts Polder's rules after the local table (0), before the main one (32766).
const rulePriority = route.TunnelTable

// ruleID is what a rule says. The kernel allows the same rule many times.
type ruleID struct {
	from     netip.Prefix
	table    int
	priority uint32
	odd      bool // says more than this
}

func (r ruleID) compare(other ruleID) int {
	return cmp.Or(r.from.Addr().Compare(other.from.Addr()), cmp.Compare(r.from.Bits(), other.from.Bits()),
		cmp.Compare(r.table, other.table), cmp.Compare(r.priority, other.priority), compareBools(r.odd, other.odd))
}

func (r ruleID) String() string {
	return fmt.Sprintf("%d: from %s lookup %d", r.priority, r.from, r.table)
}

// syncRules makes the rules that lead to Polder's table those that are wanted.
func (k *Kernel) syncRules(want map[route.Rule]bool) ([]Change, error) {
	var errs errorList
	raw, err := k.rules()
	if err != nil {
		return nil, err
	}
	have, wanted := map[ruleID]int{}, map[ruleID]int{}
	for id, list := range raw {
		have[id] = len(list)
	}
	for r := range want {
		if !want[r] {
			continue
		}
		if !r.From.Addr().Is4() && !k.ipv6 {
			errs.add(fmt.Errorf("add rule from %s: %w", r.From, ErrNoIPv6))
			continue
		}
		wanted[ruleID{from: r.From, table: r.Table, priority: rulePriority}] = 1
	}
	var writes []write
	put, del := table.Diff(have, wanted, ruleID.compare)
	for _, c := range put {
		w := write{change: Change{"rules", c.Key.String(), "add"}, messages: []*message{putRule(c.Key)}}
		if n := have[c.Key]; n > 1 { // it stands there more than once
			w.change.Verb = "replace"
			w.messages = deleteRaw(unix.RTM_DELRULE, raw[c.Key][1:])
		}
		writes = append(writes, w)
	}
	for _, c := range del {
		writes = append(writes, write{change: Change{"rules", c.Key.String(), "delete"},
			messages: deleteRaw(unix.RTM_DELRULE, raw[c.Key]), already: gone})
	}
	changes, err := k.carryOut(writes)
	errs.add(err)
	return changes, errs.err()
}

func putRule(r ruleID) *message {
	m := newMessage(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, rtBody{
		family: family(r.from.Addr().Is4()), srcLen: uint8(r.from.Bits()), kind: unix.FR_ACT_TO_TBL,
	}.bytes())
	return m.addr(unix.FRA_SRC, r.from.Addr()).u32(unix.FRA_TABLE, uint32(r.table)).
		u32(unix.FRA_PRIORITY, r.priority).u8(unix.FRA_PROTOCOL, Protocol)
}

// rules lists the rules that lead to Polder's table, with their messages.
func (k *Kernel) rules() (map[ruleID][][]byte, error) {
	held := map[ruleID][][]byte{}
	for _, fam := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if fam == unix.AF_INET6 && !k.ipv6 {
			continue
		}
		m := newMessage(unix.RTM_GETRULE, 0, rtBody{family: fam}.bytes())
		var list [][]byte
		err := k.dump(m, func() { list = nil }, func(b []byte) { list = append(list, slices.Clone(b)) })
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, b := range list {
			if r, ok := parseRule(b); ok && r.table == route.TunnelTable {
				held[r] = append(held[r], b)
			}
		}
	}
	return held, nil
}

func parseRule(b []byte) (ruleID, bool) {
	rt, attrs, ok := parseRtBody(b)
	if !ok {
		return ruleID{}, false
	}
	from := netip.IPv6Unspecified()
	if rt.family == unix.AF_INET {
		from = netip.IPv4Unspecified()
	}
	r := ruleID{table: int(rt.table), odd: rt.kind != unix.FR_ACT_TO_TBL || rt.dstLen != 0 || rt.tos != 0 || rt.flags != 0}
	for typ, v := range attributes(attrs) {
		switch typ {
		case unix.FRA_SRC:
			from = address(v)
		case unix.FRA_TABLE:
			r.table = num(v)
		case unix.FRA_PRIORITY:
			r.priority = unsigned(v)
		case unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP:
			r.odd = r.odd || num(v) != -1
		case unix.FRA_PROTOCOL:
			r.odd = r.odd || num(v) != Protocol
		default:
			r.odd = true
		}
	}
	r.from = netip.PrefixFrom(from, int(rt.srcLen))
	return r, true
}
