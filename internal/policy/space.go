package policy

import (
	"k8s.io/apimachinery/pkg/labels"

	"github.com/polder-net/polder/internal/cluster"
)

// spaceKey names a set of namespaces: one, or those that a selector selects.
type spaceKey struct {
	own      string
	selector string // text; empty: the own one
}

// space is a set of namespaces that atoms in use are about.
type space struct {
	key      spaceKey
	selector labels.Selector
	members  map[*namespace]bool

	// Its atoms: a pod's labels say which may match it.
	count   int
	byLabel map[cluster.Label][]*atom
	rest    []*atom // may match any
}

func (s *space) has(ns *namespace) bool {
	if s.key.selector == "" {
		return ns.name == s.key.own
	}
	return selectsNamespace(s.selector, ns)
}

// put adds an atom that has come into use, and takes out one that has gone.
func (s *space) put(a *atom) {
	step, edit := 1, func(list []*atom) []*atom { return append(list, a) }
	if !a.installed {
		step, edit = -1, func(list []*atom) []*atom { return without(list, a) }
	}
	s.count += step
	if len(a.any) == 0 {
		s.rest = edit(s.rest)
	}
	for _, l := range a.any {
		if s.byLabel[l] = edit(s.byLabel[l]); len(s.byLabel[l]) == 0 {
			delete(s.byLabel, l)
		}
	}
}

// appendMatches appends the atoms that match a pod.
func (s *space) appendMatches(list []*atom, p *pod) []*atom {
	for _, a := range s.rest {
		if a.matches(p) {
			list = append(list, a)
		}
	}
	if len(s.byLabel) == 0 {
		return list
	}
	for _, l := range p.object.Labels {
		for _, a := range s.byLabel[l] {
			if a.matches(p) {
				list = append(list, a)
			}
		}
	}
	return list
}

// enterSpace returns the set of namespaces of that key.
func (t *Table) enterSpace(key spaceKey, selector labels.Selector) *space {
	s := t.spaces[key]
	if s == nil {
		s = &space{key: key, selector: selector, members: map[*namespace]bool{}, byLabel: map[cluster.Label][]*atom{}}
		t.spaces[key] = s
		if selector != nil {
			for _, ns := range t.namespaces {
				ns.consider(s)
			}
		} else if ns := t.namespaces[key.own]; ns != nil {
			ns.consider(s)
		}
	}
	return s
}

// leaveSpace forgets a set of namespaces that no atom is about.
func (t *Table) leaveSpace(s *space) {
	if s == nil || s.count > 0 {
		return
	}
	for ns := range s.members {
		ns.spaces = without(ns.spaces, s)
	}
	clear(s.members)
	delete(t.spaces, s.key)
}

// few atoms are looked at one by one: which pods does it match? For more, each pod is asked which atoms match it.
const few = 6

// spreadPods gives pods the matches that they have now that some atoms have come or gone.
func (t *Table) spreadPods(atoms []*atom) {
	if len(atoms) <= few {
		for _, a := range atoms {
			t.spreadOne(a)
		}
		return
	}
	members := map[*namespace]bool{}
	for _, a := range atoms {
		for ns := range a.space.members {
			members[ns] = true
		}
	}
	for ns := range members {
		for _, p := range ns.pods {
			t.rematch(p, t.matchOf(p))
		}
	}
}

func (t *Table) spreadOne(a *atom) {
	u := turn{t.matches, a, a.installed, map[*match]*match{}}
	for ns := range a.space.members {
		for _, p := range ns.pods {
			if a.installed && !a.matches(p) {
				continue
			}
			if next := u.of(p.match); next != p.match {
				next.refs++
				t.rematch(p, next)
			}
		}
	}
	u.end()
}
