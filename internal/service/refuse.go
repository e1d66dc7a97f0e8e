package service

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// refusedAddr says why nothing in the cluster may lead to an address: whoever writes a Service or a slice could reach
// through it what is open to the node alone (CVE-2021-25737). Empty: it may.
func refusedAddr(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "no address"
	case a.Is4In6():
		return "IPv4 address written as IPv6"
	case a.Zone() != "":
		return "address with a zone"
	case a.IsUnspecified():
		return "unspecified address"
	case a.IsLoopback():
		return "loopback address"
	case a.IsLinkLocalUnicast():
		return "link-local address"
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "multicast address"
	}
	return ""
}

// refusedClusterIP is refusedAddr for what the cluster gives out itself: a service CIDR may be link-local.
func refusedClusterIP(a netip.Addr) string {
	if a.IsLinkLocalUnicast() && a.Zone() == "" && !a.Is4In6() {
		return ""
	}
	return refusedAddr(a)
}

// refusedEndpoint says why an endpoint of a slice cannot be a backend on some port; empty: it can.
func refusedEndpoint(slice *cluster.EndpointSlice, a netip.Addr, port uint16) string {
	if why := refusedAddr(a); why != "" {
		return why
	}
	if a.Is4() != slice.IPv4 {
		return "address of another family than its slice's"
	}
	if port == 0 {
		return "port 0"
	}
	return ""
}

// familyName is for messages.
func familyName(ipv4 bool) string {
	if ipv4 {
		return "IPv4"
	}
	return "IPv6"
}

// refusals lists what of a Service cannot be honoured whatever others ask for.
func refusals(self Self, o *cluster.ServiceObjects) []cluster.Problem {
	svc, r := o.Service, refuser{object: "Service/" + o.Service.String()}
	for _, a := range svc.ClusterIPs {
		if why := refusedClusterIP(a); why != "" {
			r.addf("cluster IP %s is refused: %s", a, why)
		}
	}
	if len(svc.ExternalIPs) > 0 && !self.ExternalIPs {
		r.addf("spec.externalIPs %v are not honoured: the agent was not told to, for whoever may write Services could take any address (CVE-2020-8554)", svc.ExternalIPs)
	}
	for a, kind := range externalAddresses(self, svc) {
		if why := refusedAddr(a); why != "" {
			r.addf("%s address %s is refused: %s", kind, a, why)
		} else if !hasFamily(svc, a.Is4()) {
			r.addf("%s address %s is not honoured: the Service has no %s cluster IP", kind, a, familyName(a.Is4()))
		}
	}
	for _, p := range svc.Ports {
		if p.Port == 0 {
			r.addf("port %q is refused: its number is 0", p.Name)
		}
	}
	r.ranges(svc)
	r.endpoints(o)
	return r.problems
}

type refuser struct {
	object   string
	problems []cluster.Problem
}

func (r *refuser) addf(format string, args ...any) {
	r.problems = append(r.problems, cluster.Problem{Object: r.object, Message: fmt.Sprintf(format, args...)})
}

// ranges warns where source ranges leave a family open.
func (r *refuser) ranges(svc *cluster.Service) {
	for _, ipv4 := range []bool{true, false} {
		family := func(a netip.Addr) bool { return a.Is4() == ipv4 }
		if len(svc.SourceRanges) > 0 && slices.ContainsFunc(svc.LoadBalancerIPs, family) && hasFamily(svc, ipv4) &&
			!slices.ContainsFunc(svc.SourceRanges, func(p netip.Prefix) bool { return family(p.Addr()) }) {
			r.addf("loadBalancerSourceRanges has no %[1]s range: everybody may use its %[1]s load balancer addresses", familyName(ipv4))
		}
	}
}

// endpoints names each refused address once, in the order of the slices.
func (r *refuser) endpoints(o *cluster.ServiceObjects) {
	for _, s := range o.Slices {
		for i := range s.Endpoints {
			a := s.Endpoints[i].Addr
			if why := refusedEndpoint(s, a, 1); why != "" {
				r.addf("endpoint %s in slice %s is refused: %s", a, s.Name, why)
			}
		}
		for _, p := range s.Ports {
			if p.Port == 0 && len(s.Endpoints) > 0 {
				r.addf("the endpoints in slice %s, %s first, are refused on port %q: port 0", s.Name, s.Endpoints[0].Addr, p.Name)
			}
		}
	}
}
