package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// summary is what people and tests want to know of a Service.
func (f serviceFile) summary(all []*discoveryv1.EndpointSlice) Service {
	s := Service{
		Namespace: f.Namespace, Name: f.Name, Type: string(cmp.Or(f.Spec.Type, corev1.ServiceTypeClusterIP)), File: f.path,
		ClusterIPs: addressesOf(f.Service), ExternalIPs: readAddresses(f.Spec.ExternalIPs),
	}
	for _, i := range f.Status.LoadBalancer.Ingress {
		s.LoadBalancerIPs = append(s.LoadBalancerIPs, readAddresses([]string{i.IP})...)
	}
	for _, p := range f.Spec.Ports {
		target := p.TargetPort.String()
		if target == "0" {
			target = fmt.Sprint(p.Port)
		}
		s.Ports = append(s.Ports, ServicePort{uint16(p.Port), target, string(cmp.Or(p.Protocol, corev1.ProtocolTCP)), uint16(p.NodePort)})
	}
	ready := map[string]bool{} // by what an endpoint stands for: a pod of two families is in two slices
	for _, slice := range all {
		if slice.Namespace != f.Namespace || slice.Labels[discoveryv1.LabelServiceName] != f.Name {
			continue
		}
		for _, e := range slice.Endpoints {
			id := strings.Join(e.Addresses, ",")
			if e.TargetRef != nil {
				id = e.TargetRef.Name
			}
			ready[id] = ready[id] || e.Conditions.Ready == nil || *e.Conditions.Ready
		}
	}
	for _, is := range ready {
		s.Endpoints++
		if is {
			s.Ready++
		}
	}
	return s
}

// addressesOf are a Service's cluster IPs.
func addressesOf(s *corev1.Service) []netip.Addr {
	all := readAddresses(s.Spec.ClusterIPs)
	for _, a := range readAddresses([]string{s.Spec.ClusterIP}) {
		if !slices.Contains(all, a) {
			all = append([]netip.Addr{a}, all...)
		}
	}
	return all
}

// readAddresses reads those that are addresses: "None" is not.
func readAddresses(texts []string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			all = append(all, a)
		}
	}
	return all
}

// ParseServicePort reads PORT[:TARGET][/PROTOCOL].
func ParseServicePort(text string) (ServicePort, error) {
	bad := fmt.Errorf("port %q: want PORT[:TARGET][/tcp|udp|sctp], say 80:8080/udp", text)
	numbers, protocol, has := strings.Cut(text, "/")
	p := ServicePort{Protocol: strings.ToUpper(protocol)}
	if has && !slices.Contains(protocols(), p.Protocol) {
		return ServicePort{}, bad
	}
	number, target, has := strings.Cut(numbers, ":")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 || has && target == "" {
		return ServicePort{}, bad
	}
	p.Port, p.Target = uint16(n), target
	return p, nil
}

func protocols() []string { return []string{"TCP", "UDP", "SCTP"} }

func (p ServicePort) String() string {
	text := fmt.Sprint(p.Port)
	if p.Target != "" && p.Target != text {
		text += ":" + p.Target
	}
	if p.Protocol != "" && p.Protocol != "TCP" {
		text += "/" + strings.ToLower(p.Protocol)
	}
	return text
}

// check refuses what the API server would.
func (o ServiceOptions) check() error {
	var errs []error
	oneOf := func(what, value string, allowed ...string) {
		if value != "" && !slices.Contains(allowed, value) {
			errs = append(errs, fmt.Errorf("%s %q: want %s", what, value, strings.Join(allowed, ", ")))
		}
	}
	if !podPattern.MatchString(o.Name) || o.Name[0] < 'a' {
		errs = append(errs, errors.New("a Service's name has 1 to 63 lower-case letters, digits and dashes, a letter first"))
	}
	oneOf("type", o.Type, "ClusterIP", "NodePort", "LoadBalancer")
	oneOf("external traffic policy", o.ExternalTrafficPolicy, "Cluster", "Local")
	oneOf("internal traffic policy", o.InternalTrafficPolicy, "Cluster", "Local")
	if o.ExternalTrafficPolicy != "" && (o.Type == "" || o.Type == "ClusterIP") {
		errs = append(errs, errors.New("only a Service with node ports has an external traffic policy"))
	}
	if o.Affinity < 0 || o.Affinity > 86400 {
		errs = append(errs, fmt.Errorf("affinity %d: want 1 to 86400 seconds", o.Affinity))
	}
	if len(o.Ports) == 0 {
		errs = append(errs, errors.New("it has no port"))
	}
	for _, p := range o.Ports {
		oneOf("protocol", p.Protocol, protocols()...)
		if p.NodePort != 0 && (o.Type == "" || o.Type == "ClusterIP") {
			errs = append(errs, errors.New("a ClusterIP Service has no node ports"))
		}
	}
	return errors.Join(errs...)
}
