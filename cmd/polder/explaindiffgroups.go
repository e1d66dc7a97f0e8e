package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/explain"
)

// changeGroup are changes that people read as one: between each of the senders and each of the receivers, for one reason. Of a
// pod and itself it says nothing.
type changeGroup struct {
	from, to []explain.Place
	ports    string
	family   string         // empty: of both, or of the only one that the two have in common
	sample   explain.Change // one of them
}

// changedPair is what changes between two places for one reason.
type changedPair struct {
	from, to string
	allowed  bool
	reason   string
}

func (g changeGroup) sign() string {
	if g.sample.Now.Allowed {
		return "+"
	}
	return "-"
}

// text says in a line what changes, without its sign.
func (g changeGroup) text(d *explain.Difference) string {
	verdict := "denied"
	if g.sample.Now.Allowed {
		verdict = "allowed"
	}
	text := fmt.Sprintf("%s %s to %s: %s", verdict, d.Words(g.from, g.to), d.Words(g.to, g.from), g.ports)
	if g.family != "" {
		text += " (" + g.family + ")"
	}
	return text
}

// groupChanges groups by ports, then by receivers, then by senders.
func groupChanges(d *explain.Difference) (groups []changeGroup) {
	var order []changedPair
	pairs := map[changedPair][]explain.Change{}
	for _, c := range d.Changes {
		key := changedPair{c.From.Name, c.To.Name, c.Now.Allowed, c.Reason}
		if pairs[key] == nil {
			order = append(order, key)
		}
		pairs[key] = append(pairs[key], c)
	}
	for _, key := range order {
		groups = append(groups, groupFamilies(pairs[key])...)
	}
	groups = mergeNodes(d, groups, func(g *changeGroup) (pod, node *[]explain.Place) { return &g.from, &g.to })
	groups = mergeNodes(d, groups, func(g *changeGroup) (pod, node *[]explain.Place) { return &g.to, &g.from })
	groups = mergeSenders(mergeReceivers(groups))
	slices.SortStableFunc(groups, func(a, b changeGroup) int {
		return cmp.Or(cmp.Compare(a.to[0].Name, b.to[0].Name), cmp.Compare(a.from[0].Name, b.from[0].Name))
	})
	return groups
}

// groupFamilies makes one group of a pair that changes alike in both families. Else the group says which it is of, if the pair
// has two.
func groupFamilies(changes []explain.Change) (groups []changeGroup) {
	for _, ipv4 := range []bool{true, false} {
		var ports []explain.Ports
		var sample explain.Change
		for _, c := range changes {
			if c.IPv4 == ipv4 {
				ports, sample = append(ports, c.Ports), c
			}
		}
		if ports == nil {
			continue
		}
		g := changeGroup{[]explain.Place{sample.From}, []explain.Place{sample.To}, explain.PortsText(ports), "", sample}
		if sample.Dual {
			g.family = familyName(ipv4)
		}
		if len(groups) == 1 && groups[0].ports == g.ports {
			groups[0].family = ""
			continue
		}
		groups = append(groups, g)
	}
	return groups
}

// kind is what groups that may be merged have in common, beside the places at one end.
func (g changeGroup) kind() string {
	return strings.Join([]string{g.sign(), g.ports, g.family, g.sample.Reason}, "\x00")
}

// mergeNodes makes one of a pod's changes with all nodes but its own. Each group has one place at either end, still.
func mergeNodes(d *explain.Difference, groups []changeGroup, ends func(*changeGroup) (pod, node *[]explain.Place)) (merged []changeGroup) {
	key := func(g changeGroup) string {
		pod, _ := ends(&g)
		return g.kind() + "\x00" + (*pod)[0].Name
	}
	with := map[string][]string{} // the names of nodes
	for _, g := range groups {
		if pod, node := ends(&g); (*pod)[0].IsPod() && (*node)[0].IsNode() {
			with[key(g)] = append(with[key(g)], (*node)[0].Name)
		}
	}
	done := map[string]bool{}
	for _, g := range groups {
		pod, node := ends(&g)
		if !(*pod)[0].IsPod() || !(*node)[0].IsNode() {
			merged = append(merged, g)
			continue
		}
		others, all := d.OtherNodes((*pod)[0])
		isOther := func(name string) bool {
			return slices.ContainsFunc(others, func(p explain.Place) bool { return p.Name == name })
		}
		k := key(g)
		switch names := with[k]; {
		case len(others) < 2 || len(names) != len(others) || slices.ContainsFunc(names, func(n string) bool { return !isOther(n) }):
			merged = append(merged, g)
		case !done[k]:
			done[k] = true
			*node = []explain.Place{all}
			merged = append(merged, g)
		}
	}
	return merged
}

// mergeReceivers makes one group of a sender's receivers.
func mergeReceivers(groups []changeGroup) []changeGroup {
	return merge(groups, func(g changeGroup) string { return g.kind() + "\x00" + placesKey(g.from) },
		func(into *changeGroup, g changeGroup) { into.to = append(into.to, g.to...) })
}

// mergeSenders makes one group of senders that have the same receivers. Where a sender has itself as well to do so – about
// itself there is nothing to say – it is taken for one of its own receivers.
func mergeSenders(groups []changeGroup) []changeGroup {
	plain := func(g changeGroup) string { return g.kind() + "\x00" + placesKey(g.to) }
	withItself := func(g changeGroup) string {
		if !g.from[0].IsPod() {
			return plain(g)
		}
		return g.kind() + "\x00" + placesKey(append(slices.Clone(g.to), g.from[0]))
	}
	exact, reflexive := map[string]int{}, map[string]int{}
	for _, g := range groups {
		exact[plain(g)]++
	}
	for _, g := range groups {
		if exact[plain(g)] == 1 {
			reflexive[withItself(g)]++
		}
	}
	for i, g := range groups {
		if key := withItself(g); exact[plain(g)] == 1 && g.from[0].IsPod() && (reflexive[key] > 1 || exact[key] > 0) {
			groups[i].to = append(g.to, g.from[0])
		}
	}
	return merge(groups, plain, func(into *changeGroup, g changeGroup) { into.from = append(into.from, g.from...) })
}

func merge(groups []changeGroup, key func(changeGroup) string, add func(into *changeGroup, g changeGroup)) (merged []changeGroup) {
	at := map[string]int{}
	for _, g := range groups {
		k := key(g)
		if i, ok := at[k]; ok {
			add(&merged[i], g)
			continue
		}
		at[k] = len(merged)
		merged = append(merged, g)
	}
	return merged
}

func placesKey(places []explain.Place) string {
	var names []string
	for _, p := range places {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return strings.Join(names, "\x00")
}
