package watch

import (
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// isLikePolicy says whether a kind that Polder does not read may be meant to be a policy of the network, or another
// version of what Polder reads: somebody may believe that it counts. Whatever does not say what it is may be one.
func isLikePolicy(t metav1.TypeMeta) bool {
	group := schema.FromAPIVersionAndKind(t.APIVersion, t.Kind).Group
	switch {
	case t.Kind == "" || strings.Contains(strings.ToLower(t.Kind), "networkpolic"):
		return true
	case group == networkingv1.GroupName:
		return !slices.Contains([]string{"Ingress", "IngressClass", "IPAddress"}, t.Kind)
	}
	return group == policyv1alpha2.GroupName || isOurs(group, t.Kind)
}

// isOurs says whether Polder reads some version of a kind.
func isOurs(group, kind string) bool {
	switch group {
	case "":
		return slices.Contains([]string{"Node", "Namespace", "Pod", "Service"}, kind)
	case "discovery.k8s.io":
		return kind == "EndpointSlice"
	}
	return false
}
