package watch

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/polder-net/polder/internal/cluster"
)

// policyReader reads a policy. What it cannot read lets nothing through that would not pass without it, and is noted.
// An empty list and one that is not there are the same in these objects, "all"; of a list that only becomes empty since
// nothing in it can be read, nothing is what matches (CVE-2025-64715).
type policyReader struct{ problems []string }

func (r *policyReader) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.problems = append(r.problems, strings.Join(strings.Fields(text), " ")) // one line, which selectors' errors are not
}

// readNetworkPolicy reads a NetworkPolicy, with the values that an API server gives what is left out. If it cannot tell
// whom the policy selects, it is all pods of the namespace, and none of its rules allow them anything.
func readNetworkPolicy(o *networkingv1.NetworkPolicy) (*cluster.NetworkPolicy, []string) {
	r := &policyReader{}
	p := &cluster.NetworkPolicy{Name: cluster.Name{Namespace: o.Namespace, Name: o.Name}}
	ingress, egress := r.directions(&o.Spec)
	subject, err := readSelector(&o.Spec.PodSelector)
	if err != nil {
		r.problem("podSelector: %v: every pod of the namespace is selected, and no rule counts", err)
		return isolateAll(p.Name, labels.Everything(), ingress, egress), r.problems
	}
	p.Subject = subject
	if ingress {
		p.Ingress = &cluster.PolicyRules{}
		for i, rule := range o.Spec.Ingress {
			p.Ingress.Rules = append(p.Ingress.Rules, r.rule(fmt.Sprintf("ingress rule %d", i+1), rule.From, rule.Ports))
		}
	}
	if egress {
		p.Egress = &cluster.PolicyRules{}
		for i, rule := range o.Spec.Egress {
			p.Egress.Rules = append(p.Egress.Rules, r.rule(fmt.Sprintf("egress rule %d", i+1), rule.To, rule.Ports))
		}
	}
	return p, r.problems
}

// isolateAll is a policy that allows nothing.
func isolateAll(name cluster.Name, subject labels.Selector, ingress, egress bool) *cluster.NetworkPolicy {
	p := &cluster.NetworkPolicy{Name: name, Subject: subject}
	if ingress {
		p.Ingress = &cluster.PolicyRules{}
	}
	if egress {
		p.Egress = &cluster.PolicyRules{}
	}
	return p
}

// directions says which directions a policy isolates. One whose name cannot be read might be either.
func (r *policyReader) directions(spec *networkingv1.NetworkPolicySpec) (ingress, egress bool) {
	if len(spec.PolicyTypes) == 0 {
		return true, len(spec.Egress) > 0
	}
	for _, t := range spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			ingress = true
		case networkingv1.PolicyTypeEgress:
			egress = true
		default:
			r.problem("policyTypes: %q is none of Ingress and Egress: both directions are isolated", string(t))
			return true, true
		}
	}
	return ingress, egress
}

func (r *policyReader) rule(where string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) cluster.PolicyRule {
	rule := cluster.PolicyRule{AllPeers: len(peers) == 0, AllPorts: len(ports) == 0}
	for i := range peers {
		if peer, err := readPeer(&peers[i]); err != nil {
			r.problem("%s, peer %d: %v: it matches nothing", where, i+1, err)
		} else {
			rule.Peers = append(rule.Peers, peer)
		}
	}
	for i := range ports {
		if port, err := readPolicyPort(&ports[i]); err != nil {
			r.problem("%s, port %d: %v: it matches nothing", where, i+1, err)
		} else {
			rule.Ports = append(rule.Ports, port)
		}
	}
	return rule
}

