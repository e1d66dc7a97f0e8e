package cases

import (
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/oracle"
)

func (d *Dice) networkPolicies(o *oracle.Objects) []*networkingv1.NetworkPolicy {
	return many(d, 1, 8, func(i int) *networkingv1.NetworkPolicy {
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: pick(d, o.Namespaces...).Name, Name: fmt.Sprint("np-", i)}}
		np.Spec.PodSelector = *d.selector()
		np.Spec.PolicyTypes = pick(d, nil, []networkingv1.PolicyType{"Ingress"}, []networkingv1.PolicyType{"Egress"}, []networkingv1.PolicyType{"Ingress", "Egress"})
		np.Spec.Ingress = many(d, 0, 2, func(int) networkingv1.NetworkPolicyIngressRule {
			return networkingv1.NetworkPolicyIngressRule{From: d.peers(), Ports: d.ports()}
		})
		np.Spec.Egress = many(d, 0, 2, func(int) networkingv1.NetworkPolicyEgressRule {
			return networkingv1.NetworkPolicyEgressRule{To: d.peers(), Ports: d.ports()}
		})
		return np
	})
}

func (d *Dice) selector() *metav1.LabelSelector {
	key := pick(d, "a", "b")
	switch d.IntN(5) {
	case 0:
		if d.one(40) { // what an API server would refuse
			return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: "Maybe"}}}
		}
		return &metav1.LabelSelector{}
	case 1:
		op := pick(d, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: op}}}
	case 2:
		op := pick(d, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn)
		return &metav1.LabelSelector{MatchLabels: pick(d, nil, map[string]string{"b": "1"}),
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: op, Values: pick(d, []string{"0"}, []string{"0", "1"}, []string{"2"})}}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{key: pick(d, "0", "1")}}
}

// namespaces select by label, and sometimes by name.
func (d *Dice) namespaces() *metav1.LabelSelector {
	if d.one(4) {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace(d.IntN(3))}}
	}
	return d.selector()
}

func (d *Dice) peers() []networkingv1.NetworkPolicyPeer {
	return many(d, 0, 3, func(int) networkingv1.NetworkPolicyPeer {
		switch d.IntN(10) {
		case 0, 1:
			return networkingv1.NetworkPolicyPeer{PodSelector: d.selector()}
		case 2, 3:
			return networkingv1.NetworkPolicyPeer{NamespaceSelector: d.namespaces()}
		case 4, 5:
			return networkingv1.NetworkPolicyPeer{PodSelector: d.selector(), NamespaceSelector: d.namespaces()}
		case 6:
			if d.one(5) { // what an API server would refuse
				return pick(d, networkingv1.NetworkPolicyPeer{}, networkingv1.NetworkPolicyPeer{PodSelector: d.selector(), IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0"}})
			}
		}
		block := d.block()
		return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: block.String(), Except: many(d, 0, 2, func(int) string { return d.within(block).String() })}}
	})
}

// block is around an address of the cluster, or beside one.
func (d *Dice) block() netip.Prefix {
	addr := netip.MustParseAddr(pick(d, fmt.Sprintf("10.0.%d.%d", d.IntN(3), d.IntN(10)), fmt.Sprintf("fd00:%d::%d", d.IntN(3), d.IntN(10)),
		fmt.Sprint("192.0.2.", d.IntN(4)), fmt.Sprintf("2001:db8::%d:1", d.IntN(3)), "203.0.113.9", "198.51.100.1"))
	bits := pick(d, 0, 8, 16, 24, 28, 30, 31, 32)
	if addr.Is6() {
		bits = pick(d, 0, 16, 32, 64, 112, 125, 127, 128)
	}
	block, _ := addr.Prefix(bits)
	d.blocks = append(d.blocks, block)
	return block
}

// within is a block in a block.
func (d *Dice) within(block netip.Prefix) netip.Prefix {
	longest := block.Addr().BitLen()
	bits := min(longest, block.Bits()+pick(d, 0, 1, 2, 4, 8, longest))
	inner, _ := d.near(block).Prefix(bits)
	if !block.Contains(inner.Addr()) {
		inner = netip.PrefixFrom(block.Addr(), bits)
	}
	d.blocks = append(d.blocks, inner)
	return inner
}

