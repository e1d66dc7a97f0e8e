package watch

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/polder-net/polder/internal/cluster"
)

// labelProxyName names the proxy that a Service is left to, if it is not the node's.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// readService keeps of a Service what Polder reads of it; nil: no proxy, or another one, serves it.
func readService(o *corev1.Service, t texts) (*cluster.Service, []string) {
	_, others := o.Labels[labelProxyName]
	ips := o.Spec.ClusterIPs
	if len(ips) == 0 && o.Spec.ClusterIP != "" {
		ips = []string{o.Spec.ClusterIP}
	}
	if others || o.Spec.Type == corev1.ServiceTypeExternalName || slices.Contains(ips, corev1.ClusterIPNone) {
		return nil, nil
	}
	if len(ips) == 0 {
		return nil, []string{"has no clusterIP: a folder of manifests must say it, e.g. clusterIP: 10.96.0.10"}
	}
	r := &serviceReader{texts: t, of: &cluster.Service{
		ServiceName:   cluster.ServiceName{Namespace: t.shared(o.Namespace), Name: o.Name},
		UID:           string(o.UID),
		InternalLocal: o.Spec.InternalTrafficPolicy != nil && *o.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		ExternalLocal: o.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}}
	if created := o.CreationTimestamp; !created.IsZero() {
		r.of.Created = created.Unix()
	}
	r.clusterIPs(ips)
	r.of.ExternalIPs = r.addresses("external IP", o.Spec.ExternalIPs)
	r.of.LoadBalancerIPs = r.addresses("load balancer IP", virtualIPs(o.Status.LoadBalancer.Ingress))
	r.of.SourceRanges = r.sourceRanges(o.Spec.LoadBalancerSourceRanges)
	r.of.Ports = r.ports(o.Spec.Ports)
	r.of.HealthCheckNodePort = r.optionalPort("healthCheckNodePort", o.Spec.HealthCheckNodePort)
	if o.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		r.of.Affinity = r.affinity(o.Spec.SessionAffinityConfig)
	}
	return r.of, r.problems
}

// serviceReader reads a Service. What it cannot honour it leaves out, and notes.
type serviceReader struct {
	texts    texts
	of       *cluster.Service
	problems []string
}

func (r *serviceReader) problem(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf(format, args...))
}

func (r *serviceReader) clusterIPs(ips []string) {
	for _, a := range r.addresses("cluster IP", ips) {
		i := slices.IndexFunc(r.of.ClusterIPs, func(first netip.Addr) bool { return first.Is4() == a.Is4() })
		if i >= 0 {
			r.problem("cluster IP %s: there is one of the same family, %s, which counts", a, r.of.ClusterIPs[i])
			continue
		}
		r.of.ClusterIPs = append(r.of.ClusterIPs, a)
	}
	r.of.ClusterIPs = slices.Clip(r.of.ClusterIPs)
}

func (r *serviceReader) addresses(what string, texts []string) []netip.Addr {
	var all []netip.Addr
	for _, s := range texts {
		a, err := parseAddress(s, "a Service")
		if err != nil {
			r.problem("read %s: %v", what, err)
		} else if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return slices.Clip(all)
}

// virtualIPs are the addresses of a load balancer that nodes serve themselves. Those of ipMode Proxy lead to the load
// balancer even from the nodes.
func virtualIPs(ingress []corev1.LoadBalancerIngress) []string {
	var ips []string
	for _, i := range ingress {
		if i.IP != "" && (i.IPMode == nil || *i.IPMode == corev1.LoadBalancerIPModeVIP) {
			ips = append(ips, i.IP)
		}
	}
	return ips
}

// sourceRanges reads whom a load balancer's addresses are for. One that cannot be read must not make the list say
// more, least of all, by being its only one, everybody: the whole list then is of the two addresses that no packet
// comes from, and the load balancer's addresses admit nobody until the list is put right.
func (r *serviceReader) sourceRanges(texts []string) []netip.Prefix {
	var all []netip.Prefix
	var bad bool
	for _, s := range texts {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil || p.Addr().Is4In6() {
			bad = true
			r.problem("%q in loadBalancerSourceRanges is not a CIDR: the load balancer's addresses admit nobody", s)
		} else if p = p.Masked(); !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	if bad {
		return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 32), netip.PrefixFrom(netip.IPv6Unspecified(), 128)}
	}
	return slices.Clip(all)
}

func (r *serviceReader) ports(ports []corev1.ServicePort) []cluster.ServicePort {
	all := make([]cluster.ServicePort, 0, len(ports))
	for _, p := range ports {
		protocol, err := parseProtocol(p.Protocol)
		number, ok := portNumber(p.Port)
		switch {
		case err != nil:
			r.problem("port %d: %v", p.Port, err)
			continue
		case !ok:
			r.problem("%d is not a port", p.Port)
			continue
		}
		port := cluster.ServicePort{Name: r.texts.shared(p.Name), Protocol: protocol, Port: number}
		if slices.ContainsFunc(all, func(first cluster.ServicePort) bool {
			return first.Name == port.Name || first.Protocol == port.Protocol && first.Port == port.Port
		}) {
			r.problem("port %d/%s, %q: there is one of that number or name, which counts", number, protocol, p.Name)
			continue
		}
		port.NodePort = r.optionalPort("nodePort", p.NodePort)
		all = append(all, port)
	}
	return slices.Clip(all)
}

func (r *serviceReader) optionalPort(what string, n int32) uint16 {
	p, ok := portNumber(n)
	if !ok && n != 0 {
		r.problem("%s: %d is not a port", what, n)
	}
	return p
}

func (r *serviceReader) affinity(c *corev1.SessionAffinityConfig) int {
	if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
		return int(corev1.DefaultClientIPServiceAffinitySeconds)
	}
	seconds := *c.ClientIP.TimeoutSeconds
	if seconds < 1 || seconds > 86400 {
		r.problem("session affinity of %d seconds: 1 to 86400 are allowed, %d counts", seconds, corev1.DefaultClientIPServiceAffinitySeconds)
		return int(corev1.DefaultClientIPServiceAffinitySeconds)
	}
	return int(seconds)
}

func portNumber(n int32) (uint16, bool) {
	if n < 1 || n > math.MaxUint16 {
		return 0, false
	}
	return uint16(n), true
}

// parseProtocol reads a protocol of a Service or a slice. Other protocols must not be read as TCP, which is what
// saying none means.
func parseProtocol(p corev1.Protocol) (cluster.Protocol, error) {
	switch p {
	case corev1.ProtocolTCP, "":
		return cluster.TCP, nil
	case corev1.ProtocolUDP:
		return cluster.UDP, nil
	case corev1.ProtocolSCTP:
		return cluster.SCTP, nil
	}
	return 0, fmt.Errorf("%q is none of TCP, UDP and SCTP", string(p))
}

// readServiceCIDR reads what cluster IPs are taken from.
func readServiceCIDR(o *networkingv1.ServiceCIDR) ([]netip.Prefix, []string) {
	var all []netip.Prefix
	var problems []string
	for _, s := range o.Spec.CIDRs {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("read CIDR: %q is not a CIDR", s))
		case !usable(p.Addr()) || !usable(p.Masked().Addr()):
			problems = append(problems, fmt.Sprintf("read CIDR: %q is not a CIDR that Services can have addresses of", s))
		default:
			all = append(all, p.Masked())
		}
	}
	return slices.Clip(all), problems
}
