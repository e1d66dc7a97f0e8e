package oracle

import (
	"net/netip"
	"slices"

	"sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// What an API server would not take may be in a folder, and what a later version of the API knows looks as if there were
// nothing. All of it fails closed: a rule accepts less, or denies everything.

// isSound says whether it is plain when a policy is asked and of whom. Of others, only denials count.
func isSound(cnp *v1alpha2.ClusterNetworkPolicy) bool {
	of := cnp.Spec.Subject
	switch {
	case !isTier(cnp.Spec.Tier) || cnp.Spec.Priority < 0 || cnp.Spec.Priority > 1000 || (of.Namespaces == nil) == (of.Pods == nil):
		return false
	case of.Namespaces != nil:
		return !isUnreadable(of.Namespaces)
	}
	return !isUnreadable(&of.Pods.NamespaceSelector) && !isUnreadable(&of.Pods.PodSelector)
}

func isTier(t v1alpha2.Tier) bool { return t == v1alpha2.AdminTier || t == v1alpha2.BaselineTier }

func isAction(a v1alpha2.ClusterNetworkPolicyRuleAction) bool {
	return slices.Contains([]v1alpha2.ClusterNetworkPolicyRuleAction{v1alpha2.ClusterNetworkPolicyRuleActionAccept,
		v1alpha2.ClusterNetworkPolicyRuleActionDeny, v1alpha2.ClusterNetworkPolicyRuleActionPass}, a)
}

// isMalformed: something in the rule cannot be honoured.
func (r clusterRule) isMalformed() bool {
	return len(r.peers) == 0 || slices.ContainsFunc(r.peers, isMalformedPeer) ||
		r.protocols != nil && len(r.protocols) == 0 || slices.ContainsFunc(r.protocols, r.isMalformedProtocol)
}

// isUnknown: something in it may mean anything.
func (r clusterRule) isUnknown() bool {
	return slices.ContainsFunc(r.peers, isUnknownPeer) || slices.ContainsFunc(r.protocols, isUnknownProtocol)
}

func isUnknownPeer(p v1alpha2.ClusterNetworkPolicyEgressPeer) bool {
	return count(p.Namespaces != nil, p.Pods != nil, p.Nodes != nil, len(p.Networks) > 0, len(p.DomainNames) > 0) != 1
}

func isUnknownProtocol(p v1alpha2.ClusterNetworkPolicyProtocol) bool {
	for _, of := range []struct {
		said bool
		port func() *v1alpha2.Port
	}{
		{p.TCP != nil, func() *v1alpha2.Port { return p.TCP.DestinationPort }},
		{p.UDP != nil, func() *v1alpha2.Port { return p.UDP.DestinationPort }},
		{p.SCTP != nil, func() *v1alpha2.Port { return p.SCTP.DestinationPort }},
	} {
		if of.said && (of.port() == nil || (of.port().Number == 0) == (of.port().Range == nil)) {
			return true
		}
	}
	return count(p.TCP != nil, p.UDP != nil, p.SCTP != nil, p.DestinationNamedPort != "") != 1
}

// isMalformedPeer: names of domains are among what cannot be honoured.
func isMalformedPeer(p v1alpha2.ClusterNetworkPolicyEgressPeer) bool {
	switch {
	case isUnknownPeer(p):
		return true
	case p.Namespaces != nil:
		return isUnreadable(p.Namespaces)
	case p.Pods != nil:
		return isUnreadable(&p.Pods.NamespaceSelector) || isUnreadable(&p.Pods.PodSelector)
	case p.Nodes != nil:
		return isUnreadable(p.Nodes)
	}
	return len(p.DomainNames) > 0 || slices.ContainsFunc(p.Networks, func(c v1alpha2.CIDR) bool {
		_, ok := parseBlock(string(c))
		return !ok
	})
}

// parseBlock reads a CIDR. One of IPv4 in IPv6 is none.
func parseBlock(text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	return p, err == nil && !p.Addr().Is4In6()
}

// isMalformedProtocol: a name does not go with peers whose ports have none.
func (r clusterRule) isMalformedProtocol(p v1alpha2.ClusterNetworkPolicyProtocol) bool {
	if isUnknownProtocol(p) {
		return true
	}
	nameless := slices.ContainsFunc(r.peers, func(p v1alpha2.ClusterNetworkPolicyEgressPeer) bool {
		return p.Nodes != nil || len(p.Networks) > 0 || len(p.DomainNames) > 0
	})
	switch {
	case p.TCP != nil:
		return !isRange(p.TCP.DestinationPort)
	case p.UDP != nil:
		return !isRange(p.UDP.DestinationPort)
	case p.SCTP != nil:
		return !isRange(p.SCTP.DestinationPort)
	}
	return nameless || !isPortName(p.DestinationNamedPort)
}

// isRange: a range has more than one port.
func isRange(p *v1alpha2.Port) bool {
	if p.Range != nil {
		return isPort(p.Range.Start) && isPort(p.Range.End) && p.Range.Start < p.Range.End
	}
	return isPort(p.Number)
}

func count(of ...bool) (n int) {
	for _, holds := range of {
		if holds {
			n++
		}
	}
	return n
}
