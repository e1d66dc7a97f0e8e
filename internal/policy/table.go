package policy

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// Table is what all policies ask of this node's pods, kept up to date object by object. What is put is looked at when
// somebody asks for what has become of it: so many objects in a row cost little more than one. A value like any other:
// no I/O, no locks, and the same whatever the history, but for a policy that is taken away while its namespace goes.
type Table struct {
	node string

	// What has been put.
	namespaces      map[string]*namespace
	clusterPolicies map[string]*clusterPolicy
	nodeList        []cluster.Node
	expiring        map[*namespace]bool // those with policies that have been taken away

	// Who has an address, and which pods claim it besides.
	owners map[netip.Addr]*pod
	rivals map[netip.Addr][]*pod

	// What is asked.
	subjects map[cluster.Name]*subject
	programs map[digest]*program
	byID     map[ID]*program
	atoms    map[string]*atom
	spaces   map[spaceKey]*space
	serial   uint32 // of the last atom

	// What that is of addresses.
	matches   matches
	none      *match
	nodeAtoms []*atom
	nodes     map[netip.Addr]*match
	blocks    blocks
	addresses map[netip.Addr]*class
	classes   map[classKey]*class

	hash                 func(string) ID
	classIDs, rulesetIDs ids

	touched
	told
}

// touched is what has to be looked at again.
type touched struct {
	touchedAddresses map[netip.Addr]bool
	touchedSubjects  map[*subject]bool
	touchedAtoms     map[*atom]bool
	touchedClasses   map[*class]bool
	touchedRows      map[*program]map[*class]bool
	idle             map[*program]bool
	nodesChanged     bool
}

// told is what Changes said last: of addresses and prefixes, of those alone that have been given another class since.
type told struct {
	toldAddresses map[netip.Addr]ID
	toldPrefixes  map[netip.Prefix]ID
	toldSubjects  map[cluster.Name]Subject
	toldRulesets  map[ID]*Ruleset
}

// NewTable returns a Table of the pods of a node, of which nothing is known yet.
func NewTable(node string) *Table {
	t := &Table{
		node: node, namespaces: map[string]*namespace{}, clusterPolicies: map[string]*clusterPolicy{},
		expiring: map[*namespace]bool{}, owners: map[netip.Addr]*pod{}, rivals: map[netip.Addr][]*pod{},
		subjects: map[cluster.Name]*subject{}, programs: map[digest]*program{}, byID: map[ID]*program{},
		atoms: map[string]*atom{}, spaces: map[spaceKey]*space{},
		matches: matches{}, nodes: map[netip.Addr]*match{}, blocks: newBlocks(),
		addresses: map[netip.Addr]*class{}, classes: map[classKey]*class{},
		hash: hash, classIDs: newIDs(), rulesetIDs: newIDs(),
		touched: touched{map[netip.Addr]bool{}, map[*subject]bool{}, map[*atom]bool{}, map[*class]bool{},
			map[*program]map[*class]bool{}, map[*program]bool{}, false},
		told: told{map[netip.Addr]ID{}, map[netip.Prefix]ID{}, map[cluster.Name]Subject{}, map[ID]*Ruleset{}},
	}
	t.none = t.matches.refer(nil)
	return t
}

// SetPod tells what the cluster says of one pod of any node: nil, that there is none.
func (t *Table) SetPod(name cluster.Name, p *cluster.Pod) { t.setPod(name, p) }

// SetNamespace tells what the cluster says of one namespace: nil, that there is none.
func (t *Table) SetNamespace(name string, ns *cluster.Namespace) {
	n := t.enter(name)
	t.setNamespace(n, ns)
	t.leave(n)
}

// SetNetworkPolicy tells what the cluster says of one NetworkPolicy: nil, that there is none. While its namespace is
// terminating, one that was there stays in force.
func (t *Table) SetNetworkPolicy(name cluster.Name, p *cluster.NetworkPolicy) {
	ns := t.enter(name.Namespace)
	if p != nil {
		if old := ns.policies[name.Name]; old == nil || old.gone || old.object != p {
			t.setNetworkPolicy(ns, name.Name, &networkPolicy{object: p})
		}
	} else if old := ns.policies[name.Name]; old != nil {
		old.gone = true
		t.expiring[ns] = true
	}
	t.leave(ns)
}

// SetClusterPolicy tells what the cluster says of one ClusterNetworkPolicy: nil, that there is none.
func (t *Table) SetClusterPolicy(name string, p *cluster.ClusterPolicy) {
	old, now := t.clusterPolicies[name], (*clusterPolicy)(nil)
	if p != nil {
		now = &clusterPolicy{object: p}
		t.clusterPolicies[name] = now
	} else {
		delete(t.clusterPolicies, name)
	}
	for _, s := range t.subjects {
		if old != nil && old.selects(s.pod) || now != nil && now.selects(s.pod) {
			t.touchedSubjects[s] = true
		}
	}
}

// SetNodes tells of all nodes. Nobody changes the list afterwards.
func (t *Table) SetNodes(nodes []cluster.Node) {
	t.nodeList = nodes
	t.nodesChanged = true
}

// settle makes everything else agree with what has been put. The order is that of what depends on what.
func (t *Table) settle() {
	t.expire()
	t.settleSubjects()
	t.settleIdle()
	t.settleAtoms()
	t.settleNodes()
	t.settleBlocks()
	t.settleAddresses()
	t.settleClasses()
	t.settlePrograms()
	for _, s := range t.subjects {
		s.now = Subject{s.programs[ingress].ID(), s.programs[egress].ID()}
	}
}

// Ruleset returns the ruleset of that name, nil if no subject has it. Nobody may change it.
func (t *Table) Ruleset(id ID) *Ruleset {
	t.settle()
	if p := t.byID[id]; p != nil {
		return p.rulesetNow()
	}
	return nil
}

// Subject returns what a local pod is judged by, and whether it is known.
func (t *Table) Subject(name cluster.Name) (Subject, bool) {
	t.settle()
	if s := t.subjects[name]; s != nil {
		return s.now, true
	}
	return Subject{}, false
}

// Class returns the class of an address, as packets find it: its own, or that of its prefix.
func (t *Table) Class(a netip.Addr) ID {
	t.settle()
	a = bare(a)
	if c := t.addresses[a]; c != nil {
		return c.id
	}
	if row := t.blocks.lookup(a); row != nil {
		return row.class.id
	}
	return Others
}

// Problems lists what cannot be honoured, sorted.
func (t *Table) Problems() (all []cluster.Problem) {
	t.settle()
	for _, s := range t.subjects {
		all = append(all, s.problems()...)
	}
	for range len(t.classIDs.clashed) + len(t.rulesetIDs.clashed) {
		all = append(all, cluster.Problem{Object: "policies", Message: "two classes or rulesets have one hash: " +
			"a restart of the agent may disturb connections for a moment; rename any label that a policy asks for"})
	}
	slices.SortFunc(all, func(a, b cluster.Problem) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(all)
}
