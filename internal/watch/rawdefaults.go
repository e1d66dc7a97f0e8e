package watch

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// oneLine is an error's text as problems have it, which YAML's errors are not.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// fillIn gives an object of a manifest what an API server would, as far as questions about the network ask for it.
func fillIn(obj runtime.Object) {
	switch o := obj.(type) {
	case *corev1.Namespace:
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[corev1.LabelMetadataName] = o.Name
	case *corev1.Pod:
		fillInPod(o)
	case *corev1.Service:
		fillInService(o)
	case *discoveryv1.EndpointSlice:
		for i := range o.Ports {
			o.Ports[i].Protocol = orDefault(o.Ports[i].Protocol, corev1.ProtocolTCP)
			o.Ports[i].Name = orDefault(o.Ports[i].Name, "")
		}
	case *networkingv1.NetworkPolicy:
		fillInPolicy(o)
	case *policyv1alpha2.ClusterNetworkPolicy: // its defaults are those of Go
	}
}

func orDefault[T any](p *T, value T) *T {
	if p == nil {
		return &value
	}
	return p
}

func fillInPod(o *corev1.Pod) {
	for _, list := range [][]corev1.Container{o.Spec.InitContainers, o.Spec.Containers} {
		for _, c := range list {
			for i := range c.Ports {
				if c.Ports[i].Protocol == "" {
					c.Ports[i].Protocol = corev1.ProtocolTCP
				}
			}
		}
	}
	if len(o.Status.PodIPs) == 0 && o.Status.PodIP != "" {
		o.Status.PodIPs = []corev1.PodIP{{IP: o.Status.PodIP}}
	}
}

func fillInService(o *corev1.Service) {
	if o.Spec.Type == "" {
		o.Spec.Type = corev1.ServiceTypeClusterIP
	}
	if len(o.Spec.ClusterIPs) == 0 && o.Spec.ClusterIP != "" {
		o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
	}
	for i := range o.Spec.Ports {
		if o.Spec.Ports[i].Protocol == "" {
			o.Spec.Ports[i].Protocol = corev1.ProtocolTCP
		}
	}
}

// fillInPolicy says the directions that a NetworkPolicy without policyTypes isolates, and that a port is one of TCP.
func fillInPolicy(o *networkingv1.NetworkPolicy) {
	if len(o.Spec.PolicyTypes) == 0 {
		o.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(o.Spec.Egress) > 0 {
			o.Spec.PolicyTypes = append(o.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	for _, rule := range o.Spec.Ingress {
		fillInPolicyPorts(rule.Ports)
	}
	for _, rule := range o.Spec.Egress {
		fillInPolicyPorts(rule.Ports)
	}
}

func fillInPolicyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		ports[i].Protocol = orDefault(ports[i].Protocol, corev1.ProtocolTCP)
	}
}
