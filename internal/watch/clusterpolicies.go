package watch

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/labels"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/cluster"
)

// maxPriority is the last priority of a tier.
const maxPriority = 1000

// readClusterPolicy reads a ClusterNetworkPolicy. Where it cannot tell whom the policy is about, or when it is asked, it
// is about all that it may be about, first of all, and only its denials count.
func readClusterPolicy(o *policyv1alpha2.ClusterNetworkPolicy) (*cluster.ClusterPolicy, []string) {
	r := &policyReader{}
	p := &cluster.ClusterPolicy{Name: o.Name, Priority: int(o.Spec.Priority)}
	for i, rule := range o.Spec.Ingress {
		peers := make([]policyv1alpha2.ClusterNetworkPolicyEgressPeer, len(rule.From))
		for i, f := range rule.From {
			peers[i].Namespaces, peers[i].Pods = f.Namespaces, f.Pods
		}
		p.Ingress = append(p.Ingress, r.clusterRule(fmt.Sprintf("ingress rule %d", i+1), rule.Name, rule.Action, peers, rule.Protocols))
	}
	for i, rule := range o.Spec.Egress {
		p.Egress = append(p.Egress, r.clusterRule(fmt.Sprintf("egress rule %d", i+1), rule.Name, rule.Action, rule.To, rule.Protocols))
	}
	placed := r.place(p, o.Spec.Tier)
	if about := r.subject(p, &o.Spec.Subject); !placed || !about {
		denyAlone(p.Ingress)
		denyAlone(p.Egress)
	}
	return p, r.problems
}

// place reads when a policy is asked. It returns false if it cannot.
func (r *policyReader) place(p *cluster.ClusterPolicy, tier policyv1alpha2.Tier) bool {
	switch tier {
	case policyv1alpha2.AdminTier:
		p.Tier = cluster.Admin
	case policyv1alpha2.BaselineTier:
		p.Tier = cluster.Baseline
	default:
		r.problem("tier %q is none of Admin and Baseline: the policy counts as the first of Admin, and only what it denies does", string(tier))
		p.Tier, p.Priority = cluster.Admin, 0
		return false
	}
	if p.Priority < 0 || p.Priority > maxPriority {
		wrong := fmt.Sprintf("%d is not 0 to %d", p.Priority, maxPriority)
		if p.Priority == noPriority {
			wrong = "is missing"
		}
		r.problem("priority %s: the policy counts as the first of its tier, and only what it denies does", wrong)
		p.Priority = 0
		return false
	}
	return true
}

// subject reads whom a policy is about. It returns false if it cannot; each selector for itself, which then is all.
func (r *policyReader) subject(p *cluster.ClusterPolicy, o *policyv1alpha2.ClusterNetworkPolicySubject) bool {
	p.Namespaces, p.Pods = labels.Everything(), labels.Everything()
	var namespaces, pods error
	switch {
	case (o.Namespaces == nil) == (o.Pods == nil):
		r.problem("subject has not exactly one of namespaces and pods: it is about all pods, and only what it denies counts")
		return false
	case o.Namespaces != nil:
		p.Namespaces, namespaces = readSelector(o.Namespaces)
	default:
		p.Namespaces, namespaces = readSelector(&o.Pods.NamespaceSelector)
		p.Pods, pods = readSelector(&o.Pods.PodSelector)
	}
	if namespaces != nil {
		p.Namespaces = labels.Everything()
		r.problem("subject: %v: it is about all namespaces, and only what it denies counts", namespaces)
	}
	if pods != nil {
		p.Pods = labels.Everything()
		r.problem("subject: podSelector: %v: it is about all pods of the namespaces, and only what it denies counts", pods)
	}
	return namespaces == nil && pods == nil
}

// denyAlone leaves nothing of rules but what they deny.
func denyAlone(rules []cluster.PolicyRule) {
	for i := range rules {
		if rules[i].Action != cluster.Deny {
			matchesNothing(&rules[i])
		}
	}
}

// errUnknown says that what a rule is about has words that this version does not know. They may mean anything.
var errUnknown = errors.New("has not exactly one field that this version of Polder knows")

