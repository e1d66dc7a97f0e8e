package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// directions index what there is for ingress and for egress.
const (
	ingress = iota
	egress
)

// networkPolicy is one that has been put.
type networkPolicy struct {
	object *cluster.NetworkPolicy
	gone   bool       // taken away, but maybe not to be forgotten yet
	rules  [2][]*rule // compiled when first needed
}

func (p *networkPolicy) direction(d int) *cluster.PolicyRules {
	if d == ingress {
		return p.object.Ingress
	}
	return p.object.Egress
}

func (p *networkPolicy) title() string { return "NetworkPolicy/" + p.object.Name.String() }

func (p *networkPolicy) compiled(d int, own string) []*rule {
	if p.rules[d] == nil {
		p.rules[d] = compileRules(p.title(), own, p.direction(d).Rules)
	}
	return p.rules[d]
}

// clusterPolicy is one that has been put.
type clusterPolicy struct {
	object *cluster.ClusterPolicy
	rules  [2][]*rule // compiled when first needed
}

func (p *clusterPolicy) direction(d int) []cluster.PolicyRule {
	if d == ingress {
		return p.object.Ingress
	}
	return p.object.Egress
}

func (p *clusterPolicy) compiled(d int) []*rule {
	if p.rules[d] == nil {
		p.rules[d] = compileRules("ClusterNetworkPolicy/"+p.object.Name, "", p.direction(d))
	}
	return p.rules[d]
}

func (p *clusterPolicy) selects(s *pod) bool {
	return selectsNamespace(p.object.Namespaces, s.ns) && selects(p.object.Pods, &s.object.Labels)
}

func (p *clusterPolicy) compare(other *clusterPolicy) int {
	a, b := p.object, other.object
	return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name))
}

// subject is a pod of this node that policies may isolate.
type subject struct {
	pod      *pod
	programs [2]*program // nil: nothing isolates it
	now      Subject
}

func (s *subject) name() cluster.Name {
	return cluster.Name{Namespace: s.pod.ns.name, Name: s.pod.name}
}

// setSubject puts whether a pod is one, after the pod itself.
func (t *Table) setSubject(ns *namespace, name string, object *cluster.Pod) {
	s := ns.subjects[name]
	if object == nil || object.Node != t.node || object.HostNetwork {
		if s != nil {
			delete(ns.subjects, name)
			delete(t.subjects, s.name())
			delete(t.touchedSubjects, s)
			for d := range s.programs {
				t.use(s, d, nil)
			}
		}
		return
	}
	if s == nil || s.pod != ns.pods[name] {
		s = &subject{pod: ns.pods[name]}
		if ns.subjects == nil {
			ns.subjects = map[string]*subject{}
		}
		ns.subjects[name] = s
		t.subjects[s.name()] = s
	}
	t.touchedSubjects[s] = true
}

// setNetworkPolicy puts one, and touches the subjects that it selected or does now.
func (t *Table) setNetworkPolicy(ns *namespace, name string, p *networkPolicy) {
	for _, s := range ns.subjects {
		for _, q := range []*networkPolicy{ns.policies[name], p} {
			if q != nil && selects(q.object.Subject, &s.pod.object.Labels) {
				t.touchedSubjects[s] = true
			}
		}
	}
	if p == nil {
		delete(ns.policies, name)
		return
	}
	if ns.policies == nil {
		ns.policies = map[string]*networkPolicy{}
	}
	ns.policies[name] = p
}

// expire forgets the NetworkPolicies that have been taken away. Not while their namespace goes: then policies may go
// before pods do (CVE-2024-7598), and those that are still there stay as they are.
func (t *Table) expire() {
	for ns := range t.expiring {
		if ns.object != nil && ns.object.Terminating {
			continue
		}
		delete(t.expiring, ns)
		for name, p := range ns.policies {
			if p.gone {
				t.setNetworkPolicy(ns, name, nil)
			}
		}
		t.leave(ns)
	}
}

// settleSubjects compiles what is asked of the subjects that something was changed about.
func (t *Table) settleSubjects() {
	if len(t.touchedSubjects) == 0 {
		return
	}
	tiers := slices.SortedFunc(maps.Values(t.clusterPolicies), (*clusterPolicy).compare)
	for s := range t.touchedSubjects {
		var selecting []*clusterPolicy
		for _, p := range tiers {
			if p.selects(s.pod) {
				selecting = append(selecting, p)
			}
		}
		isolating := s.isolating()
		for d := range s.programs {
			t.use(s, d, s.compile(d, selecting, isolating))
		}
	}
	clear(t.touchedSubjects)
}

// isolating lists the NetworkPolicies that select a subject, by name.
func (s *subject) isolating() (list []*networkPolicy) {
	for _, p := range s.pod.ns.policies {
		if selects(p.object.Subject, &s.pod.object.Labels) {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *networkPolicy) int { return a.object.Name.Compare(b.object.Name) })
	return list
}

// compile puts together what is asked of a subject in one direction, in the order in which it is asked; nil: nothing.
func (s *subject) compile(d int, selecting []*clusterPolicy, isolating []*networkPolicy) *program {
	p := &program{direction: d}
	tier := func(stage int, want cluster.Tier) {
		for _, c := range selecting {
			if c.object.Tier == want {
				p.add(stage, c.compiled(d), s.pod)
			}
		}
	}
	tier(0, cluster.Admin)
	for _, n := range isolating {
		if n.direction(d) != nil {
			p.isolators = append(p.isolators, n.title())
			p.add(1, n.compiled(d, s.pod.ns.name), s.pod)
		}
	}
	if len(p.isolators) == 0 {
		tier(2, cluster.Baseline)
	} else if d == egress {
		p.add(1, []*rule{ownNode()}, s.pod)
	}
	if len(p.rules) == 0 && len(p.isolators) == 0 {
		return nil
	}
	p.seal()
	return p
}

// problems are what a subject cannot be given.
func (s *subject) problems() (list []cluster.Problem) {
	for d, word := range []string{"ingress", "egress"} {
		if p := s.programs[d]; p != nil && p.overflown > 0 {
			list = append(list, cluster.Problem{Object: "Pod/" + s.name().String(), Message: fmt.Sprintf(
				"%s: nothing passes, as its policies ask for more than %d ranges of ports of one peer: use fewer of them",
				word, MaxSpans)})
		}
	}
	return list
}
