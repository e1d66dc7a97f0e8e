package oracle

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Objects are a cluster as its API tells it, in any order. What was before them is unknown: that a pod of a namespace
// that is being deleted keeps the rules it had (docs/decisions.md) cannot be answered from them.
type Objects struct {
	Pods            []*corev1.Pod
	Namespaces      []*corev1.Namespace
	Nodes           []*corev1.Node
	NetworkPolicies []*networkingv1.NetworkPolicy
	ClusterPolicies []*v1alpha2.ClusterNetworkPolicy

	// UnreadNamespaces are names of namespaces whose labels nobody can know. Only a selector that asks nothing selects one.
	UnreadNamespaces map[string]bool

	// Nobody is judged by these: they are for whoever asks what a destination is translated to first.
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
}

// Packet opens a connection. Port is the destination's, 0 of a protocol without ports.
type Packet struct {
	Src, Dst netip.Addr
	Protocol uint8 // its number in an IP header
	Port     uint16
}

// Ruling is what becomes of a connection. An end that no policy can select, as it is no pod or one on its node's own
// network, has no judgement.
type Ruling struct {
	Allowed         bool
	Egress, Ingress *Judgement // of the sender's policies and of the receiver's
}

// Judgement is what the policies of one end say.
type Judgement struct {
	Subject string // "namespace/name" of the pod
	Egress  bool   // it is the sender
	Allowed bool
	Reason  Reason

	By       []Policy // who decided: one by a rule, or all that isolate it when none of their rules match
	Rule     int      // position in By[0] in this direction, from 0; -1: no rule decided
	RuleName string   // of a ClusterNetworkPolicy's rule that has one

	Asked []Asked // all policies that select the pod in this direction, in the order in which they count
}

// Reason says what kind of answer it is.
type Reason string

// The reasons.
const (
	ByRule   Reason = "rule"     // a rule of By[0]
	Isolated Reason = "isolated" // By isolate the pod, and no rule of theirs matches
	Default  Reason = "default"  // no policy says anything: allowed
	OwnNode  Reason = "own node" // the peer is the node where the pod runs: it may send, and NetworkPolicies let the pod send there
	Itself   Reason = "itself"   // the peer is the pod: allowed
)

// Policy names a policy. Of a ClusterNetworkPolicy, Namespace is empty.
type Policy struct{ Kind, Namespace, Name string }

// String is "NetworkPolicy/default/web" or "ClusterNetworkPolicy/web".
func (p Policy) String() string {
	if p.Namespace == "" {
		return p.Kind + "/" + p.Name
	}
	return p.Kind + "/" + p.Namespace + "/" + p.Name
}

// Tier says when a policy counts.
type Tier string

// The tiers, in order.
const (
	AdminTier         Tier = "Admin"
	NetworkPolicyTier Tier = "NetworkPolicy"
	BaselineTier      Tier = "Baseline"
)

// Asked is a policy that selects the pod in this direction, and its first rule that matches the packet.
type Asked struct {
	Policy
	Tier     Tier
	Priority int32  // of a ClusterNetworkPolicy
	Rule     int    // -1: none matches
	RuleName string // may be empty
	Action   string // of the rule: Accept, Deny or Pass
}

// side is one end of a packet.
type side struct {
	*Objects
	packet  Packet
	egress  bool
	subject *corev1.Pod
	peer    netip.Addr
}

// Judge says whether a connection comes about, and why. Where the destination is a Service's, ask with the backend that
// it is translated to (Backends).
func (o *Objects) Judge(p Packet) Ruling {
	p.Src, p.Dst = p.Src.Unmap(), p.Dst.Unmap()
	v := Ruling{Allowed: true}
	if pod := o.Pod(p.Src); pod != nil {
		v.Egress = side{o, p, true, pod, p.Dst}.judge()
		v.Allowed = v.Egress.Allowed
	}
	if pod := o.Pod(p.Dst); pod != nil {
		v.Ingress = side{o, p, false, pod, p.Src}.judge()
		v.Allowed = v.Allowed && v.Ingress.Allowed
	}
	return v
}

