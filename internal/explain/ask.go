package explain

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

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
	met := false
	for _, src := range from.Addresses {
		for _, dst := range to.Addresses {
			if src.Is4() == dst.Is4() {
				met = true
				ch := c.choose(from, src, netip.AddrPortFrom(dst, number), q.Protocol)
				if dual {
					ch.tellFamily(src.Is4())
				}
				c.follow(&a, from, src, ch, q.Protocol)
			}
		}
	}
	if !met {
		return Answer{}, errors.New("the two ends have no address family in common")
	}
	a.judge()
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
func (c *Cluster) follow(a *Answer, from end, src netip.Addr, ch choice, protocol cluster.Protocol) {
	if ch.service != nil {
		a.addService(ch, c)
	}
	for _, to := range ch.backends {
		w := c.Judge(src, to, protocol)
		w.Routes = []string{c.route(from, src, to.Addr())}
		a.addWay(w)
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

func (c *Cluster) side(j *oracle.Judgement) *Side {
	if j == nil {
		return nil
	}
	s := &Side{Pods: []string{j.Subject}, Allowed: j.Allowed, Reason: string(j.Reason), Rule: j.Rule, RuleName: j.RuleName}
	for _, by := range j.By {
		s.Decided = append(s.Decided, by.String())
	}
	for _, asked := range j.Asked {
		s.Policies = append(s.Policies, Policy{
			Object: asked.Policy.String(), Where: c.where[asked.Policy.String()], Tier: string(asked.Tier),
			Priority: asked.Priority, Rule: asked.Rule, RuleName: asked.RuleName, Action: asked.Action,
		})
	}
	return s
}

// addWay adds a way, or its addresses to one that is like it.
func (a *Answer) addWay(w Way) {
	for i := range a.Ways {
		same := &a.Ways[i]
		if !alike(same.Egress, w.Egress) || !alike(same.Ingress, w.Ingress) {
			continue
		}
		same.Pairs = append(same.Pairs, w.Pairs...)
		same.Routes = union(same.Routes, w.Routes)
		if w.Egress != nil {
			same.Egress.Pods = union(same.Egress.Pods, w.Egress.Pods)
		}
		if w.Ingress != nil {
			same.Ingress.Pods = union(same.Ingress.Pods, w.Ingress.Pods)
		}
		return
	}
	a.Ways = append(a.Ways, w)
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

// judge sums the ways up.
func (a *Answer) judge() {
	var reasons []string
	allowed := 0
	if a.Service != nil {
		reasons = append(reasons, a.Service.Refusals...)
	}
	for _, w := range a.Ways {
		if w.Allowed {
			allowed++
		}
		reasons = union(reasons, w.Blame())
	}
	a.Allowed = allowed > 0 && len(reasons) == 0
	switch {
	case a.Allowed:
		a.Verdict = "allowed"
	case allowed == 0 && len(a.Ways) == 0:
		a.Verdict = cmp.Or(strings.Join(reasons, "; "), "dropped: no node can choose a backend")
	case allowed == 0:
		a.Verdict = "denied: " + strings.Join(reasons, "; ")
	default:
		a.Verdict = "allowed for some packets only: " + strings.Join(reasons, "; ")
	}
}

// Blame says which end denies the packets, and by what.
func (w Way) Blame() (texts []string) {
	for _, s := range w.sides() {
		if !s.Allowed {
			texts = append(texts, fmt.Sprintf("%s %s, %s", s.direction, few(s.Pods), s.Blame()))
		}
	}
	return texts
}

func few(names []string) string {
	if len(names) <= 2 {
		return strings.Join(names, " and ")
	}
	return fmt.Sprintf("%s and %d others", names[0], len(names)-1)
}
