package policy

import (
	"maps"
	"net/netip"
	"slices"
)

// blocks are the blocks in use, by their prefixes and by those that they except.
type blocks struct {
	within  map[netip.Prefix][]*members
	outside map[netip.Prefix][]*members
	rows    map[netip.Prefix]*prefixRow
	lengths [2][129]int // how many rows of IPv4 and IPv6 there are of each length

	noted []*members // that have come or gone
}

// members of an atom: addresses that are in a block, but in none of those that it excepts.
type members struct {
	of     *atom
	block  netip.Prefix
	except []netip.Prefix
}

// prefixRow is what all addresses of a prefix have in common that are in no longer one.
type prefixRow struct {
	refs  int
	match *match // nil: not looked at yet
	class *class
}

func newBlocks() blocks {
	return blocks{within: map[netip.Prefix][]*members{}, outside: map[netip.Prefix][]*members{}, rows: map[netip.Prefix]*prefixRow{}}
}

// mapped are the IPv6 addresses that stand for IPv4 ones, where addresses of both families are in one table.
func mapped() netip.Prefix { return netip.MustParsePrefix("::ffff:0:0/96") }

// prefixes are those that need rows because of a block. An IPv6 block that holds the addresses which stand for IPv4 ones
// does not mean them: so all of IPv4 has a row of its own.
func (m *members) prefixes() []netip.Prefix {
	list := append([]netip.Prefix{m.block}, m.except...)
	if m.block.Contains(mapped().Addr()) {
		list = append(list, netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	}
	return list
}

// note that an atom has come into use or gone.
func (b *blocks) note(a *atom) {
	for _, m := range a.blocks {
		b.noted = append(b.noted, m)
		step, edit := 1, func(list []*members) []*members { return append(list, m) }
		if !a.installed {
			step, edit = -1, func(list []*members) []*members { return without(list, m) }
		}
		change := func(index map[netip.Prefix][]*members, p netip.Prefix) {
			if index[p] = edit(index[p]); len(index[p]) == 0 {
				delete(index, p)
			}
		}
		change(b.within, m.block)
		for _, e := range m.except {
			change(b.outside, e)
		}
		for _, p := range m.prefixes() {
			b.refer(p, step)
		}
	}
}

// refer counts how many need a row of a prefix.
func (b *blocks) refer(p netip.Prefix, step int) {
	row := b.rows[p]
	if row == nil {
		row = &prefixRow{}
		b.rows[p] = row
	}
	had := row.refs > 0
	row.refs += step
	if has := row.refs > 0; has != had {
		b.lengths[family(p.Addr())][p.Bits()] += step
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// of returns the atoms that have all of a prefix.
func (b *blocks) of(p netip.Prefix) (atoms []*atom) {
	var out map[*members]bool
	var in []*members
	b.up(p.Addr(), p.Bits(), func(q netip.Prefix) bool {
		for _, m := range b.outside[q] {
			if out == nil {
				out = map[*members]bool{}
			}
			out[m] = true
		}
		in = append(in, b.within[q]...)
		return true
	})
	for _, m := range in {
		if !out[m] {
			atoms = append(atoms, m.of)
		}
	}
	return atoms
}

// up yields the rows' prefixes that hold an address, from those of so many bits to the shortest.
func (b *blocks) up(a netip.Addr, bits int, yield func(netip.Prefix) bool) {
	lengths := &b.lengths[family(a)]
	for ; bits >= 0; bits-- {
		if lengths[bits] == 0 {
			continue
		}
		if p, err := a.Prefix(bits); err == nil && b.rows[p] != nil && !yield(p) {
			return
		}
	}
}

// lookup returns the row that an address finds, nil if there is none.
func (b *blocks) lookup(a netip.Addr) (row *prefixRow) {
	b.up(a, a.BitLen(), func(p netip.Prefix) bool {
		row = b.rows[p]
		return false
	})
	return row
}

// class is that of a prefix, Others if it has none.
func (b *blocks) class(p netip.Prefix) ID {
	if row := b.rows[p]; row != nil {
		return row.class.ID()
	}
	return Others
}

// stale are the prefixes whose rows the noted blocks may have changed.
func (b *blocks) stale() (list []netip.Prefix) {
	if len(b.noted) > 16 {
		return slices.Collect(maps.Keys(b.rows))
	}
	for p := range b.rows {
		if slices.ContainsFunc(b.noted, func(m *members) bool {
			return p.Bits() >= m.block.Bits() && m.block.Contains(p.Addr()) || slices.Contains(m.prefixes(), p)
		}) {
			list = append(list, p)
		}
	}
	return list
}

// settleBlocks puts the rows of prefixes as they are now, and touches the addresses that are in those that changed.
func (t *Table) settleBlocks() {
	b := &t.blocks
	if len(b.noted) == 0 {
		return
	}
	changed := map[netip.Prefix]bool{}
	for _, p := range b.stale() {
		row, old := b.rows[p], b.rows[p].match
		row.match = nil
		if row.refs > 0 {
			row.match = t.matches.refer(b.of(p))
		} else {
			delete(b.rows, p)
		}
		if row.match != old {
			changed[p] = true
			t.setPrefix(p, row)
		}
		if old != nil {
			t.matches.release(old)
		}
	}
	b.noted = nil
	t.touchWithin(changed)
}

// setPrefix gives a prefix the class that its match makes, none if it has no row any more.
func (t *Table) setPrefix(p netip.Prefix, row *prefixRow) {
	if _, noted := t.toldPrefixes[p]; !noted {
		t.toldPrefixes[p] = row.class.ID()
	}
	old := row.class
	row.class = nil
	if row.match != nil {
		row.class = t.join(classKey{blocks: row.match})
	}
	t.part(old)
}

// touchWithin touches the addresses with a class of their own that are in one of those prefixes.
func (t *Table) touchWithin(changed map[netip.Prefix]bool) {
	if len(changed) == 0 {
		return
	}
	var lengths [2][]int
	for p := range changed {
		f := family(p.Addr())
		if !slices.Contains(lengths[f], p.Bits()) {
			lengths[f] = append(lengths[f], p.Bits())
		}
	}
	for a := range t.addresses {
		for _, bits := range lengths[family(a)] {
			if p, err := a.Prefix(bits); err == nil && changed[p] {
				t.touchedAddresses[a] = true
				break
			}
		}
	}
}
