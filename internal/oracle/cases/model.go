package cases

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/watch"
)

// Model answers as the datapath does, from the tables that the agents of all nodes would write: what Polder reads of
// objects, makes of them, and looks up.
type Model struct {
	Snapshot *cluster.Snapshot
	nodes    map[string]*tables
	pods     map[netip.Addr]*cluster.Pod
}

// tables are one node's, as the kernel has them after the changes that it was told.
type tables struct {
	told      *policy.Table
	addresses map[netip.Addr]policy.ID
	prefixes  map[netip.Prefix]policy.ID
	rulesets  map[policy.ID]*policy.Ruleset
	subjects  map[cluster.Name]policy.Subject
}

// Snapshot reads a cluster by its manifests, as Polder does.
func Snapshot(o *oracle.Objects) *cluster.Snapshot { return watch.Once("cluster.json", Manifests(o)) }

// NewModel makes the tables of all nodes.
func NewModel(s *cluster.Snapshot) *Model {
	m := &Model{Snapshot: &cluster.Snapshot{}, nodes: map[string]*tables{}}
	m.Become(s)
	return m
}

// Become makes the model's cluster another one, as agents that go on running see it: they are told what is different.
func (m *Model) Become(s *cluster.Snapshot) {
	old := m.Snapshot
	m.Snapshot, m.pods = s, map[netip.Addr]*cluster.Pod{}
	for _, pod := range m.Snapshot.AllPods.All() {
		for _, a := range pod.Addresses {
			if !pod.HostNetwork {
				m.pods[a] = pod
			}
		}
	}
	for _, node := range m.Snapshot.Nodes {
		t := m.nodes[node.Name]
		from := old
		if t == nil { // its agent has been told nothing yet
			t, from = &tables{policy.NewTable(node.Name), map[netip.Addr]policy.ID{}, map[netip.Prefix]policy.ID{}, map[policy.ID]*policy.Ruleset{}, map[cluster.Name]policy.Subject{}}, &cluster.Snapshot{}
		}
		Tell(t.told, from, m.Snapshot)
		t.apply(t.told.Changes())
		m.nodes[node.Name] = t
	}
	maps.DeleteFunc(m.nodes, func(name string, _ *tables) bool { _, is := m.Snapshot.Node(name); return !is })
}

// Tell tells a node's table what is different in a Snapshot.
func Tell(t *policy.Table, old, now *cluster.Snapshot) {
	t.SetNodes(now.Nodes)
	for _, name := range now.AllNamespaces.ChangedSince(old.AllNamespaces) {
		t.SetNamespace(name.Name, now.AllNamespaces.Get(name))
	}
	for _, name := range now.NetworkPolicies.ChangedSince(old.NetworkPolicies) {
		t.SetNetworkPolicy(name, now.NetworkPolicies.Get(name))
	}
	for _, name := range now.ClusterPolicies.ChangedSince(old.ClusterPolicies) {
		t.SetClusterPolicy(name.Name, now.ClusterPolicies.Get(name))
	}
	for _, name := range now.AllPods.ChangedSince(old.AllPods) {
		t.SetPod(name, now.AllPods.Get(name))
	}
}

func (t *tables) apply(c policy.Changes) {
	for a, id := range c.Addresses {
		t.addresses[a] = id
		if id == policy.Others {
			delete(t.addresses, a)
		}
	}
	for p, id := range c.Prefixes {
		t.prefixes[p] = id
		if id == policy.Others {
			delete(t.prefixes, p)
		}
	}
	for id, r := range c.Rulesets {
		t.rulesets[id] = r
		if r == nil {
			delete(t.rulesets, id)
		}
	}
	for name, s := range c.Subjects {
		if delete(t.subjects, name); s != nil {
			t.subjects[name] = *s
		}
	}
}

// Judge says whether a packet that opens a connection passes, and who decided on the sender's side and the receiver's;
// nil where nothing was looked up.
func (m *Model) Judge(p oracle.Packet) (allowed bool, egress, ingress *policy.Decider) {
	from, to := m.pods[p.Src], m.pods[p.Dst]
	if p.Src == p.Dst || from != nil && from == to {
		return true, nil, nil
	}
	allowed = true
	if from != nil {
		t := m.nodes[from.Node]
		if rules := t.subject(from).Egress; rules != policy.Closed || !m.isNodeOf(from, p.Dst) {
			allowed, egress = t.judge(rules, p.Dst, p)
		}
	}
	if to != nil && !m.isNodeOf(to, p.Src) {
		t, passes := m.nodes[to.Node], false
		passes, ingress = t.judge(t.subject(to).Ingress, p.Src, p)
		allowed = allowed && passes
	}
	return allowed, egress, ingress
}

func (m *Model) isNodeOf(p *cluster.Pod, a netip.Addr) bool {
	node, _ := m.Snapshot.Node(p.Node)
	return slices.Contains(node.Addresses, a)
}

// subject is what a pod is judged by: one that nobody knows lets nothing through.
func (t *tables) subject(p *cluster.Pod) policy.Subject {
	if s, known := t.subjects[cluster.Name{Namespace: p.Namespace, Name: p.Name}]; known {
		return s
	}
	return policy.Subject{Ingress: policy.Closed, Egress: policy.Closed}
}

func (t *tables) judge(id policy.ID, peer netip.Addr, p oracle.Packet) (bool, *policy.Decider) {
	switch id {
	case policy.Open:
		return true, nil
	case policy.Closed:
		return false, nil
	}
	r := t.rulesets[id]
	if r == nil {
		return false, nil
	}
	class := t.class(peer)
	keys := []policy.Key{{Class: class, Protocol: cluster.Protocol(p.Protocol)}, {Class: class},
		{Class: policy.Others, Protocol: cluster.Protocol(p.Protocol)}, {Class: policy.Others}}
	for _, key := range keys {
		row, ok := r.Rows[key]
		if !ok {
			continue
		}
		for _, span := range row {
			if span.First <= p.Port && p.Port <= span.Last {
				return span.Decision.Allows(), &r.Deciders[span.Decision.Decider()]
			}
		}
		return false, nil // a gap, which there must not be
	}
	return false, nil
}

// class is that of the address itself, or of the longest prefix that holds it.
func (t *tables) class(a netip.Addr) policy.ID {
	if id, ok := t.addresses[a]; ok {
		return id
	}
	longest, id := -1, policy.Others
	for p, of := range t.prefixes {
		if p.Contains(a) && p.Bits() > longest {
			longest, id = p.Bits(), of
		}
	}
	return id
}
