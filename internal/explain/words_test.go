package explain

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/oracle/cases"
)

// closed isolates all pods' ingress but from blocks.
func closed(blocks ...string) []*networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "closed"}}
	np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	for _, b := range blocks {
		peer := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: b}}
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: []networkingv1.NetworkPolicyPeer{peer}})
	}
	return []*networkingv1.NetworkPolicy{np}
}

func TestAVerdictSaysWhichFamilyItIsAbout(t *testing.T) {
	c := street(func(*cluster.Service) {})
	for i, p := range c.objects.Pods[:2] {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: fmt.Sprintf("fd00:%d::2", i+1)})
	}
	for blocks, want := range map[string]string{
		"10.1.0.0/24":             "allowed by IPv4, denied by IPv6: ingress to ns/far, isolated by NetworkPolicy/ns/closed",
		"fd00:1::/64":             "allowed by IPv6, denied by IPv4: ingress to ns/far, isolated by NetworkPolicy/ns/closed",
		"10.1.0.0/24 fd00:1::/64": "allowed",
		"10.9.0.0/24":             "denied: ingress to ns/far, isolated by NetworkPolicy/ns/closed",
	} {
		c.objects.NetworkPolicies = closed(strings.Fields(blocks)...)
		c = New(c.objects, c.nodes, c.services, nil)
		a, err := c.Ask(Question{From: "ns/near", To: "ns/far", Port: "1", Protocol: cluster.TCP})
		if err != nil || a.Verdict != want {
			t.Errorf("from %s: %v, %q, want %q", blocks, err, a.Verdict, want)
		}
	}
}

func TestAClientOfAnotherNodesPortIsToldWhoseAddressPoliciesSee(t *testing.T) {
	const see = "policies see the client's address, 198.51.100.1; with --routing native or --services off they may see "
	c := street(func(*cluster.Service) {})
	for _, q := range []struct{ blocks, to, way, note string }{
		{"198.51.100.0/24", "node/node-1", "to node-1, which hands it over to node-2", see + "node-1's own instead, and deny it"},
		{"172.18.0.1/32", "node/node-1", "to node-1, which hands it over to node-2", see + "node-1's own instead, and allow it"},
		{"0.0.0.0/0", "node/node-1", "to node-1, which hands it over to node-2", see + "node-1's own instead"},
		{"0.0.0.0/0", "node/node-2", "to node-2", ""},
		{"198.51.100.0/24", "192.0.2.10", "to node-2, by way of whichever node it comes to", see + "that node's own instead, and deny it"},
	} {
		c.objects.NetworkPolicies = closed(q.blocks)
		port := "30080"
		if q.to == "192.0.2.10" {
			port = "80"
		}
		a, err := c.Ask(Question{From: "198.51.100.1", To: q.to, Port: port, Protocol: cluster.TCP})
		if err != nil || len(a.Ways) != 1 || !slices.Equal(a.Ways[0].Routes, []string{"from outside the cluster " + q.way}) ||
			strings.Join(a.Ways[0].Notes, "; ") != q.note {
			t.Errorf("%s, open to %s: %v, %+v", q.to, q.blocks, err, a)
		}
	}
}

func TestSeveralPodsAreSpokenOfAsSeveral(t *testing.T) {
	for _, s := range []struct {
		Side
		want string
	}{
		{Side{Pods: []string{"a"}, Reason: "isolated", Decided: []string{"x"}}, "is denied: x isolates it, and none of its rules matches"},
		{Side{Pods: []string{"a", "b"}, Reason: "isolated", Decided: []string{"x"}}, "are denied: x isolates them, and none of its rules matches"},
		{Side{Pods: []string{"a", "b"}, Reason: "isolated", Decided: []string{"x", "y"}}, "are denied: x, y isolate them, and none of their rules matches"},
		{Side{Pods: []string{"a", "b"}, Reason: "rule", Decided: []string{"x"}, Rule: 1, Allowed: true}, "are allowed by x, rule 1"},
		{Side{Pods: []string{"a", "b"}, Reason: "default", Allowed: true}, "are allowed: no policy isolates their egress"},
	} {
		if got := s.Because("egress"); got != s.want {
			t.Errorf("%q, want %q", got, s.want)
		}
	}
}

// Without the policies that are said not to be asked, all is judged as it was.
func TestPoliciesThatAreNotAskedChangeNothing(t *testing.T) {
	seed := rand.Uint64()
	dice, unasked := cases.NewDice(seed), 0
	for range 200 {
		o := dice.Cluster()
		for range 20 {
			packet := dice.Packet(o)
			before := o.Judge(packet)
			for _, j := range []*oracle.Judgement{before.Egress, before.Ingress} {
				side := New(*o, nil, nil, nil).side(j)
				if side == nil {
					continue
				}
				without, gone := withoutUnasked(*o, side)
				unasked += gone
				after := without.Judge(packet).Ingress
				if j.Egress {
					after = without.Judge(packet).Egress
				}
				if again := New(without, nil, nil, nil).side(after); again.Because("egress") != side.Because("egress") || again.Allowed != side.Allowed {
					t.Fatalf("seed %d: %+v: %+v, without those that are not asked %+v", seed, packet, side, again)
				}
			}
		}
	}
	if unasked == 0 {
		t.Error("all policies are always asked")
	}
}

func withoutUnasked(o oracle.Objects, s *Side) (oracle.Objects, int) {
	gone := map[string]bool{}
	for _, p := range s.Policies {
		gone[p.Object] = p.NotReached
	}
	n := len(o.NetworkPolicies) + len(o.ClusterPolicies)
	o.NetworkPolicies = slices.DeleteFunc(slices.Clone(o.NetworkPolicies), func(p *networkingv1.NetworkPolicy) bool {
		return gone["NetworkPolicy/"+p.Namespace+"/"+p.Name]
	})
	o.ClusterPolicies = slices.DeleteFunc(slices.Clone(o.ClusterPolicies), func(p *v1alpha2.ClusterNetworkPolicy) bool {
		return gone["ClusterNetworkPolicy/"+p.Name]
	})
	return o, n - len(o.NetworkPolicies) - len(o.ClusterPolicies)
}
