package explain

import (
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/cluster"
)

// eachPort calls f for each number of a port that a policy names. Of a range, that is both its ends.
func (c *Cluster) eachPort(f func(cluster.Protocol, int32)) {
	if c.beside != nil {
		c.beside.eachPort(f)
	}
	for _, np := range c.objects.NetworkPolicies {
		for _, r := range np.Spec.Ingress {
			eachPortOf(r.Ports, f)
		}
		for _, r := range np.Spec.Egress {
			eachPortOf(r.Ports, f)
		}
	}
	for _, cnp := range c.objects.ClusterPolicies {
		for _, r := range cnp.Spec.Ingress {
			eachProtocol(r.Protocols, f)
		}
		for _, r := range cnp.Spec.Egress {
			eachProtocol(r.Protocols, f)
		}
	}
}

func eachPortOf(ports []networkingv1.NetworkPolicyPort, f func(cluster.Protocol, int32)) {
	for _, p := range ports {
		protocol, ok := cluster.TCP, true
		if p.Protocol != nil {
			protocol, ok = protocolOf(*p.Protocol)
		}
		if p.Port == nil || !ok {
			continue
		}
		f(protocol, p.Port.IntVal)
		if p.EndPort != nil {
			f(protocol, *p.EndPort)
		}
	}
}

func eachProtocol(protocols []v1alpha2.ClusterNetworkPolicyProtocol, f func(cluster.Protocol, int32)) {
	each := func(protocol cluster.Protocol, p *v1alpha2.Port) {
		switch {
		case p == nil:
		case p.Range != nil:
			f(protocol, p.Range.Start)
			f(protocol, p.Range.End)
		default:
			f(protocol, p.Number)
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
	}
}

// samples are addresses outside, by what people read of them: one of each block that a policy names, of each exception,
// and of no block at all.
func (c *Cluster) samples() map[string]netip.Addr {
	all := map[string]netip.Addr{}
	for _, documentation := range []string{"192.0.2.1", "2001:db8::1"} {
		a := netip.MustParseAddr(documentation)
		all[fmt.Sprintf("outside (%s)", a)] = a
	}
	for _, text := range c.blocks() {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		a := p.Masked().Addr()
		if !p.IsSingleIP() {
			a = a.Next()
		}
		if c.podAt(a) == nil && c.nodeAt(a) == nil {
			all[fmt.Sprintf("%s (%s)", text, a)] = a
		}
	}
	return all
}

func (c *Cluster) blocks() (texts []string) {
	if c.beside != nil {
		texts = c.beside.blocks()
	}
	take := func(peers []networkingv1.NetworkPolicyPeer) {
		for _, p := range peers {
			if p.IPBlock != nil {
				texts = append(append(texts, p.IPBlock.CIDR), p.IPBlock.Except...)
			}
		}
	}
	for _, np := range c.objects.NetworkPolicies {
		for _, r := range np.Spec.Ingress {
			take(r.From)
		}
		for _, r := range np.Spec.Egress {
			take(r.To)
		}
	}
	for _, cnp := range c.objects.ClusterPolicies {
		for _, r := range cnp.Spec.Egress {
			for _, to := range r.To {
				for _, network := range to.Networks {
					texts = append(texts, string(network))
				}
			}
		}
	}
	return texts
}
