package explain

import (
	"maps"
	"slices"
	"strings"
)

// fewPlaces are so few that each is named.
const fewPlaces = 3

// Words names places of one end of changes in few words; others are those of the other end.
func (d *Difference) Words(places, others []Place) string {
	var nodes []string
	pods, blocks := map[string][]string{}, map[string]bool{}
	for _, p := range places {
		switch {
		case p.IsPod():
			pods[p.namespace()] = append(pods[p.namespace()], p.Name)
		case p.Name == otherNodes:
			nodes = append(nodes, "all other nodes")
		case p.IsNode():
			nodes = append(nodes, p.Name)
		default:
			blocks[p.Block.String()] = true
		}
	}
	texts := d.podWords(pods, others)
	if len(nodes) == len(d.nodes) && len(nodes) > fewPlaces {
		nodes = []string{"all nodes"}
	}
	slices.Sort(nodes)
	return strings.Join(slices.Concat(texts, nodes, d.regionWords(blocks)), ", ")
}

// count takes down that there is such a place.
func (d *Difference) count(p Place) {
	switch {
	case p.IsPod():
		d.pods[p.namespace()]++
		d.pods[""]++
	case p.IsNode():
		d.nodes = append(d.nodes, p)
	}
}

func (p Place) namespace() string { return p.Name[:max(0, strings.Index(p.Name, "/"))] }

// podWords names pods by namespace. No pod is among those that it is parted from, so that all others are all but the one at the
// other end.
func (d *Difference) podWords(byNamespace map[string][]string, others []Place) (texts []string) {
	word := func(names []string, namespace string) string {
		n := d.pods[namespace]
		switch {
		case len(names) <= fewPlaces:
		case len(names) == n:
			return "all pods"
		case len(names) == n-1 && len(others) == 1 && others[0].IsPod() && !slices.Contains(names, others[0].Name) &&
			(namespace == "" || others[0].namespace() == namespace):
			return "all other pods"
		}
		return ""
	}
	all := slices.Concat(slices.Collect(maps.Values(byNamespace))...)
	if text := word(all, ""); text != "" {
		return []string{text}
	}
	for _, namespace := range slices.Sorted(maps.Keys(byNamespace)) {
		names := byNamespace[namespace]
		if text := word(names, namespace); text != "" {
			texts = append(texts, text+" of "+namespace)
			continue
		}
		slices.Sort(names)
		texts = append(texts, names...)
	}
	return texts
}

// share says how much of a block is meant.
type share int

const (
	empty share = iota // there is no address outside in it
	none
	some
	whole
)

// regionWords names regions by the largest blocks that are meant as a whole, or but for some blocks in them.
func (d *Difference) regionWords(blocks map[string]bool) (texts []string) {
	if len(blocks) == 0 {
		return nil
	}
	shares, everything := d.shares(blocks), true
	for i, r := range d.regions {
		if r.within < 0 && shares[i] != empty && shares[i] != whole {
			everything = false
		}
	}
	if everything {
		return []string{"all outside"}
	}
	said := make([]bool, len(d.regions)) // by a block around it
	for i, r := range d.regions {
		own := blocks[r.block.String()]
		if r.within >= 0 && said[r.within] && (own || !r.sample.IsValid()) {
			said[i] = true
			continue
		}
		if !own && shares[i] != whole {
			continue
		}
		said[i] = true
		text := r.words()
		if but := d.without(i, shares, blocks); len(but) > 0 {
			text += " but " + strings.Join(but, " and ")
		}
		texts = append(texts, text)
	}
	return texts
}

func (r region) words() string {
	switch {
	case r.within >= 0:
		return r.block.String()
	case r.block.Addr().Is4():
		return "all IPv4 outside"
	}
	return "all IPv6 outside"
}

// shares says of each block how much of it is meant.
func (d *Difference) shares(blocks map[string]bool) []share {
	shares := make([]share, len(d.regions))
	add := func(i int, s share) {
		switch {
		case shares[i] == empty:
			shares[i] = s
		case s != empty && s != shares[i]:
			shares[i] = some
		}
	}
	for i, r := range slices.Backward(d.regions) {
		switch {
		case blocks[r.block.String()]:
			add(i, whole)
		case r.sample.IsValid():
			add(i, none)
		}
		if r.within >= 0 {
			add(r.within, shares[i])
		}
	}
	return shares
}

// without lists the largest blocks in a block that are not meant. Those in them that are meant are named apart.
func (d *Difference) without(at int, shares []share, blocks map[string]bool) (texts []string) {
	for i, r := range d.regions {
		switch {
		case r.within != at || shares[i] == whole || shares[i] == empty:
		case blocks[r.block.String()] || !r.sample.IsValid() && shares[i] == some:
			texts = append(texts, d.without(i, shares, blocks)...)
		default:
			texts = append(texts, r.block.String())
		}
	}
	return texts
}
