package oracle

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// askNetworkPolicies asks those that isolate the subject in this direction, by name.
func (s side) askNetworkPolicies() (all []Asked) {
	for _, np := range s.NetworkPolicies {
		if !isAbout(np, s.subject) || !isolates(np, s.egress) {
			continue
		}
		a := Asked{Policy: Policy{"NetworkPolicy", np.Namespace, np.Name}, Tier: NetworkPolicyTier, Rule: -1}
		if !isUnreadable(&np.Spec.PodSelector) {
			a.Rule = s.firstRule(np)
		}
		if a.Rule >= 0 {
			a.Action = "Accept"
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Asked) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// isAbout takes a selector that cannot be read for one of all pods of the namespace: the policy isolates them, and allows
// nothing.
func isAbout(np *networkingv1.NetworkPolicy, pod *corev1.Pod) bool {
	return np.Namespace == pod.Namespace && (isUnreadable(&np.Spec.PodSelector) || selects(&np.Spec.PodSelector, pod.Labels))
}

// isolates knows the default of policyTypes: ingress always, egress if there are rules for it. A type that nobody knows
// may be either.
func isolates(np *networkingv1.NetworkPolicy, egress bool) bool {
	types := np.Spec.PolicyTypes
	switch {
	case len(types) == 0:
		return !egress || len(np.Spec.Egress) > 0
	case slices.ContainsFunc(types, func(t networkingv1.PolicyType) bool {
		return t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress
	}):
		return true
	case egress:
		return slices.Contains(types, networkingv1.PolicyTypeEgress)
	}
	return slices.Contains(types, networkingv1.PolicyTypeIngress)
}

func (s side) firstRule(np *networkingv1.NetworkPolicy) int {
	if s.egress {
		return slices.IndexFunc(np.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool {
			return s.isAmong(np.Namespace, r.To) && s.hasPortOf(r.Ports)
		})
	}
	return slices.IndexFunc(np.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool {
		return s.isAmong(np.Namespace, r.From) && s.hasPortOf(r.Ports)
	})
}

func (s side) isAmong(namespace string, peers []networkingv1.NetworkPolicyPeer) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		if p.IPBlock != nil {
			return p.PodSelector == nil && p.NamespaceSelector == nil && inBlock(s.peer, p.IPBlock)
		}
		pod := s.Pod(s.peer)
		if pod == nil || p.PodSelector == nil && p.NamespaceSelector == nil {
			return false
		}
		if p.NamespaceSelector == nil && pod.Namespace != namespace {
			return false
		}
		return (p.NamespaceSelector == nil || s.selectsNamespace(p.NamespaceSelector, pod.Namespace)) &&
			(p.PodSelector == nil || selects(p.PodSelector, pod.Labels))
	})
}

// inBlock is false of a block that cannot be read.
func inBlock(a netip.Addr, block *networkingv1.IPBlock) bool {
	cidr, ok := parseBlock(block.CIDR)
	if !ok || !cidr.Contains(a) {
		return false
	}
	for _, text := range block.Except {
		except, ok := parseBlock(text)
		within := ok && cidr.Contains(except.Addr()) && except.Bits() >= cidr.Bits()
		if !within || except.Contains(a) {
			return false
		}
	}
	return true
}

func (s side) hasPortOf(ports []networkingv1.NetworkPolicyPort) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		if !s.is(protocol) {
			return false
		}
		switch port := int32(s.packet.Port); {
		case p.Port == nil:
			return p.EndPort == nil
		case p.Port.Type == intstr.String:
			return p.EndPort == nil && isPortName(p.Port.StrVal) && s.isNamed(p.Port.StrVal)
		case p.EndPort == nil:
			return isPort(p.Port.IntVal) && p.Port.IntVal == port
		default:
			return isPort(p.Port.IntVal) && isPort(*p.EndPort) && p.Port.IntVal <= port && port <= *p.EndPort
		}
	})
}

// isNamed says whether the destination is a pod that calls the packet's port so.
func (s side) isNamed(name string) bool {
	pod := s.Pod(s.packet.Dst)
	return pod != nil && slices.ContainsFunc(PodPorts(pod), func(p corev1.ContainerPort) bool {
		protocol := p.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		return p.Name == name && s.is(protocol) && p.ContainerPort == int32(s.packet.Port)
	})
}

// PodPorts are those of a pod's containers that stay: init containers that go on beside the others are among them.
func PodPorts(pod *corev1.Pod) (all []corev1.ContainerPort) {
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, c.Ports...)
		}
	}
	for _, c := range pod.Spec.Containers {
		all = append(all, c.Ports...)
	}
	return all
}

func isPortName(name string) bool { return len(validation.IsValidPortName(name)) == 0 }

func isPort(n int32) bool { return n >= 1 && n <= 65535 }

func (s side) is(p corev1.Protocol) bool { return number(p) != 0 && number(p) == s.packet.Protocol }

// number is a protocol's in an IP header; 0 of one that policies do not know.
func number(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolTCP:
		return 6
	case corev1.ProtocolUDP:
		return 17
	case corev1.ProtocolSCTP:
		return 132
	}
	return 0
}

// selects is false of a selector that cannot be read.
func selects(selector *metav1.LabelSelector, set map[string]string) bool {
	sel, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && sel.Matches(labels.Set(set))
}

func isUnreadable(selector *metav1.LabelSelector) bool {
	_, err := metav1.LabelSelectorAsSelector(selector)
	return err != nil
}

func (o *Objects) selectsNamespace(selector *metav1.LabelSelector, name string) bool {
	if o.UnreadNamespaces[name] {
		return len(selector.MatchLabels) == 0 && len(selector.MatchExpressions) == 0
	}
	return selects(selector, o.namespaceLabels(name))
}

// namespaceLabels have the namespace's name, which the API server puts there.
func (o *Objects) namespaceLabels(name string) map[string]string {
	set := map[string]string{corev1.LabelMetadataName: name}
	for _, ns := range o.Namespaces {
		if ns.Name == name {
			for key, value := range ns.Labels {
				set[key] = value
			}
		}
	}
	return set
}