func (s side) judge() *Judgement {
	asked := append(s.askCluster(v1alpha2.AdminTier), s.askNetworkPolicies()...)
	asked = append(asked, s.askCluster(v1alpha2.BaselineTier)...)
	j := &Judgement{Subject: s.subject.Namespace + "/" + s.subject.Name, Egress: s.egress, Rule: -1, Asked: asked}
	switch {
	case s.peer == s.packet.otherThan(s.peer) || s.Pod(s.peer) == s.subject:
		j.Allowed, j.Reason = true, Itself
	case s.isOwnNode() && !s.egress:
		j.Allowed, j.Reason = true, OwnNode
	case j.decideCluster(AdminTier) || j.decideNetworkPolicies(s.isOwnNode()) || j.decideCluster(BaselineTier):
	default:
		j.Allowed, j.Reason = true, Default
	}
	return j
}

func (p Packet) otherThan(end netip.Addr) netip.Addr {
	if end == p.Src {
		return p.Dst
	}
	return p.Src
}

// decideCluster goes through the policies of a tier up to the first that has a rule for the packet.
func (j *Judgement) decideCluster(tier Tier) bool {
	for _, a := range j.Asked {
		if a.Tier != tier || a.Rule < 0 {
			continue
		}
		if a.Action == string(v1alpha2.ClusterNetworkPolicyRuleActionPass) {
			return false
		}
		j.Allowed = a.Action == string(v1alpha2.ClusterNetworkPolicyRuleActionAccept)
		j.decidedBy(a)
		return true
	}
	return false
}

// decideNetworkPolicies always decides if there are any. They keep no pod from its own node.
func (j *Judgement) decideNetworkPolicies(ownNode bool) bool {
	for _, a := range j.Asked {
		if a.Tier != NetworkPolicyTier {
			continue
		}
		if a.Rule >= 0 {
			j.Allowed = true
			j.decidedBy(a)
			return true
		}
		j.By = append(j.By, a.Policy)
	}
	isolated := len(j.By) > 0
	if isolated && ownNode {
		j.Allowed, j.Reason, j.By = true, OwnNode, nil
	} else if isolated {
		j.Reason = Isolated
	}
	return isolated
}

func (j *Judgement) decidedBy(a Asked) {
	j.Reason, j.By, j.Rule, j.RuleName = ByRule, []Policy{a.Policy}, a.Rule, a.RuleName
}

// Pod returns the running pod that has an address to itself, nil if there is none. Of two that claim it, nobody can know
// which is stale: it is the first by name.
func (o *Objects) Pod(addr netip.Addr) (first *corev1.Pod) {
	for _, pod := range o.Pods {
		if pod.Spec.HostNetwork || !slices.Contains(PodAddresses(pod), addr.Unmap()) {
			continue
		}
		if first == nil || cmp.Or(cmp.Compare(pod.Namespace, first.Namespace), cmp.Compare(pod.Name, first.Name)) < 0 {
			first = pod
		}
	}
	return first
}

// About lists the policies that are about a pod, in whichever direction and whether they have rules or not. There are none
// about a pod on its node's network.
func (o *Objects) About(pod *corev1.Pod) (all []Policy) {
	if pod.Spec.HostNetwork {
		return nil
	}
	for _, np := range o.NetworkPolicies {
		if isAbout(np, pod) {
			all = append(all, Policy{"NetworkPolicy", np.Namespace, np.Name})
		}
	}
	for _, cnp := range o.ClusterPolicies {
		if (side{Objects: o, subject: pod}).isSubject(cnp.Spec.Subject) {
			all = append(all, Policy{"ClusterNetworkPolicy", "", cnp.Name})
		}
	}
	return all
}

// PodAddresses are those of a pod that has not ended: its status.podIPs.
func PodAddresses(pod *corev1.Pod) (addrs []netip.Addr) {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	texts := []string{pod.Status.PodIP}
	for _, ip := range pod.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && !slices.Contains(addrs, a.Unmap()) {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}

// NodeAddresses are a node's status.addresses that are addresses.
func NodeAddresses(node *corev1.Node) (addrs []netip.Addr) {
	for _, na := range node.Status.Addresses {
		if a, err := netip.ParseAddr(na.Address); err == nil && (na.Type == corev1.NodeInternalIP || na.Type == corev1.NodeExternalIP) {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}

func (s side) isOwnNode() bool {
	return slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool {
		return n.Name == s.subject.Spec.NodeName && slices.Contains(NodeAddresses(n), s.peer)
	})
}
