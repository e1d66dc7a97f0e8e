package oracle

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// clusterRule is a rule of either direction. An ingress rule's peers have fewer fields.
type clusterRule struct {
	name      string
	action    v1alpha2.ClusterNetworkPolicyRuleAction
	peers     []v1alpha2.ClusterNetworkPolicyEgressPeer
	protocols []v1alpha2.ClusterNetworkPolicyProtocol
}

// askCluster asks the policies of a tier that have rules for the subject in this direction: by priority, then name.
func (s side) askCluster(tier v1alpha2.Tier) (all []Asked) {
	for _, cnp := range s.ClusterPolicies {
		rules := s.clusterRules(cnp)
		if cnp.Spec.Tier != tier || len(rules) == 0 || !s.isSubject(cnp.Spec.Subject) {
			continue
		}
		a := Asked{Policy: Policy{"ClusterNetworkPolicy", "", cnp.Name}, Tier: Tier(tier), Priority: cnp.Spec.Priority, Rule: -1}
		for i, rule := range rules {
			if action, matches := s.ask(rule); matches {
				a.Rule, a.RuleName, a.Action = i, rule.name, string(action)
				break
			}
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Asked) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), strings.Compare(a.Name, b.Name))
	})
	return all
}

func (s side) clusterRules(cnp *v1alpha2.ClusterNetworkPolicy) (rules []clusterRule) {
	if s.egress {
		for _, r := range cnp.Spec.Egress {
			rules = append(rules, clusterRule{r.Name, r.Action, r.To, r.Protocols})
		}
		return rules
	}
	for _, r := range cnp.Spec.Ingress {
		rule := clusterRule{r.Name, r.Action, nil, r.Protocols}
		for _, from := range r.From {
			rule.peers = append(rule.peers, v1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: from.Namespaces, Pods: from.Pods})
		}
		rules = append(rules, rule)
	}
	return rules
}

func (s side) isSubject(subject v1alpha2.ClusterNetworkPolicySubject) bool {
	switch {
	case subject.Namespaces != nil:
		return selects(subject.Namespaces, s.namespaceLabels(s.subject.Namespace))
	case subject.Pods != nil:
		return s.areAmong(subject.Pods, s.subject)
	}
	return false
}

func (s side) areAmong(pods *v1alpha2.NamespacedPod, pod *corev1.Pod) bool {
	return selects(&pods.NamespaceSelector, s.namespaceLabels(pod.Namespace)) && selects(&pods.PodSelector, pod.Labels)
}

// ask says what a rule does with the packet, and whether it matches. One that says something that is not understood
// fails closed: it accepts nothing, or denies everything.
func (s side) ask(rule clusterRule) (action v1alpha2.ClusterNetworkPolicyRuleAction, matches bool) {
	if !slices.ContainsFunc(rule.peers, isUnknownPeer) && !slices.ContainsFunc(rule.protocols, isUnknownProtocol) && isAction(rule.action) {
		return rule.action, slices.ContainsFunc(rule.peers, s.isPeer) &&
			(len(rule.protocols) == 0 || slices.ContainsFunc(rule.protocols, s.hasProtocol))
	}
	return v1alpha2.ClusterNetworkPolicyRuleActionDeny, rule.action != v1alpha2.ClusterNetworkPolicyRuleActionAccept
}

func isAction(a v1alpha2.ClusterNetworkPolicyRuleAction) bool {
	return slices.Contains([]v1alpha2.ClusterNetworkPolicyRuleAction{v1alpha2.ClusterNetworkPolicyRuleActionAccept,
		v1alpha2.ClusterNetworkPolicyRuleActionDeny, v1alpha2.ClusterNetworkPolicyRuleActionPass}, a)
}

// isUnknownPeer: domain names are as unknown as what a later version of the API brings.
func isUnknownPeer(p v1alpha2.ClusterNetworkPolicyEgressPeer) bool {
	unreadable := func(sel *metav1.LabelSelector) bool {
		_, err := metav1.LabelSelectorAsSelector(sel)
		return err != nil
	}
	switch {
	case len(p.DomainNames) > 0:
		return true
	case p.Namespaces != nil:
		return unreadable(p.Namespaces)
	case p.Pods != nil:
		return unreadable(&p.Pods.NamespaceSelector) || unreadable(&p.Pods.PodSelector)
	case p.Nodes != nil:
		return unreadable(p.Nodes)
	}
	return len(p.Networks) == 0 || slices.ContainsFunc(p.Networks, func(c v1alpha2.CIDR) bool {
		_, err := netip.ParsePrefix(string(c))
		return err != nil
	})
}

func (s side) isPeer(p v1alpha2.ClusterNetworkPolicyEgressPeer) bool {
	pod := s.Pod(s.peer)
	switch {
	case p.Namespaces != nil:
		return pod != nil && selects(p.Namespaces, s.namespaceLabels(pod.Namespace))
	case p.Pods != nil:
		return pod != nil && s.areAmong(p.Pods, pod)
	case p.Nodes != nil:
		return slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool {
			return selects(p.Nodes, n.Labels) && slices.Contains(NodeAddresses(n), s.peer)
		})
	}
	return slices.ContainsFunc(p.Networks, func(c v1alpha2.CIDR) bool {
		prefix, err := netip.ParsePrefix(string(c))
		return err == nil && prefix.Contains(s.peer)
	})
}

func isUnknownProtocol(p v1alpha2.ClusterNetworkPolicyProtocol) bool {
	return p.TCP == nil && p.UDP == nil && p.SCTP == nil && p.DestinationNamedPort == ""
}

func (s side) hasProtocol(p v1alpha2.ClusterNetworkPolicyProtocol) bool {
	switch {
	case p.TCP != nil:
		return s.hasPort(corev1.ProtocolTCP, p.TCP.DestinationPort)
	case p.UDP != nil:
		return s.hasPort(corev1.ProtocolUDP, p.UDP.DestinationPort)
	case p.SCTP != nil:
		return s.hasPort(corev1.ProtocolSCTP, p.SCTP.DestinationPort)
	}
	return s.isNamed(p.DestinationNamedPort)
}

func (s side) hasPort(protocol corev1.Protocol, port *v1alpha2.Port) bool {
	if number(protocol) != s.packet.Protocol {
		return false
	}
	switch at := int32(s.packet.Port); {
	case port == nil:
		return true
	case port.Range != nil:
		return port.Range.Start <= at && at <= port.Range.End
	default:
		return port.Number == at
	}
}
