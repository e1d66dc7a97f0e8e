package netdev

import (
	"errors"
	"fmt"

	"github.com/polder-net/polder/internal/desired"
)

// Change is something that Sync wrote to the kernel.
type Change struct {
	Table string // "routes", "rules", "neighbours", "masquerade", "sysctls" or "tunnel"
	Row   string // for people
	Verb  string // "add", "replace" or "delete"
}

func (c Change) String() string { return fmt.Sprintf("%s %s: %s", c.Verb, c.Table, c.Row) }

// Sync lists what the kernel has of each table, compares it with what is wanted and writes the difference: first
// what is missing, then what is too much. It touches only what is Polder's: routes with its protocol number, rules
// to its tables, permanent neighbours on pods' links and its nftables table.
//
// It returns what it changed, also beside an error. A row that cannot be written stops no other; as Sync remembers
// nothing, the next one tries it again.
func (k *Kernel) Sync(want desired.Tables) ([]Change, error) {
	var changes []Change
	var errs []error
	add := func(c []Change, err error) {
		changes = append(changes, c...)
		errs = append(errs, err)
	}
	add(k.syncSysctls(want.Sysctls))
	names, err := k.names()
	if err != nil {
		return changes, errors.Join(append(errs, err)...)
	}
	add(k.syncRoutes(want.Routes, names))
	add(k.syncRules(want.Rules))
	add(k.syncNeighbours(want.Neighbours, names))
	add(k.syncMasquerade(want.Masquerade))
	return changes, errors.Join(errs...)
}

// names is which links there are.
type names struct {
	byIndex map[int]string
	byName  map[string]int
}

func (k *Kernel) names() (names, error) {
	list, err := k.links("")
	n := names{map[int]string{}, map[string]int{}}
	for _, l := range list {
		n.byIndex[l.index] = l.name
		n.byName[l.name] = l.index
	}
	return n, err
}

// write is one row to be written: the messages that do it, and the change that it is.
type write struct {
	messages []*message
	change   Change
	already  func(error) bool // errors that say that the kernel is as wanted
	explain  func(error) error
}

// carryOut sends all writes in as few system calls as possible, and returns those that changed something.
func (k *Kernel) carryOut(writes []write) (changes []Change, err error) {
	var all []*message
	for _, w := range writes {
		all = append(all, w.messages...)
	}
	if len(all) == 0 {
		return nil, nil
	}
	replies, err := k.batch(all...)
	if err != nil {
		return nil, err
	}
	var errs errorList
	for _, w := range writes {
		err := firstError(replies[:len(w.messages)], nil)
		replies = replies[len(w.messages):]
		switch {
		case err == nil:
			changes = append(changes, w.change)
		case w.already != nil && w.already(err):
		default:
			if w.explain != nil {
				err = w.explain(err)
			}
			errs.add(fmt.Errorf("%s %s %s: %w", w.change.Verb, w.change.Table, w.change.Row, err))
		}
	}
	return changes, errs.err()
}
