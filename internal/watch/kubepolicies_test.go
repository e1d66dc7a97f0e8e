package watch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/cluster"
)

func kubeNamespace(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// kubePolicy lets pods with a label into all pods of its namespace.
func kubePolicy(namespace, name, from string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{
		{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": from}}}, {NamespaceSelector: &metav1.LabelSelector{}},
	}}}
	return p
}

func kubeClusterPolicy(name string, priority int32) *policyv1alpha2.ClusterNetworkPolicy {
	p := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Tier, p.Spec.Priority, p.Spec.Subject.Namespaces = policyv1alpha2.AdminTier, priority, &metav1.LabelSelector{}
	p.Spec.Egress = []policyv1alpha2.ClusterNetworkPolicyEgressRule{{
		Action: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny,
		To:     []policyv1alpha2.ClusterNetworkPolicyEgressPeer{{Networks: []policyv1alpha2.CIDR{"10.0.0.0/8"}}},
	}}
	return p
}

const (
	podHere      = "pod ns/here uid=uid-here node=a host=false [10.1.0.7] map[]\n"
	podElsewhere = "pod ns/elsewhere elsewhere: node=b [10.1.1.7] map[]\n"
	namespaceNS  = "namespace ns map[] terminating=false\n"
	policyP      = "policy ns/p of {}\n ingress isolated\n ingress accept  peers={app=x}{}/{} ports=all\n"
	policyC      = "cluster policy c Admin 7 of {}/{}\n egress deny  peers=[10.0.0.0/8-[]] ports=all\n"
)

// policed is a fake with what policies need.
func policed(t *testing.T) *fakeAPI {
	f := newFakeAPI(t)
	for _, o := range []runtime.Object{
		kubeNode("a", "10.0.0.1", "10.1.0.0/24"), kubePod("ns", "here", "a", "10.1.0.7"), kubePod("ns", "elsewhere", "b", "10.1.1.7"),
		kubeNamespace("ns", nil), kubePolicy("ns", "p", "x"), kubeClusterPolicy("c", 7),
	} {
		f.put(o)
	}
	return f
}

func TestPoliciesOfTheAPIAreFollowed(t *testing.T) {
	for _, noStreaming := range []bool{false, true} {
		t.Run(fmt.Sprintf("without streaming lists: %t", noStreaming), func(t *testing.T) {
			f := policed(t)
			f.noStreaming = noStreaming
			k := f.sourceOf(t, "a", false, true)
			run(t, k.Run)
			awaitText(t, k, nodeA+podHere+namespaceNS+podElsewhere+policyP+policyC)

			moved := kubePod("ns", "elsewhere", "b", "10.1.1.8")
			moved.Labels = map[string]string{"app": "x"}
			moved.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}, {ContainerPort: 81}}}}
			f.put(moved)
			elsewhere := "pod ns/elsewhere elsewhere: node=b [10.1.1.8] map[app:x]\nports of ns/elsewhere: [{http TCP 80}]\n"
			awaitText(t, k, nodeA+podHere+namespaceNS+elsewhere+policyP+policyC)
			f.put(kubeNamespace("ns", map[string]string{"team": "z"}))
			labelled := "namespace ns map[team:z] terminating=false\n"
			awaitText(t, k, nodeA+podHere+labelled+elsewhere+policyP+policyC)
			f.put(kubePolicy("ns", "p", "y"))
			f.remove(kubeClusterPolicy("c", 7))
			awaitText(t, k, nodeA+podHere+labelled+elsewhere+strings.Replace(policyP, "app=x", "app=y", 1))
			f.remove(kubePolicy("ns", "p", "y"))
			f.remove(moved)
			f.remove(kubePod("ns", "here", "a", ""))
			f.remove(kubeNamespace("ns", nil))
			awaitText(t, k, nodeA)

			// A peer that this version does not know.
			unknown := kubeClusterPolicy("c", 7)
			unknown.Spec.Egress[0].To[0].Networks = nil
			f.put(unknown)
			awaitText(t, k, nodeA+"cluster policy c Admin 7 of {}/{}\n egress deny  peers=all ports=all\n"+
				"problem ClusterNetworkPolicy/c: egress rule 1: peer 1: has not exactly one field that this version of Polder knows: the rule denies everything\n")
		})
	}
}

func TestPoliciesThatNobodyAskedForAreNotRead(t *testing.T) {
	f := policed(t)
	k := f.source(t, "a")
	run(t, k.Run)
	awaitText(t, k, nodeA+podHere)
	if n := f.count("GET namespaces") + f.count("GET networkpolicies") + f.count("GET clusternetworkpolicies"); n > 0 {
		t.Errorf("%d requests", n)
	}
}

func TestAClusterWithoutClusterPoliciesIsEnough(t *testing.T) {
	f := policed(t)
	f.unknown = "clusternetworkpolicies"
	k := f.sourceOf(t, "a", false, true)
	run(t, k.Run)
	awaitText(t, k, nodeA+podHere+namespaceNS+podElsewhere+policyP)
	f.set(func() { f.unknown = "" }) // somebody defines the resource
	awaitText(t, k, nodeA+podHere+namespaceNS+podElsewhere+policyP+policyC)
}

