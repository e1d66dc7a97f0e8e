package cases

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polder-net/polder/internal/oracle"
)

// direction is a policy type in small letters.
type direction string

const (
	ingress direction = "ingress"
	egress  direction = "egress"
)

// plan is a policy whose directions look alike. One without rules (nil) is not among its types.
type plan struct {
	Namespace, Name string
	Subject         metav1.LabelSelector
	Ingress, Egress *[]rule
}

type rule struct {
	Peers []networkingv1.NetworkPolicyPeer
	Ports []networkingv1.NetworkPolicyPort
}

func (d direction) of(p *plan) **[]rule {
	if d == ingress {
		return &p.Ingress
	}
	return &p.Egress
}

// withPeers changes the peers of the first rule.
func (p plan) withPeers(d direction, peers []networkingv1.NetworkPolicyPeer) plan {
	rules := slices.Clone(**d.of(&p))
	rules[0].Peers = peers
	*d.of(&p) = &rules
	return p
}

// withPorts changes the ports of the first rule.
func (p plan) withPorts(d direction, ports []networkingv1.NetworkPolicyPort) plan {
	rules := slices.Clone(**d.of(&p))
	rules[0].Ports = ports
	*d.of(&p) = &rules
	return p
}

func (p plan) policy() *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}}
	np.Spec.PodSelector = p.Subject
	if p.Ingress != nil {
		np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
		for _, r := range *p.Ingress {
			np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: r.Peers, Ports: r.Ports})
		}
	}
	if p.Egress != nil {
		np.Spec.PolicyTypes = append(np.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		for _, r := range *p.Egress {
			np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: r.Peers, Ports: r.Ports})
		}
	}
	return np
}

// named is an object with labels.
type named struct {
	Name   string
	Labels map[string]string
}

// change is one or more changes of a history; pods and policies are "namespace/name".
type change struct {
	Base *struct { // the base policy, with these in its first rule
		IngressPeers []networkingv1.NetworkPolicyPeer
		IngressPorts []networkingv1.NetworkPolicyPort
	}
	Policy                               *plan
	Space, Pod                           *named
	DeletePolicy, DeleteSpace, DeletePod string
}

// world is a cluster in the making.
type world struct {
	spaces, pods map[string]map[string]string // name to labels
	policies     map[string]plan
}

func newWorld() *world {
	w := &world{map[string]map[string]string{}, map[string]map[string]string{}, map[string]plan{}}
	for _, ns := range []string{"x", "y", "z"} {
		w.spaces[ns] = map[string]string{"ns": ns}
		for _, pod := range []string{"a", "b", "c"} {
			w.pods[ns+"/"+pod] = map[string]string{"pod": pod}
		}
	}
	return w
}

func (w *world) apply(base plan, c change) {
	if c.Base != nil {
		if c.Base.IngressPeers != nil {
			base = base.withPeers(ingress, c.Base.IngressPeers)
		}
		if c.Base.IngressPorts != nil {
			base = base.withPorts(ingress, c.Base.IngressPorts)
		}
		w.policies[base.Namespace+"/"+base.Name] = base
	}
	if c.Policy != nil {
		w.policies[c.Policy.Namespace+"/"+c.Policy.Name] = *c.Policy
	}
	if c.Space != nil {
		w.spaces[c.Space.Name] = c.Space.Labels
	}
	if c.Pod != nil {
		w.pods[c.Pod.Name] = c.Pod.Labels
	}
	delete(w.policies, c.DeletePolicy)
	delete(w.pods, c.DeletePod)
	delete(w.spaces, c.DeleteSpace)
	maps.DeleteFunc(w.pods, func(pod string, _ map[string]string) bool {
		ns, _, _ := strings.Cut(pod, "/")
		return w.spaces[ns] == nil
	})
}

// objects are the world's. Pods of namespaces x, y and z have addresses 10.0.1.1 to 10.0.3.3, and run on three nodes.
func (w *world) objects() *oracle.Objects {
	o := &oracle.Objects{}
	for i := range 3 {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i)}}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprint("192.0.2.", i)}}
		o.Nodes = append(o.Nodes, node)
	}
	for _, name := range slices.Sorted(maps.Keys(w.spaces)) {
		labels := maps.Clone(w.spaces[name])
		labels[corev1.LabelMetadataName] = name
		o.Namespaces = append(o.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
	}
	for _, name := range slices.Sorted(maps.Keys(w.pods)) {
		o.Pods = append(o.Pods, cyclonusPod(name, w.pods[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(w.policies)) {
		o.NetworkPolicies = append(o.NetworkPolicies, w.policies[name].policy())
	}
	return o
}

func cyclonusPod(full string, labels map[string]string) *corev1.Pod {
	ns, name, _ := strings.Cut(full, "/")
	space := map[string]int{"x": 1, "y": 2, "z": 3, "w": 4, "y-2": 5}[ns]
	i := int(name[0]-'a') + 1
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: labels}}
	pod.Spec.NodeName = fmt.Sprint("node-", i%3)
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.0.%d.%d", space, i)}}
	pod.Status.PodIP = pod.Status.PodIPs[0].IP
	for _, port := range []int32{80, 81} {
		for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{
				Name:  fmt.Sprintf("c-%d-%s", port, strings.ToLower(string(protocol))),
				Ports: []corev1.ContainerPort{{Name: fmt.Sprintf("serve-%d-%s", port, strings.ToLower(string(protocol))), ContainerPort: port, Protocol: protocol}},
			})
		}
	}
	return pod
}

// Tried lists the connections that cyclonus tries: between all pods, to ports 80 and 81 of three protocols.
func Tried(o *oracle.Objects) (all []oracle.Packet) {
	for _, from := range o.Pods {
		for _, to := range o.Pods {
			for _, protocol := range []uint8{6, 17, 132} {
				for _, port := range []uint16{80, 81} {
					all = append(all, oracle.Packet{Src: oracle.PodAddresses(from)[0], Dst: oracle.PodAddresses(to)[0], Protocol: protocol, Port: port})
				}
			}
		}
	}
	return all
}
