// Package explain says in words what a cluster's objects make of a packet: which backend a Service may choose, which way
// it goes, which policies select either end, and which rule decides. It asks the oracle, not the code that it explains,
// and needs no cluster. It is pure.
package explain

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
)

// Cluster answers questions.
type Cluster struct {
	objects  oracle.Objects
	nodes    []cluster.Node
	services []*cluster.ServiceObjects
	where    map[string]string // the manifest of an object, "web.yaml:12", by its name, "NetworkPolicy/default/web"
	pods     []*pod            // by name
}

// pod is what questions are about.
type pod struct {
	name      string // namespace/name
	node      string
	host      bool // it is in its node's network
	addresses []netip.Addr
	ports     []port
}

// port is one that a container says it has.
type port struct {
	name     string
	protocol cluster.Protocol
	number   uint16
}

// New reads a cluster: the API's objects, what Polder reads of nodes and Services, and which manifests the objects are
// from ("web.yaml:12" of "NetworkPolicy/default/web"). Pods that have ended are none any more.
func New(o oracle.Objects, nodes []cluster.Node, services []*cluster.ServiceObjects, where map[string]string) *Cluster {
	c := &Cluster{objects: o, nodes: nodes, services: services, where: where}
	for _, p := range o.Pods {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			c.pods = append(c.pods, c.readPod(p))
		}
	}
	slices.SortFunc(c.pods, func(a, b *pod) int { return strings.Compare(a.name, b.name) })
	return c
}

func (c *Cluster) readPod(o *corev1.Pod) *pod {
	p := &pod{
		name: o.Namespace + "/" + o.Name, node: o.Spec.NodeName, host: o.Spec.HostNetwork, addresses: oracle.PodAddresses(o),
	}
	if n := c.nodeNamed(p.node); p.host && n != nil && len(p.addresses) == 0 {
		p.addresses = primaries(*n)
	}
	for _, declared := range oracle.PodPorts(o) {
		if protocol, ok := protocolOf(declared.Protocol); ok && declared.ContainerPort > 0 && declared.ContainerPort < 1<<16 {
			p.ports = append(p.ports, port{declared.Name, protocol, uint16(declared.ContainerPort)})
		}
	}
	return p
}

// primaries are a node's own address of each family.
func primaries(n cluster.Node) (list []netip.Addr) {
	for _, ipv4 := range []bool{true, false} {
		if a := n.Address(ipv4); a.IsValid() {
			list = append(list, a)
		}
	}
	return list
}

func protocolOf(p corev1.Protocol) (cluster.Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return cluster.TCP, true
	case corev1.ProtocolUDP:
		return cluster.UDP, true
	case corev1.ProtocolSCTP:
		return cluster.SCTP, true
	}
	return 0, false
}

// HasPods says whether there is a pod that has addresses to itself.
func (c *Cluster) HasPods() bool {
	return slices.ContainsFunc(c.pods, func(p *pod) bool { return !p.host && len(p.addresses) > 0 })
}

// podNamed finds a pod, nil if there is none.
func (c *Cluster) podNamed(name string) *pod {
	for _, p := range c.pods {
		if p.name == name {
			return p
		}
	}
	return nil
}

// podAt finds the pod that has an address to itself, nil if there is none.
func (c *Cluster) podAt(a netip.Addr) *pod {
	for _, p := range c.pods {
		if !p.host && slices.Contains(p.addresses, a) {
			return p
		}
	}
	return nil
}

// nodeNamed finds a node, nil if there is none.
func (c *Cluster) nodeNamed(name string) *cluster.Node {
	for i, n := range c.nodes {
		if n.Name == name {
			return &c.nodes[i]
		}
	}
	return nil
}

// nodeAt finds the node that has an address, nil if there is none.
func (c *Cluster) nodeAt(a netip.Addr) *cluster.Node {
	for i, n := range c.nodes {
		if slices.Contains(n.Addresses, a) {
			return &c.nodes[i]
		}
	}
	return nil
}

// rawService finds a Service of any kind, nil if there is none.
func (c *Cluster) rawService(name string) *corev1.Service {
	for _, s := range c.objects.Services {
		if s.Namespace+"/"+s.Name == name {
			return s
		}
	}
	return nil
}

// serviceNamed finds a Service that nodes serve, nil if there is none.
func (c *Cluster) serviceNamed(name string) *cluster.Service {
	for _, s := range c.services {
		if s.Service.String() == name {
			return s.Service
		}
	}
	return nil
}

// DeclaredPort is a port that a pod says it has.
type DeclaredPort struct {
	Protocol cluster.Protocol
	Number   uint16
}

// Declared lists the ports that a pod, NAMESPACE/NAME, says it has, and whether there is such a pod with addresses to
// itself.
func (c *Cluster) Declared(name string) (list []DeclaredPort, ok bool) {
	p := c.podNamed(name)
	if p == nil || p.host {
		return nil, false
	}
	for _, port := range p.ports {
		if d := (DeclaredPort{port.protocol, port.number}); !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	return list, true
}