// clusterRule reads a rule. If something in it cannot be read, then of a rule that accepts just that matches nothing, or
// nothing at all where it may mean anything; one that denies or passes denies everything.
func (r *policyReader) clusterRule(where, name string, action policyv1alpha2.ClusterNetworkPolicyRuleAction, peers []policyv1alpha2.ClusterNetworkPolicyEgressPeer, protocols []policyv1alpha2.ClusterNetworkPolicyProtocol) cluster.PolicyRule {
	rule := cluster.PolicyRule{Name: name, AllPorts: protocols == nil}
	denyAll := cluster.PolicyRule{Name: name, Action: cluster.Deny, AllPeers: true, AllPorts: true}
	switch action {
	case policyv1alpha2.ClusterNetworkPolicyRuleActionAccept:
	case policyv1alpha2.ClusterNetworkPolicyRuleActionDeny:
		rule.Action = cluster.Deny
	case policyv1alpha2.ClusterNetworkPolicyRuleActionPass:
		rule.Action = cluster.Pass
	default:
		r.problem("%s: action %q is none of Accept, Deny and Pass: the rule denies everything", where, string(action))
		return denyAll
	}
	errs := readClusterPeers(&rule, peers)
	errs = append(errs, readClusterPorts(&rule, peers, protocols)...)
	unknown := false
	for _, err := range errs {
		unknown = unknown || errors.Is(err, errUnknown)
		switch {
		case rule.Action != cluster.Accept:
			r.problem("%s: %v: the rule denies everything", where, err)
		case errors.Is(err, errUnknown):
			r.problem("%s: %v: the rule matches nothing", where, err)
		default:
			r.problem("%s: %v: it matches nothing", where, err)
		}
	}
	switch {
	case len(errs) > 0 && rule.Action != cluster.Accept:
		return denyAll
	case unknown:
		matchesNothing(&rule)
	}
	return rule
}

func readClusterPeers(rule *cluster.PolicyRule, peers []policyv1alpha2.ClusterNetworkPolicyEgressPeer) (errs []error) {
	if len(peers) == 0 {
		errs = append(errs, errors.New("it has no peers"))
	}
	for i := range peers {
		read, bad := readClusterPeer(&peers[i])
		rule.Peers = append(rule.Peers, read...)
		for _, err := range bad {
			errs = append(errs, fmt.Errorf("peer %d: %w", i+1, err))
		}
	}
	return errs
}

// readClusterPeer reads a peer, which may be several blocks. Of those, the good ones count.
func readClusterPeer(o *policyv1alpha2.ClusterNetworkPolicyEgressPeer) (peers []cluster.PolicyPeer, errs []error) {
	var peer cluster.PolicyPeer
	var err error
	switch {
	case count(o.Namespaces != nil, o.Pods != nil, o.Nodes != nil, len(o.Networks) > 0, len(o.DomainNames) > 0) != 1:
		err = errUnknown
	case o.Namespaces != nil:
		peer, err = readPods(o.Namespaces, nil)
	case o.Pods != nil:
		peer, err = readPods(&o.Pods.NamespaceSelector, &o.Pods.PodSelector)
	case o.Nodes != nil:
		peer.Nodes, err = readSelector(o.Nodes)
	case len(o.DomainNames) > 0:
		err = errors.New("domainNames are not supported")
	default:
		for _, s := range o.Networks {
			if peer.Block, err = readNetwork(string(s)); err == nil {
				peers = append(peers, peer)
			} else {
				errs = append(errs, err)
			}
		}
		return peers, errs
	}
	if err != nil {
		return nil, []error{err}
	}
	return []cluster.PolicyPeer{peer}, nil
}

func readClusterPorts(rule *cluster.PolicyRule, peers []policyv1alpha2.ClusterNetworkPolicyEgressPeer, protocols []policyv1alpha2.ClusterNetworkPolicyProtocol) (errs []error) {
	if protocols != nil && len(protocols) == 0 {
		errs = append(errs, errors.New("its list of protocols is empty, which is not the same as none"))
	}
	nameless := false // of some peers, ports have no names
	for _, p := range peers {
		nameless = nameless || p.Nodes != nil || len(p.Networks) > 0 || len(p.DomainNames) > 0
	}
	for i := range protocols {
		port, err := readClusterPort(&protocols[i])
		if err == nil && port.Name != "" && nameless {
			err = errors.New("destinationNamedPort does not go with networks, nodes and domainNames")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("protocol %d: %w", i+1, err))
		} else {
			rule.Ports = append(rule.Ports, port)
		}
	}
	return errs
}

func readClusterPort(o *policyv1alpha2.ClusterNetworkPolicyProtocol) (p cluster.PolicyPort, err error) {
	if count(o.TCP != nil, o.UDP != nil, o.SCTP != nil, o.DestinationNamedPort != "") != 1 {
		return p, errUnknown
	}
	var port *policyv1alpha2.Port
	switch {
	case o.TCP != nil:
		p.Protocol, port = cluster.TCP, o.TCP.DestinationPort
	case o.UDP != nil:
		p.Protocol, port = cluster.UDP, o.UDP.DestinationPort
	case o.SCTP != nil:
		p.Protocol, port = cluster.SCTP, o.SCTP.DestinationPort
	default:
		p.Name = o.DestinationNamedPort
		return p, portName(p.Name)
	}
	switch {
	case port == nil || (port.Number == 0) == (port.Range == nil):
		return p, errUnknown
	case port.Range != nil:
		if p.First, p.Last, err = portRange(port.Range.Start, port.Range.End); err == nil && p.First == p.Last {
			err = fmt.Errorf("ports %d to %d: the last is not behind the first (of one port, say the number)", p.First, p.Last)
		}
	default:
		p.First, p.Last, err = portRange(port.Number, port.Number)
	}
	return p, err
}

// count is how many of them hold.
func count(of ...bool) (n int) {
	for _, holds := range of {
		if holds {
			n++
		}
	}
	return n
}
