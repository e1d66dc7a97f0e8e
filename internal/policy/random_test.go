package policy_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// dice make clusters in which everything collides: few names, labels, addresses and ports.
type dice struct{ *rand.Rand }

func newDice(seed uint64) dice { return dice{rand.New(rand.NewPCG(seed, 0))} }

func (d dice) one(in int) bool { return d.IntN(in) == 0 }

func pick[E any](d dice, from ...E) E { return from[d.IntN(len(from))] }

func (d dice) selector() labels.Selector {
	return sel(pick(d, "*", "*", "app=x", "app=y", "app in (x,y)", "app!=x", "tier", "!tier", "app=x,tier=1", "app notin (x,z)"))
}

func (d dice) namespaceSelector() labels.Selector {
	return sel(pick(d, "*", "team=a", "team!=a", "team in (a,b)", "!team"))
}

func (d dice) labels() cluster.Labels {
	m := map[string]string{}
	if !d.one(4) {
		m["app"] = pick(d, "x", "y", "z")
	}
	if d.one(2) {
		m["tier"] = pick(d, "1", "2")
	}
	return cluster.MakeLabels(m)
}

func (d dice) address() netip.Addr {
	if d.one(4) {
		return netip.MustParseAddr(fmt.Sprintf("fd00::%d", d.IntN(12)))
	}
	return netip.AddrFrom4([4]byte{10, 0, byte(d.IntN(2)), byte(d.IntN(8))})
}

func (d dice) port() cluster.PodPort {
	return cluster.PodPort{Name: pick(d, "http", "dns"), Protocol: pick(d, cluster.TCP, cluster.UDP), Port: pick[uint16](d, 80, 81, 82)}
}

func (d dice) pod(n cluster.Name) *cluster.Pod {
	p := &cluster.Pod{Namespace: n.Namespace, Name: n.Name, Node: pick(d, "n1", "n1", "n2"), HostNetwork: d.one(10), Labels: d.labels()}
	for range d.IntN(3) {
		p.Addresses = append(p.Addresses, d.address())
	}
	for range d.IntN(3) {
		p.Ports = append(p.Ports, d.port())
	}
	return p
}

// touchUp changes one thing of a pod to what it is of another.
func (d dice) touchUp(p cluster.Pod, other *cluster.Pod) *cluster.Pod {
	switch d.IntN(5) {
	case 0:
		p.Labels = other.Labels
	case 1:
		p.Ports = other.Ports
	case 2:
		p.Addresses = other.Addresses
	case 3:
		p.Node = other.Node
	case 4:
		p.HostNetwork = other.HostNetwork
	}
	return &p
}

func (d dice) peer(own bool) cluster.PolicyPeer {
	switch d.IntN(6) {
	case 0:
		return cluster.PolicyPeer{Nodes: d.selector()}
	case 1, 2:
		p := cluster.PolicyPeer{Block: pick(d, prefixes()...)}
		for _, e := range prefixes() {
			if e.Bits() > p.Block.Bits() && p.Block.Contains(e.Addr()) && d.one(3) {
				p.Except = append(p.Except, e)
			}
		}
		return p
	}
	if own && d.one(2) {
		return cluster.PolicyPeer{Pods: d.selector()}
	}
	return cluster.PolicyPeer{Pods: d.selector(), Namespaces: d.namespaceSelector()}
}

