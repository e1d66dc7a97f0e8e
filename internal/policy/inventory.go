package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
)

// namespace is what there is in one, with or without its object.
type namespace struct {
	name     string
	object   *cluster.Namespace // nil: not known
	pods     map[string]*pod
	policies map[string]*networkPolicy
	subjects map[string]*subject
	spaces   []*space // that it belongs to
}

func (ns *namespace) vacant() bool {
	return ns.object == nil && len(ns.pods) == 0 && len(ns.policies) == 0
}

// consider makes a namespace a member of a space or not, and says whether that has changed.
func (ns *namespace) consider(s *space) bool {
	now := s.has(ns)
	if s.members[ns] == now {
		return false
	}
	if now {
		s.members[ns] = true
		ns.spaces = append(ns.spaces, s)
	} else {
		delete(s.members, ns)
		ns.spaces = without(ns.spaces, s)
	}
	return true
}

// pod is one that has been put, of any node.
type pod struct {
	object *cluster.Pod
	name   string
	ns     *namespace
	match  *match
}

func (p *pod) before(other *pod) bool {
	return strings.Compare(p.ns.name, other.ns.name) < 0 || p.ns == other.ns && p.name < other.name
}

// portsOf says which numbers a pod's ports of those names have, sorted and without doubles.
func (p *pod) portsOf(names []string) (ports []cluster.PodPort) {
	if len(names) == 0 {
		return nil
	}
	for _, port := range p.object.Ports {
		if _, asked := slices.BinarySearch(names, port.Name); asked {
			ports = append(ports, port)
		}
	}
	slices.SortFunc(ports, comparePorts)
	return slices.Compact(ports)
}

// enter returns a namespace, and makes it where there was none.
func (t *Table) enter(name string) *namespace {
	ns := t.namespaces[name]
	if ns == nil {
		ns = &namespace{name: name, pods: map[string]*pod{}}
		t.namespaces[name] = ns
		for _, s := range t.spaces {
			ns.consider(s)
		}
	}
	return ns
}

// leave forgets a namespace of which nothing is known any more.
func (t *Table) leave(ns *namespace) {
	if !ns.vacant() || t.namespaces[ns.name] != ns {
		return
	}
	for _, s := range ns.spaces {
		delete(s.members, ns)
	}
	delete(t.namespaces, ns.name)
}

// setNamespace puts what is known of a namespace, and looks at its pods again where its labels are others now.
func (t *Table) setNamespace(ns *namespace, object *cluster.Namespace) {
	old := ns.object
	ns.object = object
	if old != nil && object != nil && slices.Equal(old.Labels, object.Labels) {
		return
	}
	changed := false
	for _, s := range slices.Collect(maps.Values(t.spaces)) {
		changed = ns.consider(s) || changed
	}
	if changed {
		for _, p := range ns.pods {
			t.rematch(p, t.matchOf(p))
		}
	}
	for _, s := range ns.subjects {
		t.touchedSubjects[s] = true
	}
}

// setPod puts a pod, nil that there is none of that name.
func (t *Table) setPod(name cluster.Name, object *cluster.Pod) {
	ns := t.enter(name.Namespace)
	p := ns.pods[name.Name]
	switch {
	case p == nil && object == nil:
	case p == nil:
		p = &pod{object: object, name: name.Name, ns: ns, match: t.none}
		ns.pods[name.Name] = p
		p.match = t.matchOf(p)
		t.claim(p, object)
	case object == nil:
		delete(ns.pods, name.Name)
		t.unclaim(p, p.object)
		t.release(p.match)
	default:
		t.replacePod(p, object)
	}
	t.setSubject(ns, name.Name, object)
	t.leave(ns)
}

func (t *Table) replacePod(p *pod, object *cluster.Pod) {
	old := p.object
	p.object = object
	if old.HostNetwork != object.HostNetwork || !slices.Equal(old.Addresses, object.Addresses) {
		t.unclaim(p, old)
		t.claim(p, object)
	}
	if old.HostNetwork != object.HostNetwork || !slices.Equal(old.Labels, object.Labels) ||
		!slices.Equal(old.Ports, object.Ports) {
		t.rematch(p, t.matchOf(p))
		t.touchPod(p) // its ports may tell addresses apart that one match has
	}
}

// matchOf asks every atom that may match a pod. It is referred to once more.
func (t *Table) matchOf(p *pod) *match {
	var atoms []*atom
	for _, s := range p.ns.spaces {
		atoms = s.appendMatches(atoms, p)
	}
	if len(atoms) == 0 {
		return t.none
	}
	return t.matches.refer(atoms)
}

// rematch gives a pod a match that is referred to already.
func (t *Table) rematch(p *pod, m *match) {
	t.release(p.match)
	if p.match == m {
		return
	}
	p.match = m
	t.touchPod(p)
}

func (t *Table) touchPod(p *pod) {
	for _, a := range p.object.Addresses {
		if a = bare(a); t.owners[a] == p {
			t.touch(a)
		}
	}
}

func (t *Table) release(m *match) {
	if m != t.none {
		t.matches.release(m)
	}
}

// bare returns an address as packets have it.
func bare(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// claim makes a pod the owner of its addresses. Nobody can know which of two that claim one address is stale: the first
// by name has it. A host-network pod's addresses are its node's.
func (t *Table) claim(p *pod, object *cluster.Pod) {
	if object.HostNetwork {
		return
	}
	for _, a := range object.Addresses {
		a = bare(a)
		switch owner := t.owners[a]; {
		case owner == p || slices.Contains(t.rivals[a], p):
			continue
		case owner == nil:
			t.owners[a] = p
		case p.before(owner):
			t.owners[a] = p
			t.rivals[a] = append(t.rivals[a], owner)
		default:
			t.rivals[a] = append(t.rivals[a], p)
		}
		t.touch(a)
	}
}

func (t *Table) unclaim(p *pod, object *cluster.Pod) {
	if object.HostNetwork {
		return
	}
	for _, a := range object.Addresses {
		a = bare(a)
		rivals := t.rivals[a]
		if t.owners[a] == p {
			delete(t.owners, a)
			for _, r := range rivals {
				if heir := t.owners[a]; heir == nil || r.before(heir) {
					t.owners[a] = r
				}
			}
			p := t.owners[a]
			t.rivals[a] = without(rivals, p)
		} else {
			t.rivals[a] = without(rivals, p)
		}
		if len(t.rivals[a]) == 0 {
			delete(t.rivals, a)
		}
		t.touch(a)
	}
}
