package watch

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polder-net/polder/internal/cluster"
)

func TestNamespacesThatNothingDefinesAreThoseOfPods(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"a pod's", "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: ns}}",
			"pod ns/p uid= node= host=false [] map[]\nnamespace ns map[] terminating=false\n"},
		{"a policy's alone", policy("{}"), "policy ns/p of {}\n ingress isolated\n" + homelessText},
		{"a policy's, which every cluster has", strings.Replace(policy("{}"), "ns}", "kube-system}", 1), "policy kube-system/p of {}\n ingress isolated\n"},
		{"a policy's, which cannot be read", policy("{}") + "---\n{apiVersion: v1, kind: Namespace, metadata: {name: ns, labels: {a: 1}}}",
			"policy ns/p of {}\n ingress isolated\nproblem Namespace/ns: a.yaml:5: read Namespace: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string\n"},
		{"one that is defined", "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: ns}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: ns, labels: {a: b}}}",
			"pod ns/p uid= node= host=false [] map[]\nnamespace ns map[a:b] terminating=false\n"},
		{"one that says it has another name", "{apiVersion: v1, kind: Namespace, metadata: {name: ns, labels: {kubernetes.io/metadata.name: other}}}",
			"namespace ns map[] terminating=false\n"},
		{"one that cannot be read may have any labels", "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: ns}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: ns, labels: {a: 1}}}",
			"pod ns/p uid= node= host=false [] map[]\nproblem Namespace/ns: a.yaml:2: read Namespace: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newContent()
			c.set("a.yaml", []byte(tc.in))
			s := c.snapshot()
			if diff := cmp.Diff(tc.want, text(s)); diff != "" {
				t.Error(diff)
			}
			if n := s.AllNamespaces.Get(cluster.Name{Name: "ns"}); n != nil && n.Labels.Get(corev1.LabelMetadataName) != "ns" {
				t.Errorf("labels %v", n.Labels)
			}
		})
	}
}

func TestListsOfPoliciesAreRead(t *testing.T) {
	c := newContent()
	c.set("a.json", []byte(`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicyList","metadata":{},"items":[{"metadata":{"name":"p","namespace":"ns"}}]}
{"apiVersion":"policy.networking.k8s.io/v1alpha2","kind":"ClusterNetworkPolicyList","metadata":{},"items":[{"metadata":{"name":"c"},"spec":{"tier":"Admin","priority":5,"subject":{"namespaces":{}}}}]}`))
	want := "policy ns/p of {}\n ingress isolated\ncluster policy c Admin 5 of {}/{}\n" + homelessText
	if diff := cmp.Diff(want, text(c.snapshot())); diff != "" {
		t.Error(diff)
	}
}

func TestWhatStaysOfManifestsIsTheSame(t *testing.T) {
	pod := "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: ns, labels: {a: b}}, status: {podIP: 10.0.0.1}}\n"
	other := "{apiVersion: v1, kind: Pod, metadata: {name: q, namespace: ns}, status: {podIP: 10.0.0.2}}\n"
	f, dir := folder(t, nil)
	write(t, filepath.Join(dir, "b.yaml"), pod+"---\n"+other+"---\n"+policy("{ingress: [{}]}")+"---\n"+clusterPolicy(admin("{action: Deny, to: [{nodes: {}}]}")))
	first := await(t, f, "policies", func(s *cluster.Snapshot) bool { return s.ClusterPolicies.Len() == 1 })
	write(t, filepath.Join(dir, "b.yaml"), "# moved\n---\n"+clusterPolicy(admin("{action: Deny, to: [{nodes: {}}]}"))+"---\n"+policy("{ingress: [{}]}")+"---\n"+pod)
	next := await(t, f, "a pod that is gone", func(s *cluster.Snapshot) bool { return s.AllPods.Len() == 1 })
	if first.NetworkPolicies != next.NetworkPolicies || first.ClusterPolicies != next.ClusterPolicies || first.AllNamespaces != next.AllNamespaces {
		t.Error("more is new than the pods")
	}
	if changed := next.AllPods.ChangedSince(first.AllPods); !slices.Equal(changed, []cluster.Name{{Namespace: "ns", Name: "q"}}) {
		t.Errorf("changed: %v", changed)
	}
}

