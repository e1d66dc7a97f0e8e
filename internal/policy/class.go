package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
)

// class is what addresses have in common that all atoms in use treat alike.
type class struct {
	id    ID
	key   classKey
	atoms []*atom
	ports []cluster.PodPort // that atoms ask for by name; sorted
	refs  int               // addresses and prefixes
	live  bool              // programs have rows for it
}

// classKey is what makes two addresses' classes one.
type classKey struct {
	pod, node, blocks *match // never nil in the key of a class
	ports             string
}

// ID is the class's, Others for nil.
func (c *class) ID() ID {
	if c == nil {
		return Others
	}
	return c.id
}

func comparePorts(a, b cluster.PodPort) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

// join makes one more address or prefix a member of the class of that key.
func (t *Table) join(key classKey, ports ...cluster.PodPort) *class {
	for _, m := range []**match{&key.pod, &key.node, &key.blocks} {
		if *m == nil {
			*m = t.none
		}
	}
	key.ports = portsText(ports)
	c := t.classes[key]
	if c == nil {
		c = &class{key: key, ports: ports, atoms: slices.Concat(key.pod.atoms, key.node.atoms, key.blocks.atoms)}
		c.id = t.classIDs.take(c.text(), t.hash)
		for _, m := range []*match{key.pod, key.node, key.blocks} {
			m.refs++
		}
		t.classes[key] = c
	}
	c.refs++
	t.touchedClasses[c] = true
	return c
}

// part takes a member out of a class. What has none any more goes when everything else is settled.
func (t *Table) part(c *class) {
	if c != nil {
		c.refs--
		t.touchedClasses[c] = true
	}
}

// text says what the class is, whatever happened before.
func (c *class) text() string {
	lines := make([]string, 0, len(c.atoms))
	for _, a := range c.atoms {
		lines = append(lines, a.text)
	}
	slices.Sort(lines)
	return "class\n" + strings.Join(lines, "\n") + "\n" + c.key.ports
}

func portsText(ports []cluster.PodPort) string {
	if len(ports) == 0 {
		return ""
	}
	text := new(strings.Builder)
	for _, p := range ports {
		fmt.Fprintf(text, "%s %d %d\n", strconv.Quote(p.Name), p.Protocol, p.Port)
	}
	return text.String()
}

// touch notes that an address's class may be another now.
func (t *Table) touch(a netip.Addr) {
	if owner := t.owners[a]; owner == nil || owner.match == t.none {
		if t.addresses[a] == nil {
			return // nor had it one before
		}
	}
	t.touchedAddresses[a] = true
}

func (t *Table) settleAddresses() {
	for a := range t.touchedAddresses {
		t.setAddress(a, t.classify(a))
	}
	clearBig(&t.touchedAddresses)
}

// classify returns the class of an address that a selector matches, with one more member. An address that none matches
// has none of its own: it is judged by its prefix.
func (t *Table) classify(a netip.Addr) *class {
	key := classKey{node: t.nodes[a]}
	var ports []cluster.PodPort
	if owner := t.owners[a]; owner != nil && owner.match != t.none {
		key.pod = owner.match
		ports = owner.portsOf(key.pod.ports)
	}
	if key.pod == nil && key.node == nil {
		return nil
	}
	if row := t.blocks.lookup(a); row != nil {
		key.blocks = row.match
	}
	return t.join(key, ports...)
}

// setAddress gives an address a class that it has joined already.
func (t *Table) setAddress(a netip.Addr, c *class) {
	old := t.addresses[a]
	t.part(old)
	if old == c {
		return
	}
	if _, noted := t.toldAddresses[a]; !noted {
		t.toldAddresses[a] = old.ID()
	}
	if c == nil {
		delete(t.addresses, a)
	} else {
		t.addresses[a] = c
	}
}

// settleNodes puts which selectors of nodes match which addresses. There are few nodes, and they seldom change.
func (t *Table) settleNodes() {
	if !t.nodesChanged {
		return
	}
	t.nodesChanged = false
	atoms := map[netip.Addr][]*atom{}
	if len(t.nodeAtoms) > 0 {
		for i := range t.nodeList {
			n := &t.nodeList[i]
			for _, a := range t.nodeAtoms {
				if a.own && n.Name != t.node || !a.own && !a.pods.Matches(&n.Labels) {
					continue
				}
				for _, addr := range n.Addresses {
					if addr = bare(addr); !slices.Contains(atoms[addr], a) {
						atoms[addr] = append(atoms[addr], a)
					}
				}
			}
		}
	}
	for a, m := range t.nodes {
		t.matches.release(m)
		t.touchedAddresses[a] = true
	}
	clear(t.nodes)
	for a, list := range atoms {
		t.nodes[a] = t.matches.refer(list)
		t.touchedAddresses[a] = true
	}
}

// settleClasses tells programs of classes that have got their first member or lost the last.
func (t *Table) settleClasses() {
	for c := range t.touchedClasses {
		if c.refs > 0 == c.live {
			if !c.live {
				t.forget(c)
			}
			continue
		}
		c.live = c.refs > 0
		for _, a := range c.atoms {
			if c.live {
				a.classes[c] = true
			} else {
				delete(a.classes, c)
			}
			t.touchRows(a, c)
		}
		if !c.live {
			t.forget(c)
		}
	}
	clear(t.touchedClasses)
}

func (t *Table) touchRows(a *atom, c *class) {
	for p := range a.users {
		if !p.built {
			continue
		}
		if t.touchedRows[p] == nil {
			t.touchedRows[p] = map[*class]bool{}
		}
		t.touchedRows[p][c] = true
	}
}

func (t *Table) forget(c *class) {
	delete(t.classes, c.key)
	t.classIDs.give(c.id)
	for _, m := range []*match{c.key.pod, c.key.node, c.key.blocks} {
		t.release(m)
	}
}