func readPeer(o *networkingv1.NetworkPolicyPeer) (cluster.PolicyPeer, error) {
	switch selects := o.PodSelector != nil || o.NamespaceSelector != nil; {
	case selects && o.IPBlock != nil:
		return cluster.PolicyPeer{}, errors.New("it has selectors and an ipBlock, of which it can have one")
	case o.IPBlock != nil:
		return readBlock(o.IPBlock.CIDR, o.IPBlock.Except)
	case !selects:
		return cluster.PolicyPeer{}, errors.New("it has neither selectors nor an ipBlock")
	}
	return readPods(o.NamespaceSelector, o.PodSelector)
}

// readPods reads whom a pair of selectors selects. Without pods it is all; without namespaces, those of the policy's own.
func readPods(namespaces, pods *metav1.LabelSelector) (p cluster.PolicyPeer, err error) {
	p.Pods = labels.Everything()
	if pods != nil {
		if p.Pods, err = readSelector(pods); err != nil {
			return cluster.PolicyPeer{}, fmt.Errorf("podSelector: %w", err)
		}
	}
	if namespaces != nil {
		if p.Namespaces, err = readSelector(namespaces); err != nil {
			return cluster.PolicyPeer{}, fmt.Errorf("namespaceSelector: %w", err)
		}
	}
	return p, nil
}

func readBlock(cidr string, except []string) (p cluster.PolicyPeer, err error) {
	if p.Block, err = readNetwork(cidr); err != nil {
		return cluster.PolicyPeer{}, err
	}
	for _, s := range except {
		e, err := readNetwork(s)
		if err == nil && (e.Bits() < p.Block.Bits() || !p.Block.Contains(e.Addr())) {
			err = fmt.Errorf("except %q is not within %s", s, p.Block)
		}
		if err != nil {
			return cluster.PolicyPeer{}, err
		}
		p.Except = append(p.Except, e)
	}
	return p, nil
}

// readNetwork reads a block of addresses. Any will do, as far as it says one thing to everybody: no leading zeros, and
// no IPv4 in IPv6.
func readNetwork(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", s)
	}
	return p.Masked(), nil
}

func readPolicyPort(o *networkingv1.NetworkPolicyPort) (p cluster.PolicyPort, err error) {
	p.Protocol = cluster.TCP
	if o.Protocol != nil {
		if p.Protocol, err = policyProtocol(*o.Protocol); err != nil {
			return cluster.PolicyPort{}, err
		}
	}
	named := o.Port != nil && o.Port.Type == intstr.String
	switch {
	case o.EndPort != nil && (o.Port == nil || named):
		return cluster.PolicyPort{}, errors.New("endPort goes with a port that is a number")
	case o.Port == nil:
		p.Last = math.MaxUint16
		return p, nil
	case named:
		p.Name = o.Port.StrVal
		return p, portName(p.Name)
	}
	last := o.Port.IntVal
	if o.EndPort != nil {
		last = *o.EndPort
	}
	p.First, p.Last, err = portRange(o.Port.IntVal, last)
	return p, err
}

// policyProtocol reads a protocol that is said: an empty one is none.
func policyProtocol(p corev1.Protocol) (cluster.Protocol, error) {
	if p == "" {
		return 0, errors.New("the protocol is empty")
	}
	return parseProtocol(p)
}

func portName(s string) error {
	if len(validation.IsValidPortName(s)) > 0 {
		return fmt.Errorf("%q is neither a port's name nor a number", s)
	}
	return nil
}

func portRange(first, last int32) (uint16, uint16, error) {
	a, ok := portNumber(first)
	b, also := portNumber(last)
	switch {
	case !ok:
		return 0, 0, fmt.Errorf("%d is not a port", first)
	case !also:
		return 0, 0, fmt.Errorf("%d is not a port", last)
	case b < a:
		return 0, 0, fmt.Errorf("ports %d to %d: the last is before the first", first, last)
	}
	return a, b, nil
}

// matchesNothing takes from a rule all that it matches.
func matchesNothing(rule *cluster.PolicyRule) {
	rule.AllPeers, rule.AllPorts = false, false
	rule.Peers, rule.Ports = nil, nil
}
