package oracle

import (
	"cmp"
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
		rules, at, priority := s.clusterRules(cnp), cnp.Spec.Tier, cnp.Spec.Priority
		sound := isSound(cnp)
		if !isTier(at) {
			at, priority = v1alpha2.AdminTier, 0
		}
		if priority < 0 || priority > 1000 {
			priority = 0
		}
		if at != tier || len(rules) == 0 || !s.isSubject(cnp.Spec.Subject) {
			continue
		}
		a := Asked{Policy: Policy{"ClusterNetworkPolicy", "", cnp.Name}, Tier: Tier(tier), Priority: priority, Rule: -1}
		for i, rule := range rules {
			action, matches := s.ask(rule)
			if matches && (sound || action == v1alpha2.ClusterNetworkPolicyRuleActionDeny) {
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

// isSubject takes a selector that cannot be read for one that selects everything.
func (s side) isSubject(subject v1alpha2.ClusterNetworkPolicySubject) bool {
	inNamespace := func(selector *metav1.LabelSelector) bool {
		return isUnreadable(selector) || s.selectsNamespace(selector, s.subject.Namespace)
	}
	switch {
	case (subject.Namespaces == nil) == (subject.Pods == nil):
		return true
	case subject.Namespaces != nil:
		return inNamespace(subject.Namespaces)
	}
	pods := &subject.Pods.PodSelector
	return inNamespace(&subject.Pods.NamespaceSelector) && (isUnreadable(pods) || selects(pods, s.subject.Labels))
}

func (s side) areAmong(pods *v1alpha2.NamespacedPod, pod *corev1.Pod) bool {
	return s.selectsNamespace(&pods.NamespaceSelector, pod.Namespace) && selects(&pods.PodSelector, pod.Labels)
}

// ask says what a rule does with the packet, and whether it matches.
func (s side) ask(rule clusterRule) (action v1alpha2.ClusterNetworkPolicyRuleAction, matches bool) {
	deny := v1alpha2.ClusterNetworkPolicyRuleActionDeny
	switch {
	case !isAction(rule.action):
		return deny, true
	case rule.action != v1alpha2.ClusterNetworkPolicyRuleActionAccept && rule.isMalformed():
		return deny, true
	case rule.isUnknown():
		return rule.action, false
	}
	return rule.action, slices.ContainsFunc(rule.peers, s.isPeer) &&
		(rule.protocols == nil || slices.ContainsFunc(rule.protocols, func(p v1alpha2.ClusterNetworkPolicyProtocol) bool {
			return !rule.isMalformedProtocol(p) && s.hasProtocol(p)
		}))
}

func (s side) isPeer(p v1alpha2.ClusterNetworkPolicyEgressPeer) bool {
	pod := s.Pod(s.peer)
	switch {
	case p.Namespaces != nil:
		return pod != nil && s.selectsNamespace(p.Namespaces, pod.Namespace)
	case p.Pods != nil:
		return pod != nil && s.areAmong(p.Pods, pod)
	case p.Nodes != nil:
		return slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool {
			return selects(p.Nodes, n.Labels) && slices.Contains(NodeAddresses(n), s.peer)
		})
	}
	return slices.ContainsFunc(p.Networks, func(c v1alpha2.CIDR) bool {
		prefix, ok := parseBlock(string(c))
		return ok && prefix.Contains(s.peer)
	})
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
	at := int32(s.packet.Port)
	if port.Range != nil {
		return s.is(protocol) && port.Range.Start <= at && at <= port.Range.End
	}
	return s.is(protocol) && port.Number == at
}
