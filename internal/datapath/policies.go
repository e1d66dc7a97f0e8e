package datapath

import (
	"errors"
	"fmt"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// policies is what the maps say of policies, as far as this process wrote or read it, and what is yet to be done to them.
type policies struct {
	known bool // the maps have been read, and no write has failed since
	begun bool // they have been read at all

	rules    map[policy.ID]rules // as they are in the map
	ruleRows int                 // rows of the map: a Row may take several
	classes  places[bpfAddr]
	blocks   places[bpfClassKey]
	lengths  [129]int // of the prefixes in blocks

	wanted    map[policy.ID]rules
	subjects  map[cluster.Name]policy.Subject
	unfit     map[policy.ID]bool // of those that are wanted: not all is written that they need
	protocols map[cluster.Protocol]bool

	// How many places have a class, and how many will once everything is done.
	uses, aims map[policy.ID]int

	// Classes that no place has any more, though a program may have just read that one does.
	emptied map[policy.ID]time.Time

	// An earlier process may have left such classes, and this one cannot know which: until a while after its first swaps.
	blind      bool
	blindSince time.Time

	// Rulesets that a pod leaves, until no program can judge by them for it any more; those that a pod enters, until it has.
	left    map[policy.ID]time.Time
	entered map[policy.ID]bool
	doomed  map[pair]time.Time // rows that nobody wants
	strict  map[pair]rules     // rows to be put when no pod leaves their ruleset any more

	// Classes of which rulesets do not let pass all that they should yet, and since when all pods have theirs.
	held      map[policy.ID]map[policy.ID]bool
	heldSince map[policy.ID]time.Time

	written Writes
	wrote   func() // for tests: after each row
	rounds  rounds
}

// rules are the rows of a ruleset.
type rules = map[policy.Key]policy.Row

// pair stands for the rows that a ruleset has of a class.
type pair struct{ ruleset, class policy.ID }

// places are addresses or prefixes and their classes: as the map has them, and as it will later, where that differs.
type places[K comparable] struct {
	now  map[K]policy.ID
	late map[K]late
}

// late is a write that waits until every pod has its new ruleset.
type late struct {
	class policy.ID
	gone  bool      // there will be no row; class is what others say of the place then
	since time.Time // all pods have theirs since; zero: not yet
}

// aim is the class that the row of a place will have, and whether it will have one.
func (p places[K]) aim(k K) (policy.ID, bool) {
	if l, ok := p.late[k]; ok {
		return l.class, !l.gone
	}
	class, ok := p.now[k]
	return class, ok
}

// PoliciesKnown says whether SyncPolicies may be given changes alone.
func (d *Datapath) PoliciesKnown() bool { return d.policies.known }

// PolicyFits says whether pods may be given a ruleset: all that it needs is in the maps. A pod whose ruleset does not fit is
// to have policy.Closed.
func (d *Datapath) PolicyFits(id policy.ID) bool {
	if id == policy.Open || id == policy.Closed {
		return true
	}
	_, wanted := d.policies.wanted[id]
	return wanted && !d.policies.unfit[id]
}

// PolicyUnfit says whether a ruleset is wanted and does not fit: a pod that still has it is closed.
func (d *Datapath) PolicyUnfit(id policy.ID) bool { return d.policies.unfit[id] }

// PolicyWrites is what this process has written to the maps of policies so far.
func (d *Datapath) PolicyWrites() Writes { return d.policies.written }

// SyncPolicies makes the maps say what changed says, so that then all local pods may be given the rulesets that their
// Subjects name, in any order; after that, SwappedPolicies is to be called. At no time is a packet judged in a way that
// neither the old nor the new policies do. What cannot be written is named in the error; after one, the next call must be
// ResyncPolicies, and PolicyFits says which rulesets no pod may have. Pods that have one already are closed by this call.
func (d *Datapath) SyncPolicies(changed policy.Changes) error {
	if !d.policies.begun {
		return errors.New("write policies: the maps have not been read yet")
	}
	w := policyWriter{d: d, s: &d.policies}
	w.wantSubjects(changed.Subjects)
	w.wantRulesets(changed.Rulesets)
	for addr, class := range changed.Addresses {
		w.wantAddress(encodeAddr(addr), class)
	}
	for prefix, class := range changed.Prefixes {
		w.wantBlock(encodeBlock(prefix), class)
	}
	return w.sync()
}

// ResyncPolicies reads the maps and makes them say what all says, and nothing else. Rulesets that endpoints still name
// stay until those are swapped. What is there and right is left alone: a restart writes nothing. What a first call finds to be
// done is no news.
func (d *Datapath) ResyncPolicies(all policy.Changes) ([]Change, error) {
	s := &d.policies
	w := policyWriter{d: d, s: s, again: true}
	if err := w.readBack(); err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	gone := map[cluster.Name]*policy.Subject{}
	for name := range s.subjects {
		if all.Subjects[name] == nil {
			gone[name] = nil
		}
	}
	w.wantSubjects(gone)
	w.wantSubjects(all.Subjects)
	w.wantAll(all)
	if err := w.noteLive(); err != nil {
		s.known = false
		return nil, err
	}
	w.first = !s.begun
	s.blind = s.blind || w.first
	s.begun, s.known = true, true
	err := w.sync()
	return w.changes, err
}

// SwappedPolicies says that every endpoint has the ruleset that it should have since the last sync. It makes recent
// verdicts worthless. After an error, the next sync must be ResyncPolicies.
func (d *Datapath) SwappedPolicies(now time.Time) error {
	s := &d.policies
	if err := d.tighten(); err != nil {
		s.known = false
		return err
	}
	start(s.left, now)
	start(s.doomed, now)
	start(s.heldSince, now)
	start(s.emptied, now)
	s.classes.start(now)
	s.blocks.start(now)
	clear(s.entered)
	if s.blindSince.IsZero() {
		s.blindSince = now
	}
	s.blind = s.blind && !over(s.blindSince, now)
	return d.BumpEpoch()
}

func start[K comparable](since map[K]time.Time, now time.Time) {
	for k, at := range since {
		if at.IsZero() {
			since[k] = now
		}
	}
}

func (p places[K]) start(now time.Time) {
	for k, l := range p.late {
		if l.since.IsZero() {
			l.since = now
			p.late[k] = l
		}
	}
}

// BumpEpoch makes recent verdicts worthless. To be called after every change of what packets are judged by, endpoints
// included.
func (d *Datapath) BumpEpoch() error {
	var epoch uint32
	m := d.maps[bpfMapEpoch]
	if err := m.Lookup(uint32(0), &epoch); err != nil {
		return fmt.Errorf("read epoch: %w", err)
	}
	if err := m.Put(uint32(0), epoch+1); err != nil {
		return fmt.Errorf("write epoch: %w", err)
	}
	return nil
}
