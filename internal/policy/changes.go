package policy

import (
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
)

// clearBig empties a map without keeping the memory of a full load.
func clearBig[M ~map[K]V, K comparable, V any](m *M) {
	if len(*m) < 1000 {
		clear(*m)
	} else {
		*m = M{}
	}
}

// Changes returns what is different since it was last called, the first time everything. Nobody changes rulesets.
func (t *Table) Changes() Changes {
	t.settle()
	c := Changes{Subjects: map[cluster.Name]*Subject{}, Rulesets: map[ID]*Ruleset{},
		Addresses: make(map[netip.Addr]ID, len(t.toldAddresses)), Prefixes: make(map[netip.Prefix]ID, len(t.toldPrefixes))}
	for a, old := range t.toldAddresses {
		if now := t.addresses[a].ID(); now != old {
			c.Addresses[a] = now
		}
	}
	for p, old := range t.toldPrefixes {
		if now := t.blocks.class(p); now != old {
			c.Prefixes[p] = now
		}
	}
	clearBig(&t.toldAddresses)
	clearBig(&t.toldPrefixes)
	t.tellSubjects(&c)
	t.tellRulesets(&c)
	return c
}

func (t *Table) tellSubjects(c *Changes) {
	for name, s := range t.subjects {
		if old, known := t.toldSubjects[name]; !known || old != s.now {
			now := s.now
			c.Subjects[name], t.toldSubjects[name] = &now, now
		}
	}
	for name := range t.toldSubjects {
		if t.subjects[name] == nil {
			c.Subjects[name] = nil
			delete(t.toldSubjects, name)
		}
	}
}

func (t *Table) tellRulesets(c *Changes) {
	wanted := t.rulesets()
	for id, r := range wanted {
		if t.toldRulesets[id] != r {
			c.Rulesets[id] = r
		}
	}
	for id := range t.toldRulesets {
		if wanted[id] == nil {
			c.Rulesets[id] = nil
		}
	}
	t.toldRulesets = wanted
}

func (t *Table) rulesets() map[ID]*Ruleset {
	all := make(map[ID]*Ruleset, len(t.byID))
	for id, p := range t.byID {
		if r := p.rulesetNow(); r != nil {
			all[id] = r
		}
	}
	return all
}

// All returns everything, and leaves what Changes says next as it is.
func (t *Table) All() Changes {
	t.settle()
	c := Changes{Subjects: make(map[cluster.Name]*Subject, len(t.subjects)), Rulesets: t.rulesets(),
		Addresses: make(map[netip.Addr]ID, len(t.addresses)), Prefixes: make(map[netip.Prefix]ID, len(t.blocks.rows))}
	for name, s := range t.subjects {
		now := s.now
		c.Subjects[name] = &now
	}
	for a, class := range t.addresses {
		c.Addresses[a] = class.id
	}
	for p, row := range t.blocks.rows {
		c.Prefixes[p] = row.class.id
	}
	return c
}
