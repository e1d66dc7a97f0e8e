package cluster

import (
	"cmp"
	"hash/maphash"
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"
)

// Protocol is an IP protocol number (IANA).
type Protocol uint8

// The protocols that Services have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return "unknown"
}

// ServiceName identifies a Service.
type ServiceName struct{ Namespace, Name string }

func (n ServiceName) String() string { return n.Namespace + "/" + n.Name }

// Compare orders by namespace, then name.
func (n ServiceName) Compare(other ServiceName) int {
	return cmp.Or(cmp.Compare(n.Namespace, other.Namespace), cmp.Compare(n.Name, other.Name))
}

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

// shards is how many parts a Services has: with 44,000 Services, a change copies some 200 entries.
const shards = 256

// Services are all Services by name. It is immutable: With makes another, which shares what did not change. The nil
// *Services is empty.
type Services struct {
	parts [shards]map[ServiceName]*ServiceObjects
	seed  maphash.Seed
}

// Get returns a Service's objects, nil if there are none.
func (s *Services) Get(name ServiceName) *ServiceObjects {
	if s == nil {
		return nil
	}
	return s.parts[s.shard(name)][name]
}

func (s *Services) shard(name ServiceName) int { return int(maphash.Comparable(s.seed, name) % shards) }

// Len is the number of names.
func (s *Services) Len() int {
	n := 0
	if s != nil {
		for _, part := range s.parts {
			n += len(part)
		}
	}
	return n
}

// All yields all names with their objects, in no order.
func (s *Services) All() iter.Seq2[ServiceName, *ServiceObjects] {
	return func(yield func(ServiceName, *ServiceObjects) bool) {
		if s == nil {
			return
		}
		for _, part := range s.parts {
			for name, objects := range part {
				if !yield(name, objects) {
					return
				}
			}
		}
	}
}

// With returns what s becomes by changes; nil objects take a name away.
func (s *Services) With(changes map[ServiceName]*ServiceObjects) *Services {
	next := &Services{seed: maphash.MakeSeed()}
	if s != nil {
		*next = *s
	}
	copied := map[int]bool{}
	for name, objects := range changes {
		i := next.shard(name)
		if !copied[i] {
			copied[i] = true
			next.parts[i] = maps.Clone(next.parts[i])
			if next.parts[i] == nil {
				next.parts[i] = map[ServiceName]*ServiceObjects{}
			}
		}
		if objects == nil {
			delete(next.parts[i], name)
		} else {
			next.parts[i][name] = objects
		}
	}
	return next
}

// ChangedSince lists the names whose objects are others than in old, sorted. Where s came from old by With, only the
// parts that differ are looked at.
func (s *Services) ChangedSince(old *Services) []ServiceName {
	var changed []ServiceName
	if s != nil && old != nil && s.seed == old.seed {
		for i := range s.parts {
			changed = appendChanges(changed, old.parts[i], s.parts[i])
		}
	} else {
		changed = appendChanges(changed, maps.Collect(old.All()), maps.Collect(s.All()))
	}
	slices.SortFunc(changed, ServiceName.Compare)
	return changed
}

func appendChanges(changed []ServiceName, old, now map[ServiceName]*ServiceObjects) []ServiceName {
	if reflect.ValueOf(old).Pointer() == reflect.ValueOf(now).Pointer() {
		return changed // one and the same map
	}
	for name, objects := range now {
		if old[name] != objects {
			changed = append(changed, name)
		}
	}
	for name := range old {
		if now[name] == nil {
			changed = append(changed, name)
		}
	}
	return changed
}
