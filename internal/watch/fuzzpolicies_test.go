package watch

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/cluster"
)

// mustJudge checks what the core relies on in policies.
func mustJudge(t *testing.T, s *cluster.Snapshot) {
	t.Helper()
	for name, p := range s.NetworkPolicies.All() {
		if p.Name != name || p.Subject == nil || p.Ingress == nil && p.Egress == nil {
			t.Errorf("policy %s: %+v", name, p)
		}
		for _, rules := range []*cluster.PolicyRules{p.Ingress, p.Egress} {
			if rules != nil {
				mustRule(t, name, rules.Rules, true)
			}
		}
	}
	for name, p := range s.ClusterPolicies.All() {
		if p.Name != name.Name || name.Namespace != "" || p.Namespaces == nil || p.Pods == nil || p.Priority < 0 || p.Priority > maxPriority || p.Tier > cluster.Baseline {
			t.Errorf("cluster policy %s: %+v", name, p)
		}
		mustRule(t, name, p.Ingress, false)
		mustRule(t, name, p.Egress, false)
	}
}

func mustRule(t *testing.T, of cluster.Name, rules []cluster.PolicyRule, accept bool) {
	t.Helper()
	for i, r := range rules {
		if accept && r.Action != cluster.Accept || r.Action > cluster.Pass || r.AllPeers && len(r.Peers) > 0 || r.AllPorts && len(r.Ports) > 0 {
			t.Errorf("%s, rule %d: %+v", of, i, r)
		}
		for _, p := range r.Peers {
			mustPeer(t, of, p)
		}
		for _, p := range r.Ports {
			known := p.Protocol == cluster.TCP || p.Protocol == cluster.UDP || p.Protocol == cluster.SCTP
			if p.First > p.Last || p.Name != "" && p.Last != 0 || p.Name == "" && (p.Last == 0 || !known) || !known && p.Protocol != 0 {
				t.Errorf("%s, rule %d: port %+v", of, i, p)
			}
		}
	}
}

func mustPeer(t *testing.T, of cluster.Name, p cluster.PolicyPeer) {
	t.Helper()
	if count(p.Pods != nil, p.Nodes != nil, p.Block.IsValid()) != 1 || p.Pods == nil && p.Namespaces != nil {
		t.Errorf("%s: peer %+v", of, p)
	}
	if p.Block != p.Block.Masked() || p.Block.Addr().Is4In6() {
		t.Errorf("%s: block %v", of, p.Block)
	}
	for _, e := range p.Except {
		if e != e.Masked() || e.Bits() < p.Block.Bits() || !p.Block.Contains(e.Addr()) {
			t.Errorf("%s: block %v except %v", of, p.Block, e)
		}
	}
}

