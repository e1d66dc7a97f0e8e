package explain

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
)

// Ask answers a question. An end is NAMESPACE/NAME of a pod, node/NAME, or any address; a destination may be
// svc/NAMESPACE/NAME, or NAMESPACE/NAME of a Service if there is no such pod. An error says that the question is a wrong
// one: about somebody who is not there, say.
func (c *Cluster) Ask(q Question) (Answer, error) {
	from, err := c.end(q.From, false)
	if err != nil {
		return Answer{}, err
	}
	to, err := c.end(q.To, true)
	if err != nil {
		return Answer{}, err
	}
	number, err := to.portOf(q)
	if err != nil {
		return Answer{}, err
	}
	dual := hasBoth(from.Addresses) && hasBoth(to.Addresses)
	a := Answer{From: from.End, To: to.End, Protocol: protocolName(q.Protocol), Port: number, Ways: []Way{}}
	var families []*family
	for _, src := range from.Addresses {
		for _, dst := range to.Addresses {
			if src.Is4() == dst.Is4() {
				f := &family{ipv4: src.Is4()}
				families = append(families, f)
				ch := c.choose(from, src, netip.AddrPortFrom(dst, number), q.Protocol)
				f.refusals = slices.Clone(ch.refusals)
				if dual {
					ch.tellFamily(f.name())
				}
				c.follow(&a, f, from, src, ch, q.Protocol)
			}
		}
	}
	if len(families) == 0 {
		return Answer{}, errors.New("the two ends have no address family in common")
	}
	a.judge(families)
	return a, nil
}

func protocolName(p cluster.Protocol) string {
	if p == ICMP {
		return "ICMP"
	}
	return p.String()
}

func hasBoth(list []netip.Addr) bool {
	return slices.ContainsFunc(list, netip.Addr.Is4) && slices.ContainsFunc(list, netip.Addr.Is6)
}

// follow adds what becomes of packets from an address to where the Services lead them.
func (c *Cluster) follow(a *Answer, f *family, from end, src netip.Addr, ch choice, protocol cluster.Protocol) {
	if ch.service != nil {
		a.addService(ch, c)
	}
	for _, to := range ch.backends {
		w := c.Judge(src, to, protocol)
		via := ch.via[to]
		w.Routes = []string{c.route(from, src, to.Addr(), via)}
		w.Notes = c.notes(w, via, protocol)
		f.ways, a.Ways = addWay(f.ways, w), addWay(a.Ways, w)
	}
}

func (a *Answer) addService(ch choice, c *Cluster) {
	if a.Service == nil {
		a.Service = ch.service
		a.Service.Backends = []Backend{}
	}
	for _, r := range ch.refusals {
		if !slices.Contains(a.Service.Refusals, r) {
			a.Service.Refusals = append(a.Service.Refusals, r)
		}
	}
	for _, to := range ch.backends {
		b := Backend{Address: to}
		if p := c.podAt(to.Addr()); p != nil {
			b.Pod, b.Node = p.name, p.node
		} else if n := c.nodeAt(to.Addr()); n != nil {
			b.Node = n.Name
		}
		a.Service.Backends = append(a.Service.Backends, b)
	}
}

// Judge asks the oracle what becomes of packets from an address to another, which Services have chosen.
func (c *Cluster) Judge(src netip.Addr, to netip.AddrPort, protocol cluster.Protocol) Way {
	ruling := c.objects.Judge(packet(src, to.Addr(), protocol, to.Port()))
	return Way{
		Pairs: []Pair{{src, to, c.who(to.Addr())}}, Allowed: ruling.Allowed,
		Egress: c.side(ruling.Egress), Ingress: c.side(ruling.Ingress),
	}
}

func packet(src, dst netip.Addr, protocol cluster.Protocol, port uint16) oracle.Packet {
	const icmpv6 = 58
	p := oracle.Packet{Src: src, Dst: dst, Protocol: uint8(protocol), Port: port}
	if protocol == ICMP && !src.Is4() {
		p.Protocol = icmpv6
	}
	return p
}

// who names whoever has an address; empty: nobody in the cluster.
func (c *Cluster) who(a netip.Addr) string {
	if p := c.podAt(a); p != nil {
		return p.name
	}
	if n := c.nodeAt(a); n != nil {
		return "node/" + n.Name
	}
	return ""
}

// side counts rules from 1, as people do.
func (c *Cluster) side(j *oracle.Judgement) *Side {
	if j == nil {
		return nil
	}
	s := &Side{Pods: []string{j.Subject}, Allowed: j.Allowed, Reason: string(j.Reason), Rule: j.Rule + 1, RuleName: j.RuleName}
	for _, by := range j.By {
		s.Decided = append(s.Decided, by.String())
	}
	for _, asked := range j.Asked {
		p := Policy{
			Object: asked.Policy.String(), Where: c.where[asked.Policy.String()], Tier: string(asked.Tier),
			Rule: asked.Rule + 1, RuleName: asked.RuleName, Action: asked.Action,
		}
		if asked.Tier != oracle.NetworkPolicyTier {
			p.Priority = &asked.Priority
		}
		s.Policies = append(s.Policies, p)
	}
	s.markUnasked(j.Egress)
	return s
}

// markUnasked marks the policies that are not asked: those behind a decision and, of their own tier, those behind a Pass.
// All NetworkPolicies are asked together, and decide.
func (s *Side) markUnasked(egress bool) {
	decided, passed := s.Reason == string(oracle.Itself) || s.Reason == string(oracle.OwnNode) && !egress, ""
	isolated := false
	for i := range s.Policies {
		p := &s.Policies[i]
		decided = decided || isolated && p.Tier == string(oracle.BaselineTier)
		p.NotReached = decided || p.Tier == passed
		switch {
		case p.NotReached:
		case p.Tier == string(oracle.NetworkPolicyTier):
			isolated = true
		case p.Action == "Pass":
			passed = p.Tier
		case p.Rule > 0:
			decided = true
		}
	}
}

// addWay adds a way, or its addresses to one that is like it.
func addWay(list []Way, w Way) []Way {
	for i := range list {
		same := &list[i]
		if !alike(same.Egress, w.Egress) || !alike(same.Ingress, w.Ingress) {
			continue
		}
		same.Pairs = append(same.Pairs, w.Pairs...)
		same.Routes, same.Notes = union(same.Routes, w.Routes), union(same.Notes, w.Notes)
		if w.Egress != nil {
			same.Egress.Pods = union(same.Egress.Pods, w.Egress.Pods)
		}
		if w.Ingress != nil {
			same.Ingress.Pods = union(same.Ingress.Pods, w.Ingress.Pods)
		}
		return list
	}
	return append(list, w.clone())
}

// clone copies all that addWay changes.
func (w Way) clone() Way {
	w.Pairs, w.Routes, w.Notes = slices.Clone(w.Pairs), slices.Clone(w.Routes), slices.Clone(w.Notes)
	for _, side := range []**Side{&w.Egress, &w.Ingress} {
		if *side != nil {
			s := **side
			s.Pods = slices.Clone(s.Pods)
			*side = &s
		}
	}
	return w
}

// alike says whether two pods' policies say the same in the same words.
func alike(a, b *Side) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Pods, y.Pods = nil, nil
	return reflect.DeepEqual(x, y)
}

func union[T comparable](list, more []T) []T {
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}
