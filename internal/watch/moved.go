package watch

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/cluster"
)

// moved gathers which objects of a store have changed since it was last asked, so that what a change costs does not
// depend on how many objects there are. It is under the store's lock.
type moved[V any] struct {
	dirty map[cluster.Name]*V // what they are now; nil: gone
}

func newMoved[V any]() *moved[V] { return &moved[V]{dirty: map[cluster.Name]*V{}} }

func (m *moved[V]) note(name cluster.Name, now *V) { m.dirty[name] = now }

// take returns what has changed since it was last called. Whoever calls owns the map.
func (m *moved[V]) take() map[cluster.Name]*V {
	dirty := m.dirty
	m.dirty = map[cluster.Name]*V{}
	return dirty
}

// noteBy returns what a store calls with each change.
func (m *moved[V]) noteBy(name func(*V) cluster.Name) func(old, now *V) {
	return func(old, now *V) {
		if now == nil {
			m.note(name(old), nil)
		} else {
			m.note(name(now), now)
		}
	}
}

// judged is what policies need of the API besides pods.
type judged struct {
	namespaces      *store[*cluster.Namespace]
	policies        *store[*cluster.NetworkPolicy]
	clusterPolicies *store[*cluster.ClusterPolicy]

	movedPods            *moved[cluster.Pod]
	movedNamespaces      *moved[cluster.Namespace]
	movedPolicies        *moved[cluster.NetworkPolicy]
	movedClusterPolicies *moved[cluster.ClusterPolicy]
}

func (j *judged) make(changed func()) {
	j.movedPods, j.movedNamespaces = newMoved[cluster.Pod](), newMoved[cluster.Namespace]()
	j.movedPolicies, j.movedClusterPolicies = newMoved[cluster.NetworkPolicy](), newMoved[cluster.ClusterPolicy]()

	j.namespaces = newStore("Namespace", func(obj any) (*cluster.Namespace, []string) {
		return readNamespace(obj.(*corev1.Namespace)), nil
	}, changed)
	j.namespaces.moved = j.movedNamespaces.noteBy(func(n *cluster.Namespace) cluster.Name { return cluster.Name{Name: n.Name} })
	j.policies = newStore("NetworkPolicy", func(obj any) (*cluster.NetworkPolicy, []string) {
		return readNetworkPolicy(obj.(*networkingv1.NetworkPolicy))
	}, changed)
	j.policies.moved = j.movedPolicies.noteBy(func(p *cluster.NetworkPolicy) cluster.Name { return p.Name })
	j.clusterPolicies = newStore("ClusterNetworkPolicy", func(obj any) (*cluster.ClusterPolicy, []string) {
		return readClusterPolicy(obj.(*policyv1alpha2.ClusterNetworkPolicy))
	}, changed)
	j.clusterPolicies.moved = j.movedClusterPolicies.noteBy(func(p *cluster.ClusterPolicy) cluster.Name { return cluster.Name{Name: p.Name} })
}

// update makes a Snapshot say what has changed, of pods by the changes that are given. It says whether anything has.
//
// What is the cause of others' changes is taken last: whoever deletes a namespace has its policies deleted by that. Taken
// the other way round, a policy might be missing from a namespace that is still said to stay, and its pods would open.
func (j *judged) update(s *cluster.Snapshot, pods map[cluster.Name]*cluster.Pod) (changed bool) {
	changed = renew(&s.AllPods, pods)
	changed = renew(&s.NetworkPolicies, takeOf(j.policies, j.movedPolicies)) || changed
	changed = renew(&s.ClusterPolicies, takeOf(j.clusterPolicies, j.movedClusterPolicies)) || changed
	return renew(&s.AllNamespaces, takeOf(j.namespaces, j.movedNamespaces)) || changed
}

// takeOf takes what has changed in a store, of a list that is read anew all or nothing.
func takeOf[V any](t *store[*V], m *moved[V]) (changes map[cluster.Name]*V) {
	t.locked(func() { changes = m.take() })
	return changes
}

func (k *KubeSource) makePods() {
	t := newObjectTexts()
	k.pods = newStore("Pod", func(obj any) (*cluster.Pod, []string) {
		pod, problems := readPod(obj.(*corev1.Pod), t)
		if !k.isHere(pod) {
			pod.UID = "" // nobody asks, and there are many
		}
		return pod, problems
	}, k.change)
	k.pods.moved = k.podMoved
}

// isHere says whether there is a pod, on this node.
func (k *KubeSource) isHere(p *cluster.Pod) bool { return p != nil && p.Node == k.node }

func (k *KubeSource) podMoved(old, now *cluster.Pod) {
	name := podName(old)
	if now != nil {
		name = podName(now)
	}
	if k.policies {
		k.judged.movedPods.note(name, now)
	}
	switch {
	case k.isHere(now):
		k.here.note(name, now)
	case k.isHere(old):
		k.here.note(name, nil)
	}
}

func podName(p *cluster.Pod) cluster.Name {
	if p == nil {
		return cluster.Name{}
	}
	return cluster.Name{Namespace: p.Namespace, Name: p.Name}
}

// updatePods makes a Snapshot say what has changed of pods, and what policies need besides. It says whether anything has.
func (k *KubeSource) updatePods(s *cluster.Snapshot) bool {
	var here, all map[cluster.Name]*cluster.Pod
	k.pods.locked(func() { here, all = k.here.take(), k.judged.movedPods.take() })
	changed := k.updateHere(s, here)
	return k.judged.update(s, all) || changed
}

func (k *KubeSource) updateHere(s *cluster.Snapshot, moved map[cluster.Name]*cluster.Pod) bool {
	for name, pod := range moved {
		if pod == nil {
			delete(k.own, name)
		} else {
			k.own[name] = pod
		}
	}
	if len(moved) == 0 {
		return false
	}
	pods := make([]cluster.Pod, 0, len(k.own))
	for _, name := range slices.SortedFunc(maps.Keys(k.own), cluster.Name.Compare) {
		pods = append(pods, *k.own[name])
	}
	return replace(&s.Pods, pods)
}
