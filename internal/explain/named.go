package explain

import (
	"cmp"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
)

// named is what policies name. What they do not name, they cannot tell apart.
type named struct {
	labels    map[string]bool // keys that selectors ask for
	blocks    map[netip.Prefix]bool
	ports     []Ports
	portNames map[string]bool
}

func newNamed() *named {
	return &named{labels: map[string]bool{}, blocks: map[netip.Prefix]bool{}, portNames: map[string]bool{}}
}

// policies are some of a cluster's.
type policies struct {
	network []*networkingv1.NetworkPolicy
	cluster []*v1alpha2.ClusterNetworkPolicy
}

func allPolicies(o oracle.Objects) policies { return policies{o.NetworkPolicies, o.ClusterPolicies} }

// subjects adds what selects the pods that policies are about.
func (n *named) subjects(of policies) {
	for _, np := range of.network {
		n.selector(&np.Spec.PodSelector)
	}
	for _, cnp := range of.cluster {
		n.selector(cnp.Spec.Subject.Namespaces)
		n.pods(cnp.Spec.Subject.Pods)
	}
}

// egress adds what the rules for senders name.
func (n *named) egress(of policies) {
	for _, np := range of.network {
		for _, r := range np.Spec.Egress {
			n.networkRule(r.To, r.Ports)
		}
	}
	for _, cnp := range of.cluster {
		for _, r := range cnp.Spec.Egress {
			for _, to := range r.To {
				n.selector(to.Namespaces)
				n.pods(to.Pods)
				n.selector(to.Nodes)
				for _, block := range to.Networks {
					n.block(string(block))
				}
			}
			n.protocols(r.Protocols)
		}
	}
}

// ingress adds what the rules for receivers name.
func (n *named) ingress(of policies) {
	for _, np := range of.network {
		for _, r := range np.Spec.Ingress {
			n.networkRule(r.From, r.Ports)
		}
	}
	for _, cnp := range of.cluster {
		for _, r := range cnp.Spec.Ingress {
			for _, from := range r.From {
				n.selector(from.Namespaces)
				n.pods(from.Pods)
			}
			n.protocols(r.Protocols)
		}
	}
}

func (n *named) networkRule(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
	for _, p := range peers {
		n.selector(p.PodSelector)
		n.selector(p.NamespaceSelector)
		if p.IPBlock != nil {
			n.block(p.IPBlock.CIDR)
			for _, except := range p.IPBlock.Except {
				n.block(except)
			}
		}
	}
	for _, p := range ports {
		protocol, ok := cluster.TCP, true
		if p.Protocol != nil {
			protocol, ok = protocolOf(*p.Protocol)
		}
		switch {
		case p.Port == nil || !ok:
		case p.Port.Type == intstr.String:
			n.portNames[p.Port.StrVal] = true
		case p.EndPort != nil:
			n.port(protocol, p.Port.IntVal, *p.EndPort)
		default:
			n.port(protocol, p.Port.IntVal, p.Port.IntVal)
		}
	}
}

func (n *named) protocols(protocols []v1alpha2.ClusterNetworkPolicyProtocol) {
	each := func(protocol cluster.Protocol, p *v1alpha2.Port) {
		switch {
		case p == nil:
		case p.Range != nil:
			n.port(protocol, p.Range.Start, p.Range.End)
		default:
			n.port(protocol, p.Number, p.Number)
		}
	}
	for _, p := range protocols {
		if p.TCP != nil {
			each(cluster.TCP, p.TCP.DestinationPort)
		}
		if p.UDP != nil {
			each(cluster.UDP, p.UDP.DestinationPort)
		}
		if p.SCTP != nil {
			each(cluster.SCTP, p.SCTP.DestinationPort)
		}
		if p.DestinationNamedPort != "" {
			n.portNames[p.DestinationNamedPort] = true
		}
	}
}

// port adds a range. One that cannot be read matches no port.
func (n *named) port(protocol cluster.Protocol, first, last int32) {
	if 1 <= first && first <= last && last < 1<<16 {
		n.ports = append(n.ports, Ports{protocol, uint16(first), uint16(last)})
	}
}

// block adds a block. One that cannot be read matches no address.
func (n *named) block(text string) {
	if p, err := netip.ParsePrefix(text); err == nil {
		n.blocks[p.Masked()] = true
	}
}

func (n *named) pods(p *v1alpha2.NamespacedPod) {
	if p != nil {
		n.selector(&p.NamespaceSelector)
		n.selector(&p.PodSelector)
	}
}

func (n *named) selector(s *metav1.LabelSelector) {
	if s == nil {
		return
	}
	for key := range s.MatchLabels {
		n.labels[key] = true
	}
	for _, e := range s.MatchExpressions {
		n.labels[e.Key] = true
	}
}

// namedPorts are the numbers that policies name, each once, and of a range both its ends; 80 if none names any.
func (c *Cluster) namedPorts() (list []port) {
	n := newNamed()
	n.egress(allPolicies(c.objects))
	n.ingress(allPolicies(c.objects))
	for _, p := range n.ports {
		list = append(list, port{"", p.Protocol, p.First}, port{"", p.Protocol, p.Last})
	}
	if len(list) == 0 {
		return []port{{"", cluster.TCP, 80}}
	}
	slices.SortFunc(list, func(a, b port) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.protocol, b.protocol))
	})
	return slices.Compact(list)
}
