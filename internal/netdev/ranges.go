package netdev

import (
	"net/netip"
	"slices"
)

// addrRange is all addresses from first on, up to the one before next. With no next it reaches to the last of its
// family.
type addrRange struct {
	first, next netip.Addr
}

// String says the range in words that mean the same in every process: printed by its fields, an address shows where
// in memory its zone is, which differs from start to start.
func (r addrRange) String() string { return r.first.String() + "-" + r.next.String() }

// ranges turns the prefixes of one family into the fewest ranges that hold the same addresses, in order. The pod
// CIDRs of a cluster mostly touch: those of thousands of nodes become one range.
func ranges(prefixes []netip.Prefix, ipv4 bool) []addrRange {
	var all []addrRange
	for _, p := range prefixes {
		if p.Addr().Is4() == ipv4 {
			p = p.Masked()
			all = append(all, addrRange{p.Addr(), lastOf(p).Next()})
		}
	}
	slices.SortFunc(all, func(a, b addrRange) int { return a.first.Compare(b.first) })
	var merged []addrRange
	for _, r := range all {
		if n := len(merged); n > 0 {
			last := &merged[n-1]
			if !last.next.IsValid() {
				return merged
			}
			if r.first.Compare(last.next) <= 0 {
				if !r.next.IsValid() || last.next.Less(r.next) {
					last.next = r.next
				}
				continue
			}
		}
		merged = append(merged, r)
	}
	return merged
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
