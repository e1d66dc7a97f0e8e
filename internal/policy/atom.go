package policy

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/polder-net/polder/internal/cluster"
)

// kind is what an atom matches.
type kind uint8

const (
	pods kind = iota
	nodes
	block
)

// atom is the smallest thing that rules ask of an address: that a selector or a block matches it. Atoms are named by
// their text. One is in use while a program of a subject asks for it.
type atom struct {
	text string
	kind kind

	own   bool            // of nodes: this one alone
	space *space          // of pods: the namespaces
	pods  labels.Selector // of pods, or of nodes
	any   []cluster.Label // of pods: those that match have one of them; empty: not known
	port  string          // of pods: those that have a port of that name, and addresses differ by its numbers; empty: all

	blocks []*members // of blocks: those of all a rule's peers together

	serial    uint32
	users     map[*program]bool
	installed bool // pods, nodes and prefixes know of it

	classes map[*class]bool // live ones that have it
}

// spec is an atom that a rule asks for.
type spec struct {
	text  string
	kind  kind
	own   bool // of nodes: this one alone
	space spaceKey
	peer  cluster.PolicyPeer
	port  string

	blocks []cluster.PolicyPeer
}

// specOf returns what a peer asks for, and whether that can match anything. own is the policy's namespace.
func specOf(p cluster.PolicyPeer, own string) (spec, bool) {
	switch {
	case p.Pods != nil:
		s := spec{kind: pods, peer: p, space: spaceKey{own: own}}
		where := strconv.Quote(own)
		if p.Namespaces != nil {
			where = selectorText(p.Namespaces)
			s.space = spaceKey{selector: where}
		}
		s.text = "pods " + selectorText(p.Pods) + " of " + where
		possible := s.space != spaceKey{} && selectorText(p.Pods) != nothing && where != nothing
		return s, possible
	case p.Nodes != nil:
		text := selectorText(p.Nodes)
		return spec{kind: nodes, peer: p, text: "nodes " + text}, text != nothing
	}
	return spec{}, false
}

// blocksSpec is about the blocks of one rule, all together: what is in one of them is treated like what is in another.
func blocksSpec(peers []cluster.PolicyPeer) (spec, bool) {
	var texts []string
	s := spec{kind: block}
	for _, p := range peers {
		if p.Pods != nil || p.Nodes != nil || !p.Block.IsValid() {
			continue
		}
		m := cluster.PolicyPeer{Block: plain(p.Block)}
		for _, e := range p.Except {
			m.Except = append(m.Except, plain(e))
		}
		slices.SortFunc(m.Except, netip.Prefix.Compare)
		m.Except = slices.Compact(m.Except)
		s.blocks = append(s.blocks, m)
		texts = append(texts, fmt.Sprint(m.Block, " except ", m.Except))
	}
	slices.Sort(texts)
	s.text = "blocks " + strings.Join(slices.Compact(texts), ", ")
	if len(s.text) > 1000 {
		s.text = fmt.Sprintf("blocks %x", sha256.Sum256([]byte(s.text)))
	}
	return s, len(texts) > 0
}

// plain returns a masked prefix, of IPv4 if it is a mapped one.
func plain(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// portSpec is about the pods that have a port of that name, among those of a peer; of a peer that is no pods, among all.
func portSpec(peer spec, port string) spec {
	if peer.kind != pods || peer.text == "" {
		peer = spec{kind: pods, text: "pods all of all", space: spaceKey{selector: "all"},
			peer: cluster.PolicyPeer{Pods: labels.Everything(), Namespaces: labels.Everything()}}
	}
	peer.port = port
	peer.text += " with port " + strconv.Quote(port)
	return peer
}

// matches says whether an atom about pods matches one in a namespace of the atom's space.
func (a *atom) matches(p *pod) bool {
	if p.object.HostNetwork || !a.pods.Matches(&p.object.Labels) {
		return false
	}
	return a.port == "" || slices.ContainsFunc(p.object.Ports, func(q cluster.PodPort) bool { return q.Name == a.port })
}

// acquire notes that a program uses what a spec says, and returns the atom.
func (t *Table) acquire(s spec, user *program) *atom {
	a := t.atoms[s.text]
	if a == nil {
		t.serial++
		a = &atom{text: s.text, kind: s.kind, pods: s.peer.Pods, port: s.port, serial: t.serial,
			users: map[*program]bool{}, classes: map[*class]bool{}}
		switch s.kind {
		case pods:
			a.space, a.any = t.enterSpace(s.space, s.peer.Namespaces), required(a.pods)
		case nodes:
			a.pods, a.own = s.peer.Nodes, s.own
		case block:
			for _, b := range s.blocks {
				a.blocks = append(a.blocks, &members{a, b.Block, b.Except})
			}
		}
		t.atoms[s.text] = a
	}
	a.users[user] = true
	t.touchedAtoms[a] = true
	return a
}

// settleAtoms tells pods, nodes and prefixes of atoms that have come into use or gone out of it.
func (t *Table) settleAtoms() {
	var about []*atom
	for a := range t.touchedAtoms {
		if wanted := len(a.users) > 0; wanted != a.installed {
			a.installed = wanted
			if t.spread(a); a.kind == pods {
				about = append(about, a)
			}
		}
		if !a.installed {
			delete(t.atoms, a.text)
		}
	}
	t.spreadPods(about)
	for a := range t.touchedAtoms {
		t.leaveSpace(a.space)
	}
	clear(t.touchedAtoms)
}

// spread puts an atom where those are that are in use, or takes it out.
func (t *Table) spread(a *atom) {
	switch a.kind {
	case nodes:
		t.nodesChanged = true
		t.nodeAtoms = without(t.nodeAtoms, a)
		if a.installed {
			t.nodeAtoms = append(t.nodeAtoms, a)
		}
	case block:
		t.blocks.note(a)
	case pods:
		a.space.put(a)
	}
}

// without returns a list without one element, whose order does not matter.
func without[E comparable](list []E, e E) []E {
	at := slices.Index(list, e)
	if at < 0 {
		return list
	}
	var none E
	last := len(list) - 1
	list[at], list[last] = list[last], none
	return list[:last]
}
