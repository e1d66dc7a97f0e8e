package oracle

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Translate returns what a packet may become at the Service that has its destination: one packet a backend. Where no
// Service has it, that is the packet itself; a Service without backends leaves none.
func (o *Objects) Translate(p Packet) []Packet {
	p.Src, p.Dst = p.Src.Unmap(), p.Dst.Unmap()
	for _, svc := range o.Services {
		if !slices.Contains(serviceAddresses(svc), p.Dst) {
			continue
		}
		for _, port := range svc.Spec.Ports {
			if uint16(port.Port) == p.Port && protocolOf(port.Protocol) == p.Protocol {
				return o.translations(p, svc, port.Name)
			}
		}
		return nil // an address of Services, but nobody serves that port
	}
	return []Packet{p}
}

func serviceAddresses(svc *corev1.Service) (addrs []netip.Addr) {
	texts := append(slices.Clone(svc.Spec.ClusterIPs), svc.Spec.ClusterIP)
	texts = append(texts, svc.Spec.ExternalIPs...)
	for _, in := range svc.Status.LoadBalancer.Ingress {
		texts = append(texts, in.IP)
	}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}

// translations are to the endpoints that are ready; where there are none, to those that still serve.
func (o *Objects) translations(p Packet, svc *corev1.Service, port string) []Packet {
	for _, usable := range []func(discoveryv1.EndpointConditions) bool{
		func(c discoveryv1.EndpointConditions) bool { return c.Ready == nil || *c.Ready },
		func(c discoveryv1.EndpointConditions) bool { return c.Serving != nil && *c.Serving },
	} {
		var all []Packet
		for _, s := range o.Slices {
			if s.Namespace == svc.Namespace && s.Labels[discoveryv1.LabelServiceName] == svc.Name {
				all = append(all, toEndpoints(p, s, port, usable)...)
			}
		}
		if len(all) > 0 {
			return all
		}
	}
	return nil
}

func toEndpoints(p Packet, s *discoveryv1.EndpointSlice, port string, usable func(discoveryv1.EndpointConditions) bool) (all []Packet) {
	for _, at := range s.Ports {
		name, protocol := "", corev1.ProtocolTCP
		if at.Name != nil {
			name = *at.Name
		}
		if at.Protocol != nil {
			protocol = *at.Protocol
		}
		if name != port || number(protocol) != p.Protocol || at.Port == nil {
			continue
		}
		for _, e := range s.Endpoints {
			if a, err := netip.ParseAddr(firstOf(e.Addresses)); err == nil && a.Unmap().Is4() == p.Dst.Is4() && usable(e.Conditions) {
				all = append(all, Packet{p.Src, a.Unmap(), p.Protocol, uint16(*at.Port)})
			}
		}
	}
	return all
}

func firstOf(texts []string) string {
	if len(texts) == 0 {
		return ""
	}
	return texts[0]
}

func protocolOf(p corev1.Protocol) uint8 {
	if p == "" {
		return number(corev1.ProtocolTCP)
	}
	return number(p)
}
