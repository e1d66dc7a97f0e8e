package watch

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

func TestAFolderIsReadAsItsObjectsAreWritten(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {}, egress: [{ports: [{port: 80}, {port: dns, protocol: UDP}]}]}
---
kind: List
apiVersion: v1
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
- {apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop}, spec: {containers: [{name: c, ports: [{containerPort: 1}]}]}, status: {podIP: 10.0.0.1}}
`,
		"b.json": `{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList", "items": [{"metadata": {"name": "web"}}, {"metadata": {"name": "in"}}]}`,
		"c.yaml": `
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: tier}
spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, unheardOf: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: bad, namespace: shop}
spec: {containers: 7}
---
apiVersion: v1
kind: Node
metadata: {name: n1, namespace: nowhere}
---
apiVersion: v1
kind: Secret
metadata: {name: not-ours}
---
apiVersion: v1
kind: Namespace
metadata: {name: Wrong}
`,
		"d.yml": `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: foreign, namespace: shop}
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicyList
items: []
---
apiVersion: v2
kind: Pod
metadata: {name: later, namespace: shop}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: budget}
---
apiVersion: networking.k8s.io/v1
kind: IngressList
items: [{metadata: {name: web}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: all}
---
metadata: {name: nothing}
`,
		".hidden.yaml": "apiVersion: [",
		"notes.txt":    "apiVersion: [",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	o, problems, err := ReadObjects(dir)
	must(t, err)
	want := map[string]string{
		"NetworkPolicy/default/web": "a.yaml:1", "Namespace/shop": "a.yaml:6", "Pod/shop/p": "a.yaml:6",
		"NetworkPolicy/default/in": "b.json:1", "ClusterNetworkPolicy/tier": "c.yaml:1", "Node/n1": "c.yaml:11",
	}
	if !maps.Equal(o.Where, want) {
		t.Errorf("objects are %v, want %v", o.Where, want)
	}
	var texts []string
	for _, p := range problems {
		texts = append(texts, p.Object+": "+p.Message)
	}
	parts := []string{
		"CiliumNetworkPolicy/shop/foreign: d.yml:1: apiVersion \"cilium.io/v2\", kind \"CiliumNetworkPolicy\" is nothing that Polder reads",
		"ClusterNetworkPolicy/tier: c.yaml:1: unknown field \"spec.unheardOf\"",
		"ClusterNetworkPolicy/tier: c.yaml:1: until it can be read, everything is denied in the directions that it has rules for",
		"Namespace/Wrong: c.yaml:19: \"Wrong\" is not a DNS-1123 name",
		"NetworkPolicy/default/web: b.json:1: there is one of that name at a.yaml:1, which counts",
		"Pod/shop/bad: c.yaml:6: read Pod: ",
		"Pod/shop/later: d.yml:9: apiVersion \"v2\", kind \"Pod\" is nothing that Polder reads",
		"d.yml: d.yml:25: apiVersion \"\", kind \"\" is nothing that Polder reads",
		"d.yml: d.yml:5: apiVersion \"policy.networking.k8s.io/v1alpha1\", kind \"AdminNetworkPolicyList\" is nothing that Polder reads",
	}
	for i, part := range parts {
		if i >= len(texts) || !strings.HasPrefix(texts[i], part) {
			t.Errorf("problem %d of %q: want %s…", i, texts, part)
		}
	}
	if len(texts) != len(parts) {
		t.Errorf("problems are %q", texts)
	}
	if left := []string{"", "CiliumNetworkPolicy/shop/foreign", "Namespace/Wrong", "NetworkPolicy/default/web", "Pod/shop/bad", "Pod/shop/later"}; !slices.Equal(slices.Sorted(maps.Keys(o.LeftOut)), left) {
		t.Errorf("left out are %q", slices.Sorted(maps.Keys(o.LeftOut)))
	}
}

func TestAFileOfWhichNobodyKnowsWhatItIsIsAnError(t *testing.T) {
	for _, text := range []string{"apiVersion: [", "- a\n", "kind: Pod\nkind: Node\n"} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "a.yaml"), policy("{}"))
		write(t, filepath.Join(dir, "b.yaml"), policy("{}")+"---\n"+text)
		_, _, err := ReadObjects(dir)
		if err == nil || !strings.HasPrefix(err.Error(), "read manifests: "+filepath.Join(dir, "b.yaml")+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: the error is %v", text, err)
		}
	}
}

