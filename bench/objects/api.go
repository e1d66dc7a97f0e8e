package objects

import (
	"net/netip"

	"github.com/polder-net/polder/bench/apiserver"
)

// Service is a Kubernetes Service, as far as proxies read it.
type Service struct {
	apiserver.Meta
	Spec struct {
		Type       string   `json:"type"`
		ClusterIP  string   `json:"clusterIP"`
		ClusterIPs []string `json:"clusterIPs"`
		IPFamilies []string `json:"ipFamilies"`
		Policy     string   `json:"ipFamilyPolicy"`
		Internal   string   `json:"internalTrafficPolicy"`
		Affinity   string   `json:"sessionAffinity"`
		Ports      []port   `json:"ports"`
	} `json:"spec"`
}

// Slice is an EndpointSlice.
type Slice struct {
	apiserver.Meta
	AddressType string     `json:"addressType"`
	Endpoints   []endpoint `json:"endpoints"`
	Ports       []port     `json:"ports"`
}

// Node is a Kubernetes Node, as far as proxies read it.
type Node struct {
	apiserver.Meta
	Spec struct {
		PodCIDR  string   `json:"podCIDR"`
		PodCIDRs []string `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		Addresses []nodeAddress `json:"addresses"`
	} `json:"status"`
}

type port struct {
	Name       string `json:"name"`
	Protocol   string `json:"protocol"`
	Port       int    `json:"port"`
	TargetPort int    `json:"targetPort,omitempty"`
}

type endpoint struct {
	Addresses  []string        `json:"addresses"`
	Conditions map[string]bool `json:"conditions"`
	NodeName   string          `json:"nodeName"`
}

type nodeAddress struct {
	Type    string `json:"type"`
	Address string `json:"address"`
}

// Put tells an API server of all Services and their slices.
func (c Content) Put(s *apiserver.Server) {
	for i := range c.Size.Services {
		s.Put(apiserver.Services, c.service(i))
		for number, endpoints := range c.slices(i) {
			s.Put(apiserver.Slices, c.slice(i, number, endpoints))
		}
	}
}

// PutEndpoint makes a Service have one endpoint alone, in its first slice.
func (c Content) PutEndpoint(s *apiserver.Server, i int, e netip.AddrPort) {
	s.Put(apiserver.Slices, c.slice(i, 0, []netip.AddrPort{e}))
}

func (c Content) service(i int) *Service {
	name, ip := c.Name(i), c.ClusterIP(i).String()
	s := &Service{Meta: apiserver.NewMeta("v1", "Service", name.Namespace, name.Name)}
	s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.IPFamilies = "ClusterIP", ip, []string{ip}, []string{"IPv4"}
	s.Spec.Policy, s.Spec.Internal, s.Spec.Affinity = "SingleStack", "Cluster", "None"
	s.Spec.Ports = []port{{Protocol: "TCP", Port: ServicePort, TargetPort: int(c.Endpoint(i, 0).Port())}}
	return s
}

func (c Content) slice(i, number int, endpoints []netip.AddrPort) *Slice {
	name := c.Name(i)
	s := &Slice{Meta: apiserver.NewMeta("discovery.k8s.io/v1", "EndpointSlice", name.Namespace, sliceName(name.Name, number)),
		AddressType: "IPv4", Ports: []port{{Protocol: "TCP", Port: int(endpoints[0].Port())}}}
	s.Metadata.Labels = map[string]string{"kubernetes.io/service-name": name.Name,
		"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, endpoint{[]string{e.Addr().String()},
			map[string]bool{"ready": true, "serving": true, "terminating": false}, "node-2"})
	}
	return s
}

// NewNode returns a Node with an address and a pod CIDR.
func NewNode(name string, addr netip.Addr, podCIDR netip.Prefix) *Node {
	n := &Node{Meta: apiserver.NewMeta("v1", "Node", "", name)}
	n.Spec.PodCIDR, n.Spec.PodCIDRs = podCIDR.String(), []string{podCIDR.String()}
	n.Status.Addresses = []nodeAddress{{"InternalIP", addr.String()}, {"Hostname", name}}
	return n
}
