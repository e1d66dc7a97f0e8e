package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// serviceCIDRs are what cluster IPs are taken from.
func serviceCIDRs() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}
}

// loadBalancerRanges are what load balancers' addresses are taken from. They are nobody's on the fabric.
func loadBalancerRanges() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:2::/64")}
}

// The node ports, by Kubernetes' default.
const firstNodePort, lastNodePort = 30000, 32767

// reserved is how many addresses at the start of a range are not given out: in clusters, API server and DNS have some.
const reserved = 16

// newService is the Service that the options say, beside the others.
func newService(o ServiceOptions, others []*corev1.Service) (*corev1.Service, error) {
	s := &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{
			Name: o.Name, Namespace: podNamespace, UID: types.UID(newUID()), CreationTimestamp: metav1.NewTime(time.Now()),
		},
		Spec: corev1.ServiceSpec{
			Type:                  corev1.ServiceType(cmp.Or(o.Type, "ClusterIP")),
			Selector:              o.Selector,
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicy(o.ExternalTrafficPolicy),
			SessionAffinity:       corev1.ServiceAffinityNone,
		},
	}
	if o.Selector == nil {
		s.Spec.Selector = map[string]string{"app": o.Name}
	}
	if _, err := labels.ValidatedSelectorFromSet(s.Spec.Selector); err != nil {
		return nil, fmt.Errorf("read selector: %w", err)
	}
	internal := corev1.ServiceInternalTrafficPolicy(cmp.Or(o.InternalTrafficPolicy, "Cluster"))
	s.Spec.InternalTrafficPolicy = &internal
	if o.Affinity > 0 {
		seconds := int32(o.Affinity)
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	for _, other := range others {
		if other.Namespace == s.Namespace && other.Name == s.Name {
			return nil, errors.New("there is one of that name")
		}
	}
	u := usedBy(others)
	return s, errors.Join(u.giveClusterIPs(s, o.ClusterIPs), u.givePorts(s, o.Ports), u.giveLoadBalancer(s))
}

// used are the addresses and node ports that Services have.
type used struct {
	addresses map[netip.Addr]bool
	ports     map[nodePort]bool
}

type nodePort struct {
	number   int32
	protocol corev1.Protocol
}

func usedBy(services []*corev1.Service) used {
	u := used{map[netip.Addr]bool{}, map[nodePort]bool{}}
	for _, s := range services {
		all := append(addressesOf(s), readAddresses(s.Spec.ExternalIPs)...)
		for _, i := range s.Status.LoadBalancer.Ingress {
			all = append(all, readAddresses([]string{i.IP})...)
		}
		for _, a := range all {
			u.addresses[a] = true
		}
		u.ports[nodePort{s.Spec.HealthCheckNodePort, corev1.ProtocolTCP}] = true
		for _, p := range s.Spec.Ports {
			u.ports[nodePort{p.NodePort, cmp.Or(p.Protocol, corev1.ProtocolTCP)}] = true
		}
	}
	return u
}

// pick takes the lowest place that is free in all ranges.
func (u used) pick(ranges []netip.Prefix) ([]netip.Addr, error) {
	at := make([]netip.Addr, len(ranges))
	for i, r := range ranges {
		at[i] = r.Addr()
	}
	for n := 0; ; n++ {
		if !ranges[0].Contains(at[0].Next()) {
			return nil, fmt.Errorf("all addresses of %v are taken", ranges)
		}
		if n > reserved && !slices.ContainsFunc(at, func(a netip.Addr) bool { return u.addresses[a] }) {
			return at, nil
		}
		for i := range at {
			at[i] = at[i].Next()
		}
	}
}

func (u used) giveClusterIPs(s *corev1.Service, wanted []netip.Addr) error {
	if len(wanted) == 0 {
		var err error
		if wanted, err = u.pick(serviceCIDRs()); err != nil {
			return err
		}
	}
	for i, a := range wanted {
		ranges := slices.DeleteFunc(serviceCIDRs(), func(p netip.Prefix) bool { return !p.Contains(a) })
		switch {
		case len(ranges) == 0:
			return fmt.Errorf("cluster IP %s is not in %v", a, serviceCIDRs())
		case u.addresses[a]:
			return fmt.Errorf("cluster IP %s is taken", a)
		case i > 1 || i == 1 && a.Is4() == wanted[0].Is4():
			return errors.New("a Service has one cluster IP of each family at most")
		}
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, a.String())
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, corev1.IPFamily(addressType(a)))
	}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	policy := corev1.IPFamilyPolicySingleStack
	if len(wanted) == 2 {
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	s.Spec.IPFamilyPolicy = &policy
	return nil
}

// givePorts takes the node ports that are wanted before it chooses others.
func (u used) givePorts(s *corev1.Service, ports []ServicePort) error {
	var errs []error
	for _, p := range ports {
		port := corev1.ServicePort{Port: int32(p.Port), Protocol: corev1.Protocol(cmp.Or(p.Protocol, "TCP")), NodePort: int32(p.NodePort)}
		port.TargetPort = intstr.Parse(cmp.Or(p.Target, fmt.Sprint(p.Port)))
		if len(ports) > 1 {
			port.Name = fmt.Sprintf("%s-%d", strings.ToLower(string(port.Protocol)), p.Port)
		}
		if port.NodePort != 0 {
			errs = append(errs, u.takeNodePort(port.NodePort, port.Protocol))
		}
		s.Spec.Ports = append(s.Spec.Ports, port)
	}
	for i := range s.Spec.Ports {
		port := &s.Spec.Ports[i]
		if port.NodePort == 0 && s.Spec.Type != corev1.ServiceTypeClusterIP {
			var err error
			port.NodePort, err = u.chooseNodePort(port.Protocol)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// takeNodePort takes a node port that somebody wants. TCP and UDP may share a number.
func (u used) takeNodePort(number int32, protocol corev1.Protocol) error {
	if number < firstNodePort || number > lastNodePort {
		return fmt.Errorf("node port %d: want %d to %d", number, firstNodePort, lastNodePort)
	}
	if u.ports[nodePort{number, protocol}] {
		return fmt.Errorf("node port %d/%s is taken", number, protocol)
	}
	u.ports[nodePort{number, protocol}] = true
	return nil
}

// chooseNodePort takes the lowest node port that is free in every protocol.
func (u used) chooseNodePort(protocol corev1.Protocol) (int32, error) {
	for n := int32(firstNodePort); n <= lastNodePort; n++ {
		taken := func(p string) bool { return u.ports[nodePort{n, corev1.Protocol(p)}] }
		if !slices.ContainsFunc(protocols(), taken) {
			u.ports[nodePort{n, protocol}] = true
			return n, nil
		}
	}
	return 0, errors.New("all node ports are taken")
}

// giveLoadBalancer does what a cloud's controller does.
func (u used) giveLoadBalancer(s *corev1.Service) error {
	if s.Spec.Type == corev1.ServiceTypeClusterIP {
		return nil
	}
	s.Spec.ExternalTrafficPolicy = cmp.Or(s.Spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	addresses, err := u.pick(loadBalancerRanges())
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if slices.Contains(s.Spec.IPFamilies, corev1.IPFamily(addressType(a))) {
			mode := corev1.LoadBalancerIPModeVIP
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a.String(), IPMode: &mode})
		}
	}
	if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		s.Spec.HealthCheckNodePort, err = u.chooseNodePort(corev1.ProtocolTCP)
	}
	return err
}