func TestAFolderHasWhatAnAPIServerFillsIn(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {podSelector: {}, egress: [{ports: [{port: 80}, {port: dns, protocol: UDP}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: in}
spec: {podSelector: {}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: c, ports: [{containerPort: 1}]}]}
status: {podIP: 10.0.0.1}
---
{apiVersion: v1, kind: Service, metadata: {name: s}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{port: 8080}], endpoints: [{addresses: [10.0.0.1]}]}
`)
	o, problems, err := ReadObjects(dir)
	must(t, err)
	if len(problems) > 0 {
		t.Fatalf("problems: %v", problems)
	}
	np := o.Policies[0].Spec
	if fmt.Sprintf("%v %v %v %v", np.PolicyTypes, *np.Egress[0].Ports[0].Protocol, *np.Egress[0].Ports[1].Protocol, o.Policies[1].Spec.PolicyTypes) != "[Ingress Egress] TCP UDP [Ingress]" {
		t.Errorf("policies are %v and %v", np, o.Policies[1].Spec)
	}
	if o.Namespaces[0].Labels["kubernetes.io/metadata.name"] != "shop" {
		t.Errorf("the namespace is %v", o.Namespaces[0])
	}
	if p := o.Pods[0]; p.Namespace != "default" || len(p.Status.PodIPs) != 1 || p.Spec.Containers[0].Ports[0].Protocol != corev1.ProtocolTCP {
		t.Errorf("the pod is %v", p)
	}
	_, services := o.Read()
	if len(services) != 1 || len(services[0].Slices) != 1 || services[0].Service.ClusterIPs[0].String() != "10.96.0.1" {
		t.Errorf("services are %v", services)
	}
}

func TestAFolderThatIsNotThereIsAnError(t *testing.T) {
	if _, _, err := ReadObjects(filepath.Join(t.TempDir(), "none")); err == nil || !strings.HasPrefix(err.Error(), "read manifests: ") {
		t.Errorf("the error is %v", err)
	}
}

// policyAPI serves lists of two pages, and knows ClusterNetworkPolicies or not.
func policyAPI(t *testing.T, clusterPolicies bool) *rest.Config {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kinds := map[string]string{
			"nodes": "Node", "namespaces": "Namespace", "pods": "Pod", "services": "Service", "endpointslices": "EndpointSlice",
			"networkpolicies": "NetworkPolicy", "clusternetworkpolicies": "ClusterNetworkPolicy",
		}
		parts := strings.Split(r.URL.Path, "/")
		resource := parts[len(parts)-1]
		version := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSuffix(r.URL.Path, "/"+resource), "/apis/"), "/api/")
		w.Header().Set("Content-Type", "application/json")
		if resource == "clusternetworkpolicies" && !clusterPolicies {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404})
			return
		}
		page, next := "one", "more"
		if r.URL.Query().Get("continue") != "" {
			page, next = "two", ""
		}
		fmt.Fprintf(w, `{"apiVersion":%q,"kind":"%sList","metadata":{"continue":%q},"items":[{"metadata":{"name":%q,"namespace":"ns"}}]}`,
			version, kinds[resource], next, page)
	}))
	t.Cleanup(s.Close)
	return &rest.Config{Host: s.URL}
}

func TestAClusterIsReadPageByPage(t *testing.T) {
	for _, knows := range []bool{true, false} {
		o, err := listObjects(t.Context(), policyAPI(t, knows))
		must(t, err)
		want := 2
		if !knows {
			want = 0
		}
		if len(o.Pods) != 2 || len(o.Namespaces) != 2 || len(o.Nodes) != 2 || len(o.Policies) != 2 || len(o.Services) != 2 ||
			len(o.Slices) != 2 || len(o.ClusterPolicies) != want {
			t.Errorf("objects are %+v", o)
		}
		if !slices.Equal(o.Policies[0].Spec.PolicyTypes, []networkingv1.PolicyType{"Ingress"}) {
			t.Errorf("the policy is %v", o.Policies[0])
		}
	}
}

func TestAClusterThatCannotBeReadIsAnError(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	if _, err := listObjects(t.Context(), &rest.Config{Host: s.URL}); err == nil || !strings.HasPrefix(err.Error(), "list nodes: ") {
		t.Errorf("the error is %v", err)
	}
	if _, _, err := ListObjects(t.Context(), filepath.Join(t.TempDir(), "none"), "test"); err == nil || !strings.HasPrefix(err.Error(), "find API server: ") {
		t.Errorf("the error is %v", err)
	}
}
