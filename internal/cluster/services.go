package cluster

import (
	"net/netip"

	"github.com/polder-net/polder/internal/plain"
)

// Protocol is an IP protocol number (IANA).
type Protocol = plain.Protocol

// The protocols that Services and policies have.
const (
	TCP  = plain.TCP
	UDP  = plain.UDP
	SCTP = plain.SCTP
)

// Service is what Polder reads of a Kubernetes Service that this node's proxy is to serve. Those that no proxy serves
// (headless, ExternalName) and those of another proxy (label service.kubernetes.io/service-proxy-name) are left out.
type Service struct {
	ServiceName
	UID     string
	Created int64 // metadata.creationTimestamp, Unix seconds: of two that claim one address, the older has it

	ClusterIPs      []netip.Addr // at most one a family
	ExternalIPs     []netip.Addr // spec.externalIPs
	LoadBalancerIPs []netip.Addr // status.loadBalancer.ingress[].ip whose ipMode is VIP or absent
	Ports           []ServicePort

	// SourceRanges limit who may use LoadBalancerIPs: masked; empty: everybody.
	SourceRanges []netip.Prefix

	InternalLocal bool // internalTrafficPolicy: Local
	ExternalLocal bool // externalTrafficPolicy: Local

	// Affinity is how long a client stays with its backend, in seconds; 0: sessionAffinity is None.
	Affinity int

	HealthCheckNodePort uint16 // 0: none
}

// ServicePort is one of a Service's ports.
type ServicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
	NodePort uint16 // 0: none
}

// EndpointSlice is what Polder reads of a Kubernetes EndpointSlice of addressType IPv4 or IPv6.
type EndpointSlice struct {
	Name      string // unique in the Service's namespace
	IPv4      bool
	Ports     []EndpointPort
	Endpoints []Endpoint
}

// EndpointPort is a port that all endpoints of a slice have. Those without a number are left out.
type EndpointPort struct {
	Name     string // the Service port's
	Protocol Protocol
	Port     uint16
}

// Endpoint is one endpoint of a slice. The conditions are as their defaults make them: ready is true where the object
// says nothing, serving is as ready, terminating is false.
type Endpoint struct {
	Addr     netip.Addr // the first of its addresses
	Node     string     // nodeName; empty: none is known
	ForZones []string   // hints
	ForNodes []string

	Ready, Serving, Terminating bool
}

// ServiceObjects is a Service with all its EndpointSlices, or slices whose Service is not known (yet). Nobody changes it
// once it is in a Services.
type ServiceObjects struct {
	Service *Service         // nil: there are slices alone
	Slices  []*EndpointSlice // sorted by name
}

// ServiceName identifies a Service.
type ServiceName = Name

// Services are all Services, by name.
type Services = Map[ServiceObjects]
