package watch

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

func fakeKey(obj runtime.Object) (resource, key string) {
	key, err := objectKey(obj)
	if err != nil {
		panic(err)
	}
	return resourceOf(obj), key
}

func resourceOf(obj runtime.Object) string {
	switch obj.(type) {
	case *corev1.Node:
		return "nodes"
	case *corev1.Pod:
		return "pods"
	case *corev1.Service:
		return "services"
	case *discoveryv1.EndpointSlice:
		return "endpointslices"
	case *networkingv1.ServiceCIDR:
		return "servicecidrs"
	case *corev1.Namespace:
		return "namespaces"
	case *networkingv1.NetworkPolicy:
		return "networkpolicies"
	case *policyv1alpha2.ClusterNetworkPolicy:
		return "clusternetworkpolicies"
	}
	panic("no resource")
}

// emptyList returns a list of a resource's objects, and an object of it.
func emptyList(resource string) (list, one runtime.Object) {
	switch resource {
	case "nodes":
		return &corev1.NodeList{}, &corev1.Node{}
	case "pods":
		return &corev1.PodList{}, &corev1.Pod{}
	case "services":
		return &corev1.ServiceList{}, &corev1.Service{}
	case "endpointslices":
		return &discoveryv1.EndpointSliceList{}, &discoveryv1.EndpointSlice{}
	case "servicecidrs":
		return &networkingv1.ServiceCIDRList{}, &networkingv1.ServiceCIDR{}
	case "namespaces":
		return &corev1.NamespaceList{}, &corev1.Namespace{}
	case "networkpolicies":
		return &networkingv1.NetworkPolicyList{}, &networkingv1.NetworkPolicy{}
	case "clusternetworkpolicies":
		return &policyv1alpha2.ClusterNetworkPolicyList{}, &policyv1alpha2.ClusterNetworkPolicy{}
	}
	panic("no resource")
}

// selector is the selectors of a request, of which agents use one of each kind.
type selector struct{ fields, labels string }

func selectorOf(r *http.Request) selector {
	return selector{r.URL.Query().Get("fieldSelector"), r.URL.Query().Get("labelSelector")}
}

func (s selector) matches(obj runtime.Object) bool {
	m, _ := meta.Accessor(obj)
	_, labelled := m.GetLabels()[strings.TrimPrefix(s.labels, "!")]
	pod, ok := obj.(*corev1.Pod)
	return !labelled && (s.fields == "" || (ok && s.fields == "spec.nodeName="+pod.Spec.NodeName))
}

func bookmark(resource string, version int) runtime.Object {
	_, one := emptyList(resource)
	m, _ := meta.Accessor(one)
	m.SetResourceVersion(strconv.Itoa(version))
	m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	return one
}

// patch applies a strategic merge patch as the API server does: of the status subresource only the status counts, of
// the object everything else, and a resource version in the patch must be the object's.
func (f *fakeAPI) patch(w http.ResponseWriter, r *http.Request, name, sub string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	if f.beforePatch != nil {
		f.beforePatch()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.objects["nodes"][name].(*corev1.Node)
	var asked corev1.Node
	if err := json.Unmarshal(body, &asked); err != nil {
		panic(err)
	}
	if v := asked.ResourceVersion; v != "" && v != old.ResourceVersion {
		f.fail(w, apierrors.NewConflict(schema.GroupResource{Resource: "nodes"}, name, nil))
		return
	}
	before, err := json.Marshal(old)
	if err != nil {
		panic(err)
	}
	after, err := strategicpatch.StrategicMergePatch(before, body, corev1.Node{})
	if err != nil {
		panic(err)
	}
	patched := &corev1.Node{}
	if err := json.Unmarshal(after, patched); err != nil {
		panic(err)
	}
	if sub == "status" {
		patched.Spec = old.Spec
	} else {
		patched.Status = old.Status
	}
	f.store(patched)
	f.answer(w, http.StatusOK, f.objects["nodes"][name])
}

func (f *fakeAPI) list(w http.ResponseWriter, resource string, sel selector) {
	list, _ := emptyList(resource)
	var items []runtime.Object
	f.mu.Lock()
	for _, obj := range f.objects[resource] {
		if sel.matches(obj) {
			items = append(items, obj)
		}
	}
	_ = meta.SetList(list, items)
	m, _ := meta.ListAccessor(list)
	m.SetResourceVersion(strconv.Itoa(f.version))
	f.mu.Unlock()
	f.wireOf(resource).answer(w, http.StatusOK, list)
}

// since returns what a watch hears of: what stops matching is deleted, one that never did is none the wiser.
func (f *fakeAPI) since(from int, resource string, sel selector) (events []fakeEvent) {
	for _, e := range f.history {
		if e.version <= from || e.resource != resource {
			continue
		}
		if !sel.matches(e.object) {
			if e.kind == "ADDED" {
				continue
			}
			e.kind = "DELETED"
		}
		events = append(events, e)
	}
	return events
}
