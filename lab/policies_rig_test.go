package lab_test

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/oracle/cases"
	"github.com/polder-net/polder/lab"
)

// canaryPort and the one after it are where the canaries serve.
const canaryPort = 8000

// policiesRig makes a lab's cluster what a state of objects says, and asks the network what it lets pass.
//
// A pod on each node, the canary, tells when the nodes follow: with each change of the policies, one of their own opens
// the other one of its two ports. It is in the file with the rest, so that a node that obeys it obeys all.
type policiesRig struct {
	*lab.Cluster
	t          testing.TB
	canaries   []*lab.Pod
	pods       map[string]*lab.Pod          // those of the state, by "namespace/name"
	labels     map[string]map[string]string // theirs
	namespaces map[string]map[string]string
	changes    int
}

func newPoliciesRig(t testing.TB, c *lab.Cluster) *policiesRig {
	t.Helper()
	r := &policiesRig{Cluster: c, t: t, pods: map[string]*lab.Pod{}, labels: map[string]map[string]string{}, namespaces: map[string]map[string]string{}}
	if err := c.SetNamespace("canary", nil); err != nil {
		t.Fatal(err)
	}
	for i, n := range c.Nodes() {
		r.canaries = append(r.canaries, create(t, c, lab.PodOptions{
			Name: fmt.Sprintf("canary-%d", i+1), Namespace: "canary", Node: n.Name, Serve: []uint16{canaryPort, canaryPort + 1},
		}))
	}
	return r
}

// become makes the cluster what the objects say: their namespaces, pods and policies. Their addresses and nodes are the lab's.
// It returns when the nodes obey.
func (r *policiesRig) become(o *oracle.Objects) {
	r.t.Helper()
	for _, ns := range o.Namespaces {
		if old, known := r.namespaces[ns.Name]; !known || !maps.Equal(old, ns.Labels) {
			r.must(r.SetNamespace(ns.Name, ns.Labels))
			r.namespaces[ns.Name] = ns.Labels
		}
	}
	there := map[string]bool{}
	for _, pod := range o.Pods {
		there[pod.Namespace+"/"+pod.Name] = true
		r.becomePod(pod)
	}
	for name, pod := range r.pods {
		if !there[name] {
			r.must(r.DeletePod(r.t.Context(), pod.Name))
			delete(r.pods, name)
		}
	}
	for name := range r.namespaces {
		if !slices.ContainsFunc(o.Namespaces, func(ns *corev1.Namespace) bool { return ns.Name == name }) {
			r.must(r.RemoveNamespace(name))
			delete(r.namespaces, name)
		}
	}
	r.enforce(o.NetworkPolicies)
}

// becomePod makes a pod, or gives it other labels. Of the pods of each namespace, one is on each node.
func (r *policiesRig) becomePod(pod *corev1.Pod) {
	r.t.Helper()
	name := pod.Namespace + "/" + pod.Name
	if r.pods[name] == nil {
		nodes := r.Nodes()
		r.pods[name] = create(r.t, r.Cluster, lab.PodOptions{
			Name: pod.Namespace + "-" + pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, Serve: []uint16{80, 81},
			Node: nodes[int(pod.Name[0]-'a')%len(nodes)].Name,
		})
	} else if !maps.Equal(r.labels[name], pod.Labels) {
		r.must(r.LabelPod(r.pods[name].Name, pod.Labels))
	}
	r.labels[name] = pod.Labels
}

// enforce writes the policies and waits until every node obeys them.
func (r *policiesRig) enforce(policies []*networkingv1.NetworkPolicy) {
	r.t.Helper()
	r.changes++
	open, shut := uint16(canaryPort+r.changes%2), uint16(canaryPort+1-r.changes%2)
	canary := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "canary", Name: "canary"}}
	port := intstr.FromInt32(int32(open))
	canary.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}}}
	all := append([]*networkingv1.NetworkPolicy{canary}, policies...)
	file := filepath.Join(r.Manifests(), "policies.json")
	write(r.t, filepath.Join(r.Manifests(), ".policies"), string(cases.Manifests(&oracle.Objects{NetworkPolicies: all})))
	r.must(os.Rename(filepath.Join(r.Manifests(), ".policies"), file)) // as a whole: agents read it at any time
	eventually(r.t, 10*time.Second, "the nodes obey the policies", func() error {
		var opens, shuts []*shot
		for i, from := range r.canaries {
			to := r.canaries[(i+1)%len(r.canaries)].Addresses[0]
			opens = append(opens, &shot{from: from, to: netip.AddrPortFrom(to, open), protocol: unix.IPPROTO_TCP})
			shuts = append(shuts, &shot{from: from, to: netip.AddrPortFrom(to, shut), protocol: unix.IPPROTO_TCP})
		}
		fire(r.t, append(slices.Clone(opens), shuts...), 100*time.Millisecond)
		for i := range opens {
			if !opens[i].opened || shuts[i].opened {
				return fmt.Errorf("%s to %s: open %t, and to %s: open %t", opens[i].from.Name, opens[i].to, opens[i].opened, shuts[i].to, shuts[i].opened)
			}
		}
		return nil
	})
}

// objects are the cluster's, as the agents read them.
func (r *policiesRig) objects() *oracle.Objects {
	r.t.Helper()
	all := &oracle.Objects{}
	for _, kind := range []string{"node-", "namespace-", "pod-"} {
		files, err := filepath.Glob(filepath.Join(r.Manifests(), kind+"*.yaml"))
		r.must(err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			r.must(err)
			r.must(cases.Add(all, text))
		}
	}
	return all
}

// check tries every connection between the state's pods, by both families, and wants of each what the oracle says. What
// is otherwise at first may be a busy machine's doing: it is tried again for a while.
func (r *policiesRig) check(policies []*networkingv1.NetworkPolicy) (tried int) {
	r.t.Helper()
	objects := r.objects()
	objects.NetworkPolicies = policies
	var shots []*shot
	want := map[*shot]oracle.Ruling{}
	for _, from := range r.pods {
		for _, to := range r.pods {
			for i, address := range to.Addresses {
				for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
					for _, port := range []uint16{80, 81} {
						s := &shot{from: from, to: netip.AddrPortFrom(address, port), protocol: protocol}
						want[s] = objects.Judge(oracle.Packet{Src: from.Addresses[i], Dst: address, Protocol: protocol, Port: port})
						shots = append(shots, s)
					}
				}
			}
		}
	}
	tried = len(shots)
	for deadline := time.Now().Add(5 * time.Second); len(shots) > 0; {
		fire(r.t, shots, 250*time.Millisecond)
		shots = slices.DeleteFunc(shots, func(s *shot) bool { return s.opened == want[s].Allowed && s.failed == "" })
		if time.Now().After(deadline) {
			break
		}
	}
	r.complain(shots, want)
	return tried
}

// complain says what was not as the oracle says.
func (r *policiesRig) complain(wrong []*shot, want map[*shot]oracle.Ruling) {
	r.t.Helper()
	slices.SortFunc(wrong, func(a, b *shot) int {
		return strings.Compare(a.from.Name+a.to.String(), b.from.Name+b.to.String())
	})
	for i, s := range wrong {
		if i == 10 {
			r.t.Errorf("... and %d more", len(wrong)-i)
			return
		}
		r.t.Errorf("%s to %s by protocol %d: opened %t %s; %s", s.from.Name, s.to, s.protocol, s.opened, s.failed, want[s])
	}
}

func (r *policiesRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}