func prefixes() (list []netip.Prefix) {
	for _, p := range []string{"0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.0.0/30", "10.0.0.1/32", "10.0.1.0/24", "::/0", "fd00::/64", "fd00::8/125"} {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

func (d dice) rule(own bool) cluster.PolicyRule {
	r := cluster.PolicyRule{Name: pick(d, "", "r"), AllPeers: d.one(5), AllPorts: d.one(2)}
	for range d.IntN(4) {
		r.Peers = append(r.Peers, d.peer(own))
	}
	for range d.IntN(4) {
		p := cluster.PolicyPort{Protocol: pick(d, cluster.TCP, cluster.UDP, cluster.SCTP), First: pick[uint16](d, 0, 79, 80, 81)}
		p.Last = p.First + pick[uint16](d, 0, 0, 1, 2)
		if d.one(3) {
			p = cluster.PolicyPort{Protocol: pick(d, 0, cluster.TCP, cluster.UDP), Name: pick(d, "http", "dns", "none")}
		}
		r.Ports = append(r.Ports, p)
	}
	if !own {
		r.Action = pick(d, cluster.Accept, cluster.Deny, cluster.Pass)
	}
	return r
}

func (d dice) rules(own bool) (list []cluster.PolicyRule) {
	for range d.IntN(3) {
		list = append(list, d.rule(own))
	}
	return list
}

func (d dice) networkPolicy(n cluster.Name) *cluster.NetworkPolicy {
	p := &cluster.NetworkPolicy{Name: n, Subject: d.selector()}
	if d.one(2) {
		p.Ingress = rules(d.rules(true)...)
	}
	if d.one(2) {
		p.Egress = rules(d.rules(true)...)
	}
	return p
}

func (d dice) clusterPolicy(n string) *cluster.ClusterPolicy {
	return &cluster.ClusterPolicy{Name: n, Tier: pick(d, cluster.Admin, cluster.Baseline), Priority: d.IntN(3),
		Namespaces: d.namespaceSelector(), Pods: d.selector(), Ingress: d.rules(false), Egress: d.rules(false)}
}

func (d dice) nodes() (list []cluster.Node) {
	for i := range d.IntN(4) {
		list = append(list, cluster.Node{Name: fmt.Sprint("n", i), Labels: d.labels(), Addresses: []netip.Addr{d.address(), d.address()}})
	}
	return list
}

// state is what a Table has been told.
type state struct {
	pods       map[cluster.Name]*cluster.Pod
	namespaces map[string]*cluster.Namespace
	policies   map[cluster.Name]*cluster.NetworkPolicy
	tiers      map[string]*cluster.ClusterPolicy
	nodes      []cluster.Node
}

func newState() *state {
	return &state{map[cluster.Name]*cluster.Pod{}, map[string]*cluster.Namespace{}, map[cluster.Name]*cluster.NetworkPolicy{},
		map[string]*cluster.ClusterPolicy{}, nil}
}

func set[K comparable, V any](m map[K]*V, k K, v *V) {
	if m[k] = v; v == nil {
		delete(m, k)
	}
}

// step changes one object, in the state and in a table.
func (s *state) step(d dice, t *policy.Table) {
	n := cluster.Name{Namespace: pick(d, "a", "b", "c"), Name: fmt.Sprint(d.IntN(6))}
	gone := d.one(4)
	switch d.IntN(8) {
	default:
		p := d.pod(n)
		if gone {
			p = nil
		} else if old := s.pods[n]; old != nil && d.one(2) {
			p = d.touchUp(*old, p)
		}
		set(s.pods, n, p)
		t.SetPod(n, p)
	case 0, 1:
		n.Name = fmt.Sprint(d.IntN(3))
		p := d.networkPolicy(n)
		if gone {
			p = nil
		}
		set(s.policies, n, p)
		t.SetNetworkPolicy(n, p)
	case 2:
		p := d.clusterPolicy(n.Name)
		if gone {
			p = nil
		}
		set(s.tiers, n.Name, p)
		t.SetClusterPolicy(n.Name, p)
	case 3:
		ns := &cluster.Namespace{Name: n.Namespace, Labels: cluster.MakeLabels(map[string]string{pick(d, "team", "x"): pick(d, "a", "b")})}
		if gone {
			ns = nil
		}
		set(s.namespaces, n.Namespace, ns)
		t.SetNamespace(n.Namespace, ns)
	case 4:
		if d.one(3) {
			s.nodes = d.nodes()
			t.SetNodes(s.nodes)
		}
	}
}

// fresh makes a table of a state, in the order that the map has or the dice say.
func (s *state) fresh(d dice) *policy.Table {
	t := policy.NewTable("n1")
	sets := []func(){func() { t.SetNodes(s.nodes) }}
	for n, p := range s.pods {
		sets = append(sets, func() { t.SetPod(n, p) })
	}
	for n, p := range s.policies {
		sets = append(sets, func() { t.SetNetworkPolicy(n, p) })
	}
	for n, p := range s.tiers {
		sets = append(sets, func() { t.SetClusterPolicy(n, p) })
	}
	for n, ns := range s.namespaces {
		sets = append(sets, func() { t.SetNamespace(n, ns) })
	}
	d.Shuffle(len(sets), func(i, j int) { sets[i], sets[j] = sets[j], sets[i] })
	for _, f := range sets {
		f()
	}
	return t
}

// apply does what Changes say to what there was.
func apply(have *policy.Changes, c policy.Changes) {
	merge(have.Subjects, c.Subjects, nil)
	merge(have.Rulesets, c.Rulesets, nil)
	merge(have.Addresses, c.Addresses, policy.Others)
	merge(have.Prefixes, c.Prefixes, policy.Others)
}

func merge[K, V comparable](have, changes map[K]V, gone V) {
	for k, v := range changes {
		if have[k] = v; v == gone {
			delete(have, k)
		}
	}
}

func nothing() policy.Changes {
	return policy.Changes{Subjects: map[cluster.Name]*policy.Subject{}, Rulesets: map[policy.ID]*policy.Ruleset{},
		Addresses: map[netip.Addr]policy.ID{}, Prefixes: map[netip.Prefix]policy.ID{}}
}

// sorted makes an address' owner and everything else comparable.
func diff(a, b policy.Changes) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
}

func TestWhateverTheHistoryTheTableIsThatOfAFreshStart(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for round := range rounds {
		d, s, table, have := newDice(seed+uint64(round)), newState(), policy.NewTable("n1"), nothing()
		for range 12 {
			for range 1 + d.IntN(10) {
				s.step(d, table)
			}
			apply(&have, table.Changes())
			want := s.fresh(d).All()
			if text := diff(want, have); text != "" {
				t.Fatalf("seed %d: changes do not add up (-want +got):\n%s", seed+uint64(round), text)
			}
			if text := diff(want, table.All()); text != "" {
				t.Fatalf("seed %d: all is something else (-want +got):\n%s", seed+uint64(round), text)
			}
			sound(t, want, seed+uint64(round))
		}
	}
}

// sound checks what the datapath takes for granted.
func sound(t *testing.T, c policy.Changes, seed uint64) {
	t.Helper()
	for id, r := range c.Rulesets {
		if id <= policy.Closed || r.Rows[policy.Key{}] == nil {
			t.Fatalf("seed %d: ruleset %d has no row for others: %+v", seed, id, r)
		}
		for k, row := range r.Rows {
			next := 0
			for _, s := range row {
				if int(s.First) != next || s.Last < s.First || s.Decision.Decider() >= len(r.Deciders) {
					t.Fatalf("seed %d: %+v: %+v", seed, k, row)
				}
				next = int(s.Last) + 1
			}
			if next != 0x10000 || r.Rows[policy.Key{Class: k.Class}] == nil || k.Protocol == 0 && len(row) != 1 {
				t.Fatalf("seed %d: %+v: %+v", seed, k, row)
			}
		}
	}
	for _, s := range c.Subjects {
		for _, id := range []policy.ID{s.Ingress, s.Egress} {
			if id > policy.Closed && c.Rulesets[id] == nil {
				t.Fatalf("seed %d: ruleset %d is not there", seed, id)
			}
		}
	}
	for _, id := range slices.Concat(slices.Collect(maps.Values(c.Addresses)), slices.Collect(maps.Values(c.Prefixes))) {
		if id <= policy.Closed {
			t.Fatalf("seed %d: class %d", seed, id)
		}
	}
}

func TestWhenEverythingGoesNothingIsLeft(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	d, s, table, have := newDice(seed), newState(), policy.NewTable("n1"), nothing()
	for range 300 {
		s.step(d, table)
		apply(&have, table.Changes())
	}
	for n := range s.pods {
		table.SetPod(n, nil)
	}
	for n := range s.policies {
		table.SetNetworkPolicy(n, nil)
	}
	for n := range s.tiers {
		table.SetClusterPolicy(n, nil)
	}
	for n := range s.namespaces {
		table.SetNamespace(n, nil)
	}
	table.SetNodes(nil)
	apply(&have, table.Changes())
	if text := diff(nothing(), have); text != "" {
		t.Fatalf("seed %d: %s", seed, text)
	}
	if left := policy.Left(table); left != "" {
		t.Fatalf("seed %d: %s is left", seed, left)
	}
}
