package lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// maxEndpoints is how many endpoints a slice has at most, as in Kubernetes unless told otherwise.
const maxEndpoints = 100

// endpointSlices are what a Service's selector makes of the pods, by the rules of Kubernetes' own controller; none for
// a Service without one. Neither the order of pods nor what was there before matters.
func endpointSlices(s *corev1.Service, pods []*corev1.Pod, nodes map[string]*corev1.Node) []*discoveryv1.EndpointSlice {
	if len(s.Spec.Selector) == 0 || s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	selector := labels.SelectorFromSet(s.Spec.Selector)
	var selected []*corev1.Pod
	for _, p := range pods {
		ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		if p.Namespace == s.Namespace && selector.Matches(labels.Set(p.Labels)) && !ended {
			selected = append(selected, p)
		}
	}
	slices.SortFunc(selected, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	var all []*discoveryv1.EndpointSlice
	for _, family := range families(s) {
		all = append(all, familySlices(s, family, selected, nodes)...)
	}
	return all
}

// families are the address types of a Service's slices.
func families(s *corev1.Service) []discoveryv1.AddressType {
	var all []discoveryv1.AddressType
	for _, f := range s.Spec.IPFamilies {
		all = append(all, discoveryv1.AddressType(f)) // the same words
	}
	if len(all) > 0 {
		return all
	}
	// The API server would have filled them in.
	for _, ip := range append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...) {
		if a, err := netip.ParseAddr(ip); err == nil && !slices.Contains(all, addressType(a)) {
			all = append(all, addressType(a))
		}
	}
	if len(all) == 0 {
		all = []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}
	}
	return all
}

func addressType(a netip.Addr) discoveryv1.AddressType {
	if a.Is4() {
		return discoveryv1.AddressTypeIPv4
	}
	return discoveryv1.AddressTypeIPv6
}

// familySlices are a Service's slices of one address type. Pods whose ports have other numbers are in other slices.
func familySlices(
	s *corev1.Service, family discoveryv1.AddressType, pods []*corev1.Pod, nodes map[string]*corev1.Node,
) []*discoveryv1.EndpointSlice {
	ports, endpoints := map[string][]discoveryv1.EndpointPort{}, map[string][]discoveryv1.Endpoint{}
	for _, p := range pods {
		node := nodes[p.Spec.NodeName]
		if node == nil && !s.Spec.PublishNotReadyAddresses {
			continue
		}
		e := endpointOf(s, p, node, family)
		if len(e.Addresses) == 0 {
			continue
		}
		list := endpointPorts(s, p)
		key, _ := json.Marshal(list) // of plain values: it cannot err
		ports[string(key)] = list
		endpoints[string(key)] = append(endpoints[string(key)], e)
	}
	var all []*discoveryv1.EndpointSlice
	for _, key := range slices.Sorted(maps.Keys(ports)) {
		for part := range slices.Chunk(endpoints[key], maxEndpoints) {
			all = append(all, newSlice(s, family, len(all), ports[key], part))
		}
	}
	if len(all) == 0 { // that there is no endpoint is said, too
		all = append(all, newSlice(s, family, 0, nil, []discoveryv1.Endpoint{}))
	}
	return all
}

func newSlice(
	s *corev1.Service, family discoveryv1.AddressType, number int, ports []discoveryv1.EndpointPort, endpoints []discoveryv1.Endpoint,
) *discoveryv1.EndpointSlice {
	name := s.Name + "-ipv4"
	if family == discoveryv1.AddressTypeIPv6 {
		name = s.Name + "-ipv6"
	}
	if number > 0 {
		name += fmt.Sprintf("-%d", number+1)
	}
	own := maps.Clone(s.Labels)
	if own == nil {
		own = map[string]string{}
	}
	delete(own, corev1.IsHeadlessService)
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		own[corev1.IsHeadlessService] = ""
	}
	own[discoveryv1.LabelServiceName] = s.Name
	own[discoveryv1.LabelManagedBy] = "endpointslice-controller.lab.polder"
	return &discoveryv1.EndpointSlice{
		TypeMeta:    metav1.TypeMeta{APIVersion: discoveryv1.SchemeGroupVersion.String(), Kind: "EndpointSlice"},
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: s.Namespace, Labels: own},
		AddressType: family,
		Ports:       ports,
		Endpoints:   endpoints,
	}
}

// endpointOf is a pod as an endpoint of a Service; without addresses if it has none of the family.
func endpointOf(s *corev1.Service, p *corev1.Pod, node *corev1.Node, family discoveryv1.AddressType) discoveryv1.Endpoint {
	serving := slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	terminating := p.DeletionTimestamp != nil
	ready := s.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
	}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && addressType(a) == family {
			e.Addresses = append(e.Addresses, a.String())
		}
	}
	if p.Spec.NodeName != "" {
		e.NodeName = &p.Spec.NodeName
	}
	if node != nil && node.Labels[corev1.LabelTopologyZone] != "" {
		zone := node.Labels[corev1.LabelTopologyZone]
		e.Zone = &zone
	}
	if ready {
		e.Hints = hints(s, e)
	}
	return e
}

// hints say who should prefer an endpoint, where the Service wishes that somebody does.
func hints(s *corev1.Service, e discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	if s.Spec.TrafficDistribution == nil {
		return nil
	}
	h := &discoveryv1.EndpointHints{}
	switch *s.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if e.NodeName != nil {
			h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		}
		fallthrough
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
		if e.Zone != nil {
			h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
		}
	}
	if len(h.ForNodes)+len(h.ForZones) == 0 {
		return nil
	}
	return h
}

// endpointPorts are a Service's ports as a pod has them: a port's name that the pod does not know is left out.
func endpointPorts(s *corev1.Service, p *corev1.Pod) []discoveryv1.EndpointPort {
	var all []discoveryv1.EndpointPort
	for _, sp := range s.Spec.Ports {
		protocol := cmp.Or(sp.Protocol, corev1.ProtocolTCP)
		number := targetPort(sp, protocol, p)
		if number != 0 {
			all = append(all, discoveryv1.EndpointPort{Name: &sp.Name, Port: &number, Protocol: &protocol, AppProtocol: sp.AppProtocol})
		}
	}
	return all
}

// targetPort is the number of a pod's port that a Service's port leads to, 0 if it has none of that name.
func targetPort(sp corev1.ServicePort, protocol corev1.Protocol, p *corev1.Pod) int32 {
	if sp.TargetPort.Type == intstr.Int {
		return cmp.Or(sp.TargetPort.IntVal, sp.Port)
	}
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.Name == sp.TargetPort.StrVal && cmp.Or(port.Protocol, corev1.ProtocolTCP) == protocol {
				return port.ContainerPort
			}
		}
	}
	return 0
}