func (d *Dice) ports() []networkingv1.NetworkPolicyPort {
	return many(d, 0, 3, func(int) (p networkingv1.NetworkPolicyPort) {
		if protocol := d.protocol(); !d.one(4) {
			p.Protocol = &protocol
		}
		port := intstr.FromInt32(int32(d.port()))
		switch d.IntN(4) {
		case 0:
			return p
		case 1:
			port = intstr.FromString(d.portName())
		case 2:
			last := max(port.IntVal, int32(d.port()))
			p.EndPort = &last
		}
		p.Port = &port
		return p
	})
}

func (d *Dice) clusterPolicies(o *oracle.Objects) []*v1alpha2.ClusterNetworkPolicy {
	return many(d, 1, 7, func(i int) *v1alpha2.ClusterNetworkPolicy {
		cnp := &v1alpha2.ClusterNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("cnp-", i)}}
		cnp.Spec.Tier = pick(d, v1alpha2.AdminTier, v1alpha2.BaselineTier)
		cnp.Spec.Priority = int32(d.IntN(4))
		switch d.IntN(100) { // what an API server would refuse
		case 0:
			cnp.Spec.Tier = "Sometime"
		case 1:
			cnp.Spec.Priority = 1001
		}
		switch {
		case d.one(50):
		case d.one(2):
			cnp.Spec.Subject.Namespaces = d.namespaces()
		default:
			cnp.Spec.Subject.Pods = &v1alpha2.NamespacedPod{NamespaceSelector: *d.namespaces(), PodSelector: *d.selector()}
		}
		cnp.Spec.Ingress = many(d, 0, 3, func(i int) v1alpha2.ClusterNetworkPolicyIngressRule {
			peers := many(d, 1, 3, func(int) v1alpha2.ClusterNetworkPolicyIngressPeer {
				p := d.clusterPeer(false)
				return v1alpha2.ClusterNetworkPolicyIngressPeer{Namespaces: p.Namespaces, Pods: p.Pods}
			})
			return v1alpha2.ClusterNetworkPolicyIngressRule{Name: pick(d, "", fmt.Sprint("rule ", i)), Action: d.action(), From: peers, Protocols: d.protocols(true)}
		})
		cnp.Spec.Egress = many(d, 0, 3, func(i int) v1alpha2.ClusterNetworkPolicyEgressRule {
			nameless := d.one(2)
			peers := many(d, 1, 3, func(int) v1alpha2.ClusterNetworkPolicyEgressPeer { return d.clusterPeer(nameless) })
			return v1alpha2.ClusterNetworkPolicyEgressRule{Action: d.action(), To: peers, Protocols: d.protocols(!nameless || d.one(10))}
		})
		return cnp
	})
}

func (d *Dice) action() v1alpha2.ClusterNetworkPolicyRuleAction {
	return pick(d, v1alpha2.ClusterNetworkPolicyRuleActionAccept, v1alpha2.ClusterNetworkPolicyRuleActionDeny, v1alpha2.ClusterNetworkPolicyRuleActionPass)
}

// clusterPeer is a peer; nameless ones may be such whose ports have no names. One of many is of a later version.
func (d *Dice) clusterPeer(nameless bool) (p v1alpha2.ClusterNetworkPolicyEgressPeer) {
	kind := d.IntN(4)
	if nameless {
		kind = d.IntN(8)
	}
	switch {
	case d.one(60):
	case kind < 2:
		p.Namespaces = d.namespaces()
	case kind < 4:
		p.Pods = &v1alpha2.NamespacedPod{NamespaceSelector: *d.namespaces(), PodSelector: *d.selector()}
	case kind == 4:
		p.Nodes = d.selector()
	case kind == 5 && d.one(6):
		p.DomainNames = []v1alpha2.DomainName{"*.example.org"}
	default:
		p.Networks = many(d, 1, 2, func(int) v1alpha2.CIDR { return v1alpha2.CIDR(d.block().String()) })
	}
	return p
}

func (d *Dice) protocols(named bool) []v1alpha2.ClusterNetworkPolicyProtocol {
	return many(d, 0, 2, func(int) (p v1alpha2.ClusterNetworkPolicyProtocol) {
		port := &v1alpha2.Port{Number: int32(d.port())}
		if last := int32(d.port()); d.one(3) && last > port.Number {
			port = &v1alpha2.Port{Range: &v1alpha2.PortRange{Start: port.Number, End: last}}
		}
		switch kind := d.IntN(4); {
		case kind == 0 && named:
			p.DestinationNamedPort = d.portName()
		case kind == 1:
			p.UDP = &v1alpha2.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}
		case kind == 2:
			p.SCTP = &v1alpha2.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}
		default:
			p.TCP = &v1alpha2.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}
		}
		return p
	})
}