func TestAClusterIsAskedForAbsentResourcesSeldomAsAWhole(t *testing.T) {
	k := unheard(t, true, true)
	for nodes, longest := range map[int]time.Duration{0: 38 * time.Second, 1500: 38 * time.Second, 5000: 125 * time.Second, 100_000: 750 * time.Second} {
		k.nodes.rows = map[string]*row[nodeState]{}
		for i := range nodes {
			k.nodes.rows[fmt.Sprint(i)] = nil
		}
		for _, w := range k.watches() {
			if !w.optional {
				continue
			}
			least, most := 10*time.Minute, 750*time.Second // another version is long in coming
			if w.resource == "clusternetworkpolicies" {
				least, most = max(30*time.Second, min(least, time.Duration(nodes)*time.Second/50)), longest
			}
			for range 100 {
				if pause := k.absence(w); pause < least || pause > most {
					t.Fatalf("%d nodes: %s are asked for again after %s", nodes, w.resource, pause)
				}
			}
		}
	}
}

func TestNoPoliciesAreSaidBeforeEveryListIsRead(t *testing.T) {
	k := unheard(t, false, true)
	for _, read := range []func([]any, string) error{
		k.nodes.Replace, k.judged.policies.Replace, k.pods.Replace, k.judged.clusterPolicies.Replace, k.judged.namespaces.Replace,
	} {
		if s := k.Latest(); s != nil {
			t.Errorf("says too early:\n%s", text(s))
		}
		must(t, read(nil, ""))
	}
	if k.Latest() == nil {
		t.Error("says nothing though everything has been read")
	}
}

// judging returns a source that has read a node, and was told of objects since.
func judging(t testing.TB, objs ...any) *KubeSource {
	t.Helper()
	k := unheard(t, false, true)
	for _, err := range []error{
		k.nodes.Replace([]any{kubeNode("me", "10.0.0.1", "10.1.0.0/24")}, ""), k.pods.Replace(objs, ""), k.judged.namespaces.Replace(nil, ""),
		k.judged.policies.Replace(nil, ""), k.judged.clusterPolicies.Replace(nil, ""),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func TestAChangeOfOnePodLeavesTheOthersTheSame(t *testing.T) {
	here, other, more := kubePod("ns", "here", "me", "10.1.0.1"), kubePod("ns", "other", "b", "10.1.1.1"), kubePod("ns", "more", "b", "10.1.1.2")
	k := judging(t, here, other, more)
	first := k.Latest()

	// What the kubelet says of a pod's conditions is no change, nor is a relist.
	beating := other.DeepCopy()
	beating.ResourceVersion, beating.Status.Conditions = "9", []corev1.PodCondition{{Type: corev1.PodReady, LastProbeTime: metav1.Now()}}
	must(t, k.pods.Update(beating))
	must(t, k.pods.Replace([]any{more.DeepCopy(), here.DeepCopy(), beating}, ""))
	if k.Latest() != first {
		t.Error("another Snapshot though nothing has changed")
	}

	other = other.DeepCopy()
	other.Labels = map[string]string{"a": "b"}
	must(t, k.pods.Update(other))
	next := k.Latest()
	if changed := next.AllPods.ChangedSince(first.AllPods); !slices.Equal(changed, []cluster.Name{{Namespace: "ns", Name: "other"}}) {
		t.Errorf("changed: %v", changed)
	}
	if &next.Pods[0] != &first.Pods[0] || &next.Nodes[0] != &first.Nodes[0] || next.NetworkPolicies != first.NetworkPolicies {
		t.Error("more is new than the pod")
	}

	// Of this node, and no longer.
	moved := here.DeepCopy()
	moved.Spec.NodeName = "b"
	must(t, k.pods.Update(moved))
	if s := k.Latest(); len(s.Pods) != 0 || s.AllPods.Len() != 3 {
		t.Errorf("got:\n%s", text(s))
	}
	must(t, k.pods.Update(here))
	if s := k.Latest(); len(s.Pods) != 1 || s.Pods[0].UID == "" || s.AllPods.Get(cluster.Name{Namespace: "ns", Name: "here"}).UID == "" {
		t.Errorf("got:\n%s", text(s))
	}
	must(t, k.pods.Delete(here))
	if s := k.Latest(); len(s.Pods) != 0 || s.AllPods.Len() != 2 {
		t.Errorf("got:\n%s", text(s))
	}
}

func TestLabelsOfNodesAreReadForPolicies(t *testing.T) {
	for _, policies := range []bool{false, true} {
		k := unheard(t, false, policies)
		must(t, k.nodes.Replace([]any{kubeNode("a", "10.0.0.1", "10.1.0.0/24")}, ""))
		if n, _ := k.nodes.get("a"); n.Labels.Has("kubernetes.io/hostname") != policies {
			t.Errorf("policies %t: labels %v", policies, n.Labels)
		}
	}
}
