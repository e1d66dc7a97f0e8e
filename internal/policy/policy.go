// Package policy turns NetworkPolicies, ClusterNetworkPolicies, pods, namespaces and nodes into what the datapath of one
// node needs to judge packets of its pods: classes of addresses, rulesets over classes, and which rulesets a pod has.
// It is pure.
//
// Two addresses are in one class if every selector, and every rule's list of blocks, that a policy of a local pod asks
// for treats them alike.
// Classes and rulesets are named by what they say, so that the names mean the same to every agent that ever ran here:
// one that is restarted finds its rows in the kernel and has nothing to write.
package policy

import (
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
)

// ID names a ruleset or a class: the beginning of a hash of all that it says.
type ID uint64

// Rulesets that have no rows.
const (
	Open   ID = 0 // no policy isolates: everything passes, and nothing is looked up
	Closed ID = 1 // nothing passes but to and from the pod's own node: its policies are not known yet, or did not fit
)

// Others is the class of the addresses that no selector and no block matches.
const Others ID = 0

// Subject is what a local pod's packets are judged by.
type Subject struct {
	Ingress, Egress ID
}

// Span is a range of ports and the decision on them. Host byte order, both ends included.
type Span struct {
	First, Last uint16
	Decision    Decision
}

// Decision is a verdict, and who decided: an index into the ruleset's Deciders.
type Decision uint32

// Allow is the bit of a Decision that lets a packet pass.
const Allow Decision = 1 << 31

// Allows says whether packets pass.
func (d Decision) Allows() bool { return d&Allow != 0 }

// Decider is the index into Deciders.
func (d Decision) Decider() int { return int(d &^ Allow) }

// Key identifies a row of a ruleset.
type Key struct {
	Class    ID
	Protocol cluster.Protocol // 0: every protocol that has no row of its own for this class
}

// Row says what becomes of packets by their destination port: sorted, without overlaps or gaps, from 0 to 65535. Of a
// protocol without ports, port 0 counts.
type Row []Span

// Ruleset is one direction's rules for all peers. A class without any row is treated as Others. Others has a row for
// protocol 0, so that there is always a decision.
type Ruleset struct {
	Rows     map[Key]Row
	Deciders []Decider
}

// Decider is what decided: a rule, or that no rule did.
type Decider struct {
	Objects []string // "NetworkPolicy/default/web"; with Rule -1, those that isolate the pod; none: the default, allow
	Rule    int      // its position in the object; -1: none matched
	Name    string   // of the rule; may be empty
}

// Changes are what is different since the last Changes. Absent: as it was.
//
// An address that no selector matches has no entry of its own, even if it is in a block: its prefix says the same. A
// prefix whose addresses are in no block, because all that hold it except it, has a class of its own that is not Others;
// no ruleset has a row for it, so that it is treated as Others.
type Changes struct {
	Subjects  map[cluster.Name]*Subject // of local pods; nil: the pod is not known any more
	Addresses map[netip.Addr]ID         // Others: it has no entry any more: if any, its prefix counts
	Prefixes  map[netip.Prefix]ID       // the longest that holds an address counts, for addresses not in Addresses; Others: gone
	Rulesets  map[ID]*Ruleset           // whole; nil: no subject has it any more
}

// Decide looks up what becomes of a packet, as the datapath does.
func (r *Ruleset) Decide(class ID, protocol cluster.Protocol, port uint16) Decision {
	for _, key := range []Key{{class, protocol}, {class, 0}, {Others, protocol}, {Others, 0}} {
		if row, ok := r.Rows[key]; ok {
			return row.at(port)
		}
	}
	return 0
}

// at is the decision on a port.
func (r Row) at(port uint16) Decision {
	for _, s := range r {
		if s.First <= port && port <= s.Last {
			return s.Decision
		}
	}
	return 0
}
