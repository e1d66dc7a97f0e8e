package service

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// claim is that of a Service's port to a frontend, or of a Service to an address as a whole.
type claim struct {
	svc  *cluster.Service
	port int32 // its index
	kind Kind
}

// compare orders those who claim the same: a cluster IP before all others, then the older Service.
func (c claim) compare(other claim) int {
	rank := func(k Kind) int { return min(int(k), 1) }
	return cmp.Or(cmp.Compare(rank(c.kind), rank(other.kind)), cmp.Compare(c.svc.Created, other.svc.Created),
		cmp.Compare(c.svc.UID, other.svc.UID), c.svc.ServiceName.Compare(other.svc.ServiceName),
		cmp.Compare(c.port, other.port))
}

// name is that of the port which claims f.
func (c claim) name(f Frontend) PortName {
	return PortName{c.svc.ServiceName, c.svc.Ports[c.port].Name, f.Protocol, f.Addr.Is4()}
}

// claims yields the frontends that a Service asks for. Those of one port differ. A node port's address is unspecified.
func claims(self Self, svc *cluster.Service) iter.Seq2[Frontend, claim] {
	return func(yield func(Frontend, claim) bool) {
		for a, kind := range addresses(self, svc) {
			for i, p := range svc.Ports {
				number := p.Port
				if kind == NodePort {
					number = p.NodePort
				}
				if number != 0 && !yield(Frontend{a, number, p.Protocol}, claim{svc, int32(i), kind}) {
					return
				}
			}
		}
	}
}

// addresses yields the addresses that a Service asks for, each once, with the kind that says most of it. Those that
// cannot be anybody's are left out, and those of a family that the Service does not have.
func addresses(self Self, svc *cluster.Service) iter.Seq2[netip.Addr, Kind] {
	return func(yield func(netip.Addr, Kind) bool) {
		for i, a := range svc.ClusterIPs {
			if refusedClusterIP(a) == "" && !slices.Contains(svc.ClusterIPs[:i], a) && !yield(a, ClusterIP) {
				return
			}
		}
		for a, kind := range externalAddresses(self, svc) {
			if refusedAddr(a) == "" && hasFamily(svc, a.Is4()) && !yield(a, kind) {
				return
			}
		}
		for _, a := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			if hasFamily(svc, a.Is4()) && !yield(a, NodePort) {
				return
			}
		}
	}
}

// externalAddresses yields the load balancer's addresses, then spec.externalIPs if they are honoured, each once.
// An address that is both is a load balancer's: source ranges hold for it.
func externalAddresses(self Self, svc *cluster.Service) iter.Seq2[netip.Addr, Kind] {
	return func(yield func(netip.Addr, Kind) bool) {
		for i, a := range svc.LoadBalancerIPs {
			double := slices.Contains(svc.ClusterIPs, a) || slices.Contains(svc.LoadBalancerIPs[:i], a)
			if !double && !yield(a, LoadBalancer) {
				return
			}
		}
		if !self.ExternalIPs {
			return
		}
		for i, a := range svc.ExternalIPs {
			double := slices.Contains(svc.ClusterIPs, a) || slices.Contains(svc.LoadBalancerIPs, a) ||
				slices.Contains(svc.ExternalIPs[:i], a)
			if !double && !yield(a, ExternalIP) {
				return
			}
		}
	}
}

// hasFamily says whether the Service is one of IPv4, or of IPv6: it has a cluster IP of it.
func hasFamily(svc *cluster.Service, ipv4 bool) bool {
	return slices.ContainsFunc(svc.ClusterIPs, func(a netip.Addr) bool { return a.Is4() == ipv4 })
}

// book says who has what is claimed, and who would have it next.
type book[K comparable] struct {
	owners map[K]claim
	rivals map[K][]claim // sorted
}

func newBook[K comparable]() book[K] {
	return book[K]{owners: map[K]claim{}, rivals: map[K][]claim{}}
}

// add enters a claim. It returns the Service that thereby loses what it had, nil if there is none.
func (b book[K]) add(key K, c claim) *cluster.Service {
	owner, taken := b.owners[key]
	if !taken {
		b.owners[key] = c
		return nil
	}
	var loser *cluster.Service
	if c.compare(owner) < 0 {
		b.owners[key] = c
		c, loser = owner, owner.svc
	}
	at, _ := slices.BinarySearchFunc(b.rivals[key], c, claim.compare)
	b.rivals[key] = slices.Insert(b.rivals[key], at, c)
	return loser
}

// remove takes a claim back. It returns the Service that inherits, nil if there is none.
func (b book[K]) remove(key K, c claim) *cluster.Service {
	rivals := b.rivals[key]
	var heir *cluster.Service
	switch {
	case b.owners[key] != c:
		at := slices.Index(rivals, c)
		rivals = slices.Delete(rivals, at, at+1)
	case len(rivals) == 0:
		delete(b.owners, key)
		return nil
	default:
		b.owners[key], heir = rivals[0], rivals[0].svc
		rivals = slices.Delete(rivals, 0, 1)
	}
	b.rivals[key] = rivals
	if len(rivals) == 0 {
		delete(b.rivals, key)
	}
	return heir
}
