package watch

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// told is what a store of any kind says of itself.
type told interface {
	isSynced() bool
	problemNews() bool
	problems() []cluster.Problem
}

func (k *KubeSource) stores() []told {
	all := []told{k.nodes, k.pods}
	if k.services {
		all = append(all, k.svcs, k.slices, k.cidrs)
	}
	if k.policies {
		all = append(all, k.judged.namespaces, k.judged.policies, k.judged.clusterPolicies)
	}
	return all
}

// Latest returns what the API server said last, and nil until it has said everything once. It is the same Snapshot
// as long as nothing that Polder reads has changed, and shares with the one before what has not: its lists, the
// objects of each Service, each pod. The change of one costs the same however many others there are.
func (k *KubeSource) Latest() *cluster.Snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.dirty.Swap(false) {
		return k.latest
	}
	for _, s := range k.stores() {
		if !s.isSynced() {
			return nil // whichever is read last makes it dirty again
		}
	}
	var next cluster.Snapshot
	if k.latest != nil {
		next = *k.latest
	}
	if k.update(&next) || k.latest == nil {
		k.latest = &next
	}
	return k.latest
}

// update makes a Snapshot say what the stores say now. It says whether that is a change.
func (k *KubeSource) update(s *cluster.Snapshot) (changed bool) {
	if k.nodes.news() {
		changed = replace(&s.Nodes, sortedNodes(k.nodes.values())) || changed
	}
	changed = k.updatePods(s) || changed
	if k.cidrs.news() {
		changed = replace(&s.ServiceCIDRs, sortPrefixes(slices.Concat(k.cidrs.values()...))) || changed
	}
	changed = renew(&s.Services, k.takeServices()) || changed
	return k.updateProblems(s) || changed
}

// takeServices takes what has changed of Services, of either list that is read anew all or nothing.
func (k *KubeSource) takeServices() (changes map[cluster.ServiceName]*cluster.ServiceObjects) {
	k.svcs.locked(func() {
		k.slices.locked(func() { changes = k.grouped.take() })
	})
	return changes
}

func (k *KubeSource) updateProblems(s *cluster.Snapshot) bool {
	news := false
	for _, t := range k.stores() {
		news = t.problemNews() || news
	}
	if !news {
		return false
	}
	var problems []cluster.Problem
	for _, t := range k.stores() {
		problems = append(problems, t.problems()...)
	}
	return replace(&s.Problems, sortProblems(problems))
}

// renew makes a map of a Snapshot what it becomes by changes. It says whether that is another one.
func renew[V any](m **cluster.Map[V], changes map[cluster.Name]*V) bool {
	next := withChanges(*m, changes)
	same := next == *m
	*m = next
	return !same
}

func sortedNodes(states []nodeState) []cluster.Node {
	nodes := make([]cluster.Node, len(states))
	for i, s := range states {
		nodes[i] = s.Node
	}
	slices.SortFunc(nodes, func(a, b cluster.Node) int { return cmp.Compare(a.Name, b.Name) })
	return nodes
}

// replace makes a list of a Snapshot another, unless it says the same. It says whether it did.
func replace[T cluster.Node | cluster.Pod | netip.Prefix | cluster.Problem](list *[]T, now []T) bool {
	if len(*list) == 0 && len(now) == 0 || reflect.DeepEqual(*list, now) {
		return false
	}
	*list = slices.Clip(now)
	return true
}
