package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// MaxSpans is how many spans a row has at most.
const MaxSpans = 1536

// program is all that is asked of a subject in one direction. Subjects that are asked the same share one.
type program struct {
	direction int
	rules     []*rule
	stage     []int    // of each rule: 0 Admin, 1 NetworkPolicies, 2 Baseline; ascending
	isolators []string // NetworkPolicies that isolate
	digest    digest

	id       ID
	deciders []Decider
	subjects map[*subject]bool

	atoms   map[*atom][]int // rules that an atom is a peer of; none: it tells ports apart
	forAll  []int           // rules of all peers
	others  rows
	rows    map[*class]rows // where they are others than those of Others
	known   map[string]rows // by which rules match, and the numbers of ports
	ruleset *Ruleset        // as it was when it was last asked for
	changed map[Key]Row     // since then; nil: gone

	overflown int // how many classes ask for more spans than a row has
	built     bool
}

// rows are what becomes of packets of one class, by protocol. 0: of every protocol that is not there.
type rows map[cluster.Protocol]Row

func (p *program) add(stage int, rules []*rule, subject *pod) {
	for _, r := range rules {
		if p.direction == ingress {
			r = r.resolve(subject.object.Ports)
		}
		p.rules = append(p.rules, r)
		p.stage = append(p.stage, stage)
	}
}

func (p *program) seal() {
	h := sha256.New()
	fmt.Fprintf(h, "ruleset %d %q\n", p.direction, p.isolators)
	for i, r := range p.rules {
		fmt.Fprintf(h, "%d ", p.stage[i])
		h.Write(r.digest[:])
	}
	h.Sum(p.digest[:0])
}

// use gives a subject a program, or the one that says the same.
func (t *Table) use(s *subject, d int, p *program) {
	old := s.programs[d]
	if p != nil {
		if same := t.programs[p.digest]; same != nil {
			p = same
		} else {
			t.start(p)
		}
		p.subjects[s] = true
	}
	s.programs[d] = p
	if old == nil || old == p {
		return
	}
	if delete(old.subjects, s); len(old.subjects) == 0 {
		t.idle[old] = true
	}
}

// start puts a new program into use.
func (t *Table) start(p *program) {
	t.programs[p.digest] = p
	p.id = t.rulesetIDs.take(string(p.digest[:]), t.hash)
	t.byID[p.id] = p
	p.subjects, p.atoms, p.rows, p.known = map[*subject]bool{}, map[*atom][]int{}, map[*class]rows{}, map[string]rows{}
	p.changed = map[Key]Row{}
	for i, r := range p.rules {
		p.deciders = append(p.deciders, r.decider)
		if r.allPeers {
			p.forAll = append(p.forAll, i)
		}
		r.asks(func(s spec, member bool) {
			a := t.acquire(s, p)
			if member {
				p.atoms[a] = append(p.atoms[a], i)
			} else if _, there := p.atoms[a]; !there {
				p.atoms[a] = nil
			}
		})
	}
	p.deciders = append(p.deciders, Decider{Objects: p.isolators, Rule: -1})
}

// settleIdle stops the programs that no subject uses any more.
func (t *Table) settleIdle() {
	for p := range t.idle {
		if len(p.subjects) > 0 {
			continue
		}
		delete(t.programs, p.digest)
		delete(t.byID, p.id)
		t.rulesetIDs.give(p.id)
		for a := range p.atoms {
			delete(a.users, p)
			t.touchedAtoms[a] = true
		}
	}
	clear(t.idle)
}

// settlePrograms puts the rows of new programs, and those of classes that came and went.
func (t *Table) settlePrograms() {
	for _, p := range t.programs {
		if !p.built {
			p.build()
		}
	}
	for p, classes := range t.touchedRows {
		for c := range classes {
			p.put(c)
		}
	}
	clear(t.touchedRows)
}

func (p *program) build() {
	p.built = true
	p.others = p.judge(nil)
	p.count(p.others, 1)
	p.note(Others, nil, p.others)
	for a := range p.atoms {
		for c := range a.classes {
			p.put(c)
		}
	}
}

// put computes a class's rows, or takes them away if there is no such class any more.
func (p *program) put(c *class) {
	old, now := p.rows[c], rows(nil)
	if c.live {
		now = p.judge(c)
	}
	if now.equal(p.others) {
		now = nil
	}
	if now.equal(old) {
		return
	}
	p.count(old, -1)
	p.count(now, 1)
	p.note(c.id, old, now)
	if p.rows[c] = now; now == nil {
		delete(p.rows, c)
	}
}

// note what rows of a class become.
func (p *program) note(id ID, old, now rows) {
	for protocol := range old {
		p.changed[Key{id, protocol}] = nil
	}
	for protocol, row := range now {
		p.changed[Key{id, protocol}] = row
	}
}

func (p *program) count(r rows, step int) {
	for _, row := range r {
		if len(row) > MaxSpans {
			p.overflown += step
		}
	}
}

// judge returns a class's rows; nil is Others. Classes of which the same rules match have the same.
func (p *program) judge(c *class) rows {
	match := slices.Clone(p.forAll)
	var ports []cluster.PodPort
	var text string
	if c != nil {
		for _, a := range c.atoms {
			match = append(match, p.atoms[a]...)
		}
		slices.Sort(match)
		match = slices.Compact(match)
		ports, text = c.ports, c.key.ports
	}
	key := binary.BigEndian.AppendUint32(nil, uint32(len(match)))
	for _, i := range match {
		key = binary.BigEndian.AppendUint32(key, uint32(i))
	}
	key = append(key, text...)
	r, known := p.known[string(key)]
	if !known {
		r = p.paintAll(match, ports)
		if len(p.known) > 2*len(p.rows)+64 {
			clear(p.known)
		}
		p.known[string(key)] = r
	}
	return r
}

func (r rows) equal(other rows) bool { return maps.EqualFunc(r, other, slices.Equal[Row]) }

// rulesetNow returns the ruleset as it is now; nil if it has no place in the datapath.
func (p *program) rulesetNow() *Ruleset {
	if p.overflown > 0 {
		return nil
	}
	if p.ruleset != nil && len(p.changed) == 0 {
		return p.ruleset
	}
	next := &Ruleset{Rows: map[Key]Row{}, Deciders: p.deciders}
	if p.ruleset != nil {
		next.Rows = maps.Clone(p.ruleset.Rows)
	}
	for key, row := range p.changed {
		if next.Rows[key] = row; row == nil {
			delete(next.Rows, key)
		}
	}
	p.ruleset = next
	clearBig(&p.changed)
	return next
}

// ID is the program's in the datapath, Open for nil.
func (p *program) ID() ID {
	switch {
	case p == nil:
		return Open
	case p.overflown > 0:
		return Closed
	}
	return p.id
}
