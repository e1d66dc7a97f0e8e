// Package watch turns a source of cluster state, the Kubernetes API (Kube) or a folder of manifests (Folder), into
// cluster.Snapshots. It owns reading and validating objects, and the few writes to this node's own Node object. It
// knows nothing of what a Snapshot is used for, and publishes none before every list has been read once: nobody can
// delete anything because a source was not heard yet.
package watch

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// signal says that there is something new to read. It holds at most one notice: what happens twice before anybody
// looks is one change.
type signal chan struct{}

func newSignal() signal { return make(signal, 1) }

func (s signal) send() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// newScheme knows the kinds that Polder reads and no others: client-go's own scheme registers every kind of
// Kubernetes, which doubles the size of the binary and costs megabytes of memory on every node.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(s))
	metav1.AddToGroupVersion(s, corev1.SchemeGroupVersion)
	s.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	metav1.AddToGroupVersion(s, discoveryv1.SchemeGroupVersion)
	s.AddKnownTypes(networkingv1.SchemeGroupVersion,
		&networkingv1.ServiceCIDR{}, &networkingv1.ServiceCIDRList{}, &networkingv1.NetworkPolicy{}, &networkingv1.NetworkPolicyList{})
	metav1.AddToGroupVersion(s, networkingv1.SchemeGroupVersion)
	policies := schema.GroupVersion(policyv1alpha2.GroupVersion)
	s.AddKnownTypes(policies, &policyv1alpha2.ClusterNetworkPolicy{}, &policyv1alpha2.ClusterNetworkPolicyList{})
	metav1.AddToGroupVersion(s, policies)
	return s
}
