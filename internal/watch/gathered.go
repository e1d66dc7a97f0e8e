package watch

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/polder-net/polder/internal/cluster"
)

// gathered are objects that a Snapshot has by name, as they come one by one from somewhere that has no history.
type gathered struct {
	services    *byService
	pods        map[cluster.Name]*cluster.Pod
	namespaces  map[cluster.Name]*cluster.Namespace
	policies    map[cluster.Name]*cluster.NetworkPolicy
	clusterwide map[cluster.Name]*cluster.ClusterPolicy
	unread      map[string]bool // objects ("Namespace/a") that are there, though nothing of them could be read
}

func newGathered() *gathered {
	return &gathered{
		services: newByService(), pods: map[cluster.Name]*cluster.Pod{}, namespaces: map[cluster.Name]*cluster.Namespace{},
		policies: map[cluster.Name]*cluster.NetworkPolicy{}, clusterwide: map[cluster.Name]*cluster.ClusterPolicy{},
		unread: map[string]bool{},
	}
}

// put takes what a reader returned of an object. Lists are put into the Snapshot at once.
func (g *gathered) put(value any, s *cluster.Snapshot) {
	switch v := value.(type) {
	case cluster.Node:
		s.Nodes = append(s.Nodes, v)
	case *cluster.Pod:
		s.Pods = append(s.Pods, *v)
		g.pods[cluster.Name{Namespace: v.Namespace, Name: v.Name}] = v
	case *cluster.Namespace:
		g.namespaces[cluster.Name{Name: v.Name}] = v
	case *cluster.NetworkPolicy:
		g.policies[v.Name] = v
	case *cluster.ClusterPolicy:
		g.clusterwide[cluster.Name{Name: v.Name}] = v
	case *cluster.Service:
		g.services.service(nil, v)
	case *serviceSlice:
		g.services.slice(nil, v)
	case []netip.Prefix:
		s.ServiceCIDRs = append(s.ServiceCIDRs, v...)
	}
}

// finish gives a Snapshot its maps, which share with those of the last one what has not changed.
func (g *gathered) finish(s, last *cluster.Snapshot) {
	g.implyNamespaces()
	s.Services = asOf(last.Services, g.services.take())
	s.AllPods = asOf(last.AllPods, g.pods)
	s.AllNamespaces = asOf(last.AllNamespaces, g.namespaces)
	s.NetworkPolicies = asOf(last.NetworkPolicies, g.policies)
	s.ClusterPolicies = asOf(last.ClusterPolicies, g.clusterwide)
}

// implyNamespaces makes the namespaces that pods are in and nothing defines: they have no labels but the one that all
// have. One that is defined by what cannot be read may have any, so it is left out, and no selector matches it.
func (g *gathered) implyNamespaces() {
	for name := range g.pods {
		of := cluster.Name{Name: name.Namespace}
		if g.namespaces[of] == nil && !g.unread[objectID("Namespace", "", of.Name)] {
			g.namespaces[of] = readNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: of.Name}})
		}
	}
}

// identify returns what an API object is called by.
func identify(o runtime.Object) (kind, namespace, name string) {
	kind = reflect.TypeOf(o).Elem().Name()
	if m, err := meta.Accessor(o); err == nil {
		namespace, name = m.GetNamespace(), m.GetName()
	}
	if slices.Contains([]string{"Pod", "Service", "EndpointSlice", "NetworkPolicy"}, kind) {
		namespace = cmp.Or(namespace, "default")
	}
	return kind, namespace, name
}

// SnapshotOf returns what API objects say, as if they came from a folder of manifests: namespaces that pods are in need
// not be there. Kinds that Polder does not read are left out.
func SnapshotOf(objects ...runtime.Object) *cluster.Snapshot {
	s, g := &cluster.Snapshot{}, newGathered()
	for _, o := range objects {
		kind, namespace, name := identify(o)
		value, problems := readObject(o.DeepCopyObject(), namespace)
		for _, p := range problems {
			s.Problems = append(s.Problems, cluster.Problem{Object: objectID(kind, namespace, name), Message: p})
		}
		if value != nil {
			g.put(value, s)
		}
	}
	g.finish(s, &cluster.Snapshot{})
	sortSnapshot(s)
	return s
}
