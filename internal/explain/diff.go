package explain

import "slices"

// Change is a pair that one cluster allows and the other denies.
type Change struct {
	Cell
	Now  Ruling // what the later one says
	Dual bool   // the pair has the other family, too
}

// Diff says which pairs change from one cluster to another, and of which pods only one of them knows: about those it says
// nothing. Both answer for the ports and blocks that either of them names.
func Diff(old, now *Cluster) (changes []Change, once []string) {
	before, after := old.pairsBeside(now), now.pairsBeside(old)
	for cell, ruling := range after {
		if was, ok := before[cell]; ok && was.Allowed != ruling.Allowed {
			other := cell
			other.IPv4 = !cell.IPv4
			_, dual := after[other]
			changes = append(changes, Change{cell, ruling, dual})
		}
	}
	slices.SortFunc(changes, func(a, b Change) int { return a.Compare(b.Cell) })
	for _, p := range old.pods {
		if now.podNamed(p.name) == nil {
			once = append(once, p.name)
		}
	}
	for _, p := range now.pods {
		if old.podNamed(p.name) == nil {
			once = append(once, p.name)
		}
	}
	slices.Sort(once)
	return changes, once
}

// pairsBeside answers for all that either cluster would ask.
func (c *Cluster) pairsBeside(other *Cluster) map[Cell]Ruling {
	both := *c
	both.beside = other
	return both.Pairs(true)
}
