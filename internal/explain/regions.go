package explain

import (
	"net/netip"
	"slices"
)

// region is what a block holds and none of the blocks in it does: policies that name only these blocks treat its addresses
// alike.
type region struct {
	block  netip.Prefix
	within int            // the position of the smallest block around it; -1: it is a whole family
	sample netip.Addr     // one of its addresses that no pod and no node has; invalid: there is none
	holes  []netip.Prefix // the largest blocks in it
}

// regionsOf parts each family by blocks. A region is behind those around it.
func regionsOf(blocks map[netip.Prefix]bool, taken map[netip.Addr]bool) (regions []region) {
	set := map[netip.Prefix]bool{netip.MustParsePrefix("0.0.0.0/0"): true, netip.MustParsePrefix("::/0"): true}
	for b := range blocks {
		set[b] = true
	}
	sorted := sortedPrefixes(set)
	var around []int // of the block at hand, the largest first
	for i, b := range sorted {
		for len(around) > 0 && !holds(sorted[around[len(around)-1]], b) {
			around = around[:len(around)-1]
		}
		r := region{block: b, within: -1}
		if len(around) > 0 {
			r.within = around[len(around)-1]
			parent := &regions[r.within]
			parent.holes = append(parent.holes, b)
		}
		regions = append(regions, r)
		around = append(around, i)
	}
	nobodys := nobodysPrefixes(taken)
	for i := range regions {
		regions[i].sample = regions[i].free(nobodys)
	}
	return regions
}

func sortedPrefixes(set map[netip.Prefix]bool) (list []netip.Prefix) {
	for p := range set {
		list = append(list, p)
	}
	slices.SortFunc(list, comparePrefixes)
	return list
}

// comparePrefixes orders by first address, the larger block first.
func comparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

func holds(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// nobodysPrefixes are, in order, what an address outside cannot be in: pods, nodes, and what is never on a wire.
func nobodysPrefixes(taken map[netip.Addr]bool) []netip.Prefix {
	set := map[netip.Prefix]bool{}
	for _, text := range []string{"0.0.0.0/32", "127.0.0.0/8", "::/128", "::1/128", "::ffff:0:0/96"} {
		set[netip.MustParsePrefix(text)] = true
	}
	for a := range taken {
		set[netip.PrefixFrom(a, a.BitLen())] = true
	}
	return sortedPrefixes(set)
}

// free finds an address of the region that is in none of the prefixes, which are sorted. One that people know for an
// example is better than any other, and any is better than the block's first, which looks like the block.
func (r *region) free(nobodys []netip.Prefix) netip.Addr {
	first, _ := slices.BinarySearchFunc(nobodys, netip.PrefixFrom(r.block.Addr(), 0), comparePrefixes)
	around := slices.Clone(r.holes)
	for _, p := range nobodys {
		if holds(p, r.block) {
			return netip.Addr{}
		}
	}
	for _, p := range nobodys[first:] {
		if !r.block.Contains(p.Addr()) {
			break
		}
		around = append(around, p)
	}
	slices.SortFunc(around, comparePrefixes)
	for _, text := range []string{"192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"} {
		a := netip.MustParseAddr(text)
		if r.block.Contains(a) && !slices.ContainsFunc(around, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return a
		}
	}
	if a := firstBeside(r.block.Addr().Next(), around); a.IsValid() && r.block.Contains(a) {
		return a
	}
	if a := firstBeside(r.block.Addr(), around); a.IsValid() && r.block.Contains(a) {
		return a
	}
	return netip.Addr{}
}

// firstBeside is the first address from a on that is in none of the prefixes, which are sorted.
func firstBeside(a netip.Addr, prefixes []netip.Prefix) netip.Addr {
	for _, p := range prefixes {
		if a.IsValid() && p.Contains(a) {
			a = lastOf(p).Next()
		}
	}
	return a
}

func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}
