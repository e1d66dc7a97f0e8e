package watch

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/polder-net/polder/internal/cluster"
)

// meanwhile begins to do something, and gives it time to come as far as it can.
func meanwhile(do func()) (end func()) {
	done := make(chan struct{})
	go func() { defer close(done); do() }()
	select {
	case <-done:
	case <-time.After(50 * time.Millisecond):
	}
	return func() { <-done }
}

// taken returns a source of everything, which has been told of one of each and has said so.
func taken(t *testing.T) *KubeSource {
	t.Helper()
	k := unheard(t, true, true)
	must(t, k.nodes.Replace([]any{kubeNode("me", "10.0.0.1", "10.1.0.0/24")}, ""))
	must(t, k.pods.Replace([]any{kubePod("ns", "a", "me", "10.1.0.1")}, ""))
	must(t, k.svcs.Replace(nil, ""))
	must(t, k.slices.Replace([]any{kubeSlice("ns", "a-1", "a", "10.1.0.1")}, ""))
	must(t, k.cidrs.Replace(nil, ""))
	must(t, k.judged.namespaces.Replace([]any{kubeNamespace("ns", nil)}, ""))
	must(t, k.judged.policies.Replace([]any{kubePolicy("ns", "a", "x")}, ""))
	must(t, k.judged.clusterPolicies.Replace([]any{kubeClusterPolicy("a", 7)}, ""))
	if k.Latest() == nil {
		t.Fatal("it says nothing")
	}
	return k
}

// While watches were broken, one object went and another came in its place.
func TestAListThatIsReadAnewIsSeenAsAWhole(t *testing.T) {
	for name, c := range map[string]struct {
		relist func(k *KubeSource, gone func()) error
		left   func(s *cluster.Snapshot) int
	}{
		"policies": {func(k *KubeSource, gone func()) error {
			return replaceSlowly(k.judged.policies, gone, kubePolicy("ns", "b", "x"))
		}, func(s *cluster.Snapshot) int { return s.NetworkPolicies.Len() }},
		"cluster policies": {func(k *KubeSource, gone func()) error {
			return replaceSlowly(k.judged.clusterPolicies, gone, kubeClusterPolicy("b", 7))
		}, func(s *cluster.Snapshot) int { return s.ClusterPolicies.Len() }},
		"namespaces": {func(k *KubeSource, gone func()) error {
			return replaceSlowly(k.judged.namespaces, gone, kubeNamespace("other", nil))
		}, func(s *cluster.Snapshot) int { return s.AllNamespaces.Len() }},
		"all pods": {func(k *KubeSource, gone func()) error {
			return replaceSlowly(k.pods, gone, kubePod("ns", "b", "me", "10.1.0.2"))
		}, func(s *cluster.Snapshot) int { return s.AllPods.Len() }},
		"pods of this node": {func(k *KubeSource, gone func()) error {
			return replaceSlowly(k.pods, gone, kubePod("ns", "b", "me", "10.1.0.2"))
		}, func(s *cluster.Snapshot) int { return len(s.Pods) }},
		"slices": {func(k *KubeSource, gone func()) error {
			return replaceSlowly(k.slices, gone, kubeSlice("ns", "a-2", "a", "10.1.0.2"))
		}, func(s *cluster.Snapshot) int { return len(s.Services.ChangedSince(nil)) }},
	} {
		t.Run(name, func(t *testing.T) {
			k := taken(t)
			said := *k.Latest()
			var end func()
			must(t, c.relist(k, func() { end = meanwhile(func() { k.update(&said) }) }))
			end()
			if n := c.left(&said); n != 1 {
				t.Errorf("there are %d in the middle of the list:\n%s", n, text(&said))
			}
		})
	}
}

// replaceSlowly replaces what is in a store by one object, and tells when something has gone of it.
func replaceSlowly[T any](t *store[T], gone func(), obj any) error {
	noted, times := t.moved, 0
	t.moved = func(old, now T) {
		noted(old, now)
		if times++; times == 1 {
			gone()
		}
	}
	return t.Replace([]any{obj}, "")
}

// Both are told while a Snapshot is being made. The other way round, the pods of the namespace would open.
func TestAPolicyDoesNotGoBeforeItsNamespaceEnds(t *testing.T) {
	k := taken(t)
	ending := kubeNamespace("ns", nil)
	ending.Status.Phase = corev1.NamespaceTerminating
	said := *k.Latest()
	var end func()
	k.judged.policies.locked(func() { // it cannot take more than what comes before policies
		end = meanwhile(func() { k.update(&said) })
		must(t, k.judged.namespaces.Update(ending))
		k.judged.policies.set("ns/a", nil)
	})
	end()
	if said.NetworkPolicies.Len() > 0 || !said.AllNamespaces.Get(cluster.Name{Name: "ns"}).Terminating {
		t.Errorf("it says:\n%s", text(&said))
	}
}