// FuzzPolicy reads policies with any values in their fields. Whatever they are: a rule that says for whom it is does not
// become one for everybody, and what denied or passed something does not let it through.
func FuzzPolicy(f *testing.F) {
	f.Add("a", "In", "b", "10.0.0.0/8", "10.1.0.0/16", "TCP", int32(80), int32(90), "http", "Ingress", "Accept", "Admin", uint16(0))
	f.Add("", "Exists", "", "::/0", "x", "", int32(0), int32(65536), "80", "Egress", "Deny", "Baseline", uint16(0xffff))
	f.Add("a/b", "DoesNotExist", "c", "::ffff:1.2.3.4/100", "0.0.0.0/0", "SCTP", int32(-1), int32(1), "", "", "Pass", "", uint16(0x5555))
	f.Add("a", "NotIn", "b", "010.0.0.0/8", "", "udp", int32(9), int32(8), "a_b", "ingress", "Log", "admin", uint16(0xaaaa))
	f.Fuzz(func(t *testing.T, key, operator, value, cidr, except, protocol string, port, end int32, name, direction, action, tier string, bits uint16) {
		selector := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOperator(operator), Values: []string{value}}}}
		bit := func(n int) bool { return bits>>n&1 != 0 }
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}
		if bit(0) {
			p.Spec.PodSelector = *selector
		}
		if bit(1) {
			p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyType(direction)}
		}
		var peer networkingv1.NetworkPolicyPeer
		if bit(2) {
			peer.PodSelector = selector
		}
		if bit(3) {
			peer.NamespaceSelector = selector
		}
		if bit(4) {
			peer.IPBlock = &networkingv1.IPBlock{CIDR: cidr, Except: []string{except}}
		}
		number, tcp := intstr.FromInt32(port), corev1.Protocol(protocol)
		if bit(5) {
			number = intstr.FromString(name)
		}
		ports := []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: &number}}
		if bit(6) {
			ports[0].EndPort = &end
		}
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}, Ports: ports}}
		p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{peer}, Ports: ports}}

		c := fuzzedClusterPolicy(selector, cidr, name, action, tier, port, end, bit)
		s := SnapshotOf(p, c)
		mustJudge(t, s)
		for _, rules := range []*cluster.PolicyRules{s.NetworkPolicies.Get(cluster.Name{Namespace: "ns", Name: "p"}).Ingress, s.NetworkPolicies.Get(cluster.Name{Namespace: "ns", Name: "p"}).Egress} {
			if rules != nil && len(rules.Rules) > 0 && (rules.Rules[0].AllPeers || rules.Rules[0].AllPorts) {
				t.Errorf("a rule for everybody: %+v", rules.Rules[0])
			}
		}
		rule := s.ClusterPolicies.Get(cluster.Name{Name: "c"}).Egress[0]
		if accepts := action == "Accept"; accepts != (rule.Action == cluster.Accept) || accepts && (rule.AllPeers || rule.AllPorts) {
			t.Errorf("action %q became %+v", action, rule)
		}
		if nothing := len(rule.Peers) == 0 && !rule.AllPeers; action == "Deny" && nothing {
			t.Errorf("a rule that denies matches nothing: %+v", rule)
		}
		for _, p := range s.Problems {
			if p.Message == "" || strings.Contains(p.Message, "\n") {
				t.Errorf("problem %q", p.Message)
			}
		}
	})
}

func fuzzedClusterPolicy(selector *metav1.LabelSelector, cidr, name, action, tier string, port, end int32, bit func(int) bool) *policyv1alpha2.ClusterNetworkPolicy {
	c := &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "c"}}
	c.Spec.Tier, c.Spec.Priority = policyv1alpha2.Tier(tier), port
	if bit(7) {
		c.Spec.Subject.Namespaces = selector
	}
	if bit(8) {
		c.Spec.Subject.Pods = &policyv1alpha2.NamespacedPod{PodSelector: *selector}
	}
	var peer policyv1alpha2.ClusterNetworkPolicyEgressPeer
	if bit(9) {
		peer.Nodes = selector
	}
	if bit(10) {
		peer.Networks = []policyv1alpha2.CIDR{policyv1alpha2.CIDR(cidr)}
	}
	if bit(11) {
		peer.Pods = &policyv1alpha2.NamespacedPod{NamespaceSelector: *selector}
	}
	if bit(12) {
		peer.DomainNames = []policyv1alpha2.DomainName{"example.org"}
	}
	protocol := policyv1alpha2.ClusterNetworkPolicyProtocol{}
	if bit(13) {
		protocol.DestinationNamedPort = name
	}
	if bit(14) {
		protocol.UDP = &policyv1alpha2.ClusterNetworkPolicyProtocolUDP{DestinationPort: &policyv1alpha2.Port{Number: port}}
	}
	if bit(15) {
		protocol.SCTP = &policyv1alpha2.ClusterNetworkPolicyProtocolSCTP{DestinationPort: &policyv1alpha2.Port{Range: &policyv1alpha2.PortRange{Start: port, End: end}}}
	}
	c.Spec.Egress = []policyv1alpha2.ClusterNetworkPolicyEgressRule{{
		Action: policyv1alpha2.ClusterNetworkPolicyRuleAction(action), To: []policyv1alpha2.ClusterNetworkPolicyEgressPeer{peer},
		Protocols: []policyv1alpha2.ClusterNetworkPolicyProtocol{protocol},
	}}
	return c
}