func TestPortsWithANameAreThoseOfContainersThatStay(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	p := kubePod("ns", "p", "a", "10.0.0.1")
	p.Spec.Containers = []corev1.Container{
		{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}, {ContainerPort: 81}, {Name: "dns", Protocol: corev1.ProtocolUDP, ContainerPort: 53}}},
		{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}, {Name: "http", ContainerPort: 82}, {Name: "bad", Protocol: "X", ContainerPort: 1}, {Name: "none", ContainerPort: 0}}},
	}
	p.Spec.InitContainers = []corev1.Container{
		{Ports: []corev1.ContainerPort{{Name: "init", ContainerPort: 1}}},
		{RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "sidecar", Protocol: corev1.ProtocolSCTP, ContainerPort: 2}}},
	}
	for _, texts := range []*objectTexts{nil, newObjectTexts()} {
		read, problems := readPod(p, texts)
		want := []cluster.PodPort{{Name: "http", Protocol: cluster.TCP, Port: 80}, {Name: "dns", Protocol: cluster.UDP, Port: 53}, {Name: "http", Protocol: cluster.TCP, Port: 82}, {Name: "sidecar", Protocol: cluster.SCTP, Port: 2}}
		if diff := cmp.Diff(want, read.Ports); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{`port "bad": "X" is none of TCP, UDP and SCTP`, `port "none": 0 is not a port`}, problems); diff != "" {
			t.Error(diff)
		}
	}
	if len(p.Spec.Containers) != 2 {
		t.Error("the object has changed")
	}
}

// What pods share is no pod's own: whatever is forgotten to stay small, each says what it said.
func TestPodsThatShareLabelsKeepTheirs(t *testing.T) {
	texts := newObjectTexts()
	for n := range 3 * maxTexts / 2 {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Labels: map[string]string{"app": nth(n % (maxTexts + 9)), "z": "same"}}}
		read, _ := readPod(p, texts)
		if diff := cmp.Diff(cluster.MakeLabels(p.Labels), read.Labels); diff != "" {
			t.Fatal(diff)
		}
	}
	if len(texts.sets) > maxTexts || len(texts.texts) > maxTexts {
		t.Errorf("%d sets, %d texts", len(texts.sets), len(texts.texts))
	}
}

func TestObjectsMakeTheSnapshotThatTheirManifestsMake(t *testing.T) {
	p, c := kubePolicy("", "p", "x"), kubeClusterPolicy("c", 7)
	p.Spec.PolicyTypes = nil
	bad := kubeClusterPolicy("d", 1001)
	s := SnapshotOf(kubeNode("a", "10.0.0.1", "10.1.0.0/24"), kubePod("ns", "here", "a", "10.1.0.7"), kubePod("", "q", "a", "x"), p, c, bad, kubeService("ns", "a", "10.96.0.1"), &corev1.NodeList{})
	want := "node a [10.0.0.1] [10.1.0.0/24]\n" +
		"pod default/q uid=uid-q node=a host=false [] map[]\npod ns/here uid=uid-here node=a host=false [10.1.0.7] map[]\n" +
		"service ns/a uid=uid-a [10.96.0.1] ports=[{http TCP 80 0}]\n" +
		"namespace default map[] terminating=false\nnamespace ns map[] terminating=false\n" +
		"policy default/p of {}\n ingress isolated\n ingress accept  peers={app=x}{}/{} ports=all\n" + policyC +
		"cluster policy d Admin 0 of {}/{}\n egress deny  peers=[10.0.0.0/8-[]] ports=all\n" +
		"problem ClusterNetworkPolicy/d: priority 1001 is not 0 to 1000: the policy counts as the first of its tier, and only what it denies does\n" +
		"problem Pod/default/q: read pod IP: \"x\" is not an IP address\n"
	if diff := cmp.Diff(want, text(s)); diff != "" {
		t.Error(diff)
	}
	if p.Namespace != "" {
		t.Error("an object was changed")
	}
}
