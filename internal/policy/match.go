package policy

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// match is a set of atoms: those that match a pod, the addresses of nodes, or all of a prefix. Equal sets are one
// match, and live as long as somebody refers to them.
type match struct {
	atoms []*atom // by serial
	key   string
	ports []string // names of ports that the atoms ask for, sorted
	refs  int
}

// matches holds every match that is in use.
type matches map[string]*match

// refer returns the match of those atoms, referred to once more. It keeps the list, sorts it and takes doubles out.
func (ms matches) refer(atoms []*atom) *match {
	slices.SortFunc(atoms, func(a, b *atom) int { return cmp.Compare(a.serial, b.serial) })
	atoms = slices.Compact(atoms)
	key := make([]byte, 0, 64)
	for _, a := range atoms {
		key = binary.BigEndian.AppendUint32(key, a.serial)
	}
	m := ms[string(key)]
	if m == nil {
		m = &match{atoms: atoms, key: string(key)}
		for _, a := range atoms {
			if a.port != "" {
				m.ports = append(m.ports, a.port)
			}
		}
		slices.Sort(m.ports)
		m.ports = slices.Compact(m.ports)
		ms[m.key] = m
	}
	m.refs++
	return m
}

func (ms matches) release(m *match) {
	if m.refs--; m.refs == 0 {
		delete(ms, m.key)
	}
}

// turn is what becomes of matches when one atom comes or goes. Of 100,000 pods there are few different ones.
type turn struct {
	matches matches
	atom    *atom
	comes   bool
	next    map[*match]*match
}

// of returns what becomes of one match; m itself, if nothing does.
func (u *turn) of(m *match) *match {
	if next, known := u.next[m]; known {
		return next
	}
	at := slices.Index(m.atoms, u.atom)
	next := m
	switch {
	case u.comes && at < 0:
		next = u.matches.refer(append(slices.Clone(m.atoms), u.atom))
	case !u.comes && at >= 0:
		next = u.matches.refer(slices.Delete(slices.Clone(m.atoms), at, at+1))
	default:
		m.refs++
	}
	m.refs++ // until the end: another might get its place in the map
	u.next[m] = next
	return next
}

func (u *turn) end() {
	for m, next := range u.next {
		u.matches.release(m)
		u.matches.release(next)
	}
}
