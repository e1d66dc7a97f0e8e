package api

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ServicesRequest says which Services are asked about.
type ServicesRequest struct {
	Namespace string `json:"namespace,omitempty"` // empty: all
	Name      string `json:"name,omitempty"`      // with Namespace: this one, in detail
	Most      int    `json:"most,omitempty"`      // list so many at most; 0: all
}

// ServicesReport is what the agent answers to the verb Services: what it serves of which Service. Lists are sorted.
// A field may be added; none is renamed or changes its meaning.
type ServicesReport struct {
	Node     string    `json:"node"`
	Total    int       `json:"total"` // that were asked about, listed or not
	Services []Service `json:"services"`
}

// Service is a Service as this node serves it, or the host ports of a pod of this node.
type Service struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Pod       bool   `json:"pod,omitempty"` // it is a pod with host ports

	InternalTrafficPolicy string         `json:"internalTrafficPolicy"` // "Cluster" or "Local"
	ExternalTrafficPolicy string         `json:"externalTrafficPolicy"`
	Affinity              int            `json:"affinity,omitempty"` // seconds that a client stays with its backend
	SourceRanges          []netip.Prefix `json:"sourceRanges,omitempty"`
	HealthCheckNodePort   uint16         `json:"healthCheckNodePort,omitempty"`

	Ports    []ServicePort `json:"ports,omitempty"`
	Problems []string      `json:"problems,omitempty"`
}

// ServicePort is a port of a Service in one address family.
type ServicePort struct {
	Name      string     `json:"name,omitempty"`
	Protocol  string     `json:"protocol"`
	Family    string     `json:"family"` // "IPv4" or "IPv6"
	Frontends []Frontend `json:"frontends,omitempty"`

	// Backends are at most MostBackends, this node's first, unless one Service was asked about; BackendCount is how many
	// there are.
	Backends     []Backend `json:"backends,omitempty"`
	BackendCount int       `json:"backendCount"`
	LeftOut      []LeftOut `json:"leftOut,omitempty"` // of the one Service that was asked about
}

// MostBackends are listed of a port where many Services are.
const MostBackends = 8

// Frontend is an address and port that clients use. An unspecified address stands for every address of every node.
type Frontend struct {
	Address netip.AddrPort `json:"address"`
	Kind    string         `json:"kind"` // "ClusterIP", "ExternalIP", "LoadBalancer", "NodePort", "HostPort"
}

// Backend is an address and port that serves.
type Backend struct {
	Address netip.AddrPort `json:"address"`
	Node    string         `json:"node,omitempty"` // empty: not known
	Local   bool           `json:"local,omitempty"`

	// Policies are the traffic policies that lead to it: "Cluster", "Local".
	Policies []string `json:"policies,omitempty"`
}

// LeftOut is an endpoint that serves no client of this node.
type LeftOut struct {
	Address netip.AddrPort `json:"address"` // port 0: it has none for this one
	Reason  string         `json:"reason"`
}

func (r *ServicesRequest) validate() error {
	switch {
	case r == nil:
		return nil
	case r.Name != "" && r.Namespace == "":
		return errors.New("a Service without a namespace")
	case r.Most < 0:
		return fmt.Errorf("at most %d Services cannot be listed", r.Most)
	}
	return ValidateObject(r.Namespace, r.Name)
}

// ValidateObject checks the namespace and name of a Kubernetes object, as far as there are any.
func ValidateObject(namespace, name string) error {
	if len(namespace) > maxNamespace || len(name) > maxPodName {
		return fmt.Errorf("name of %d and namespace of %d bytes, at most %d and %d fit", len(name), len(namespace), maxPodName, maxNamespace)
	}
	if i := strings.IndexFunc(namespace+name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.'
	}); i >= 0 {
		return fmt.Errorf("name %q in namespace %q: %q may not be there", name, namespace, (namespace + name)[i])
	}
	return nil
}
