package cases

import (
	_ "embed" // the cases
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/polder-net/polder/internal/oracle"
)

//go:embed cyclonus.yaml
var cyclonus []byte

// Case is one of cyclonus'. Between two states, objects change.
type Case struct {
	Name   string
	States []*oracle.Objects
}

// suite is cyclonus.yaml.
type suite struct {
	Base, AllowDNS    plan
	Namespaces        []string
	Subjects          []metav1.LabelSelector
	Rules             [][]rule
	Peers, PeersAlone []networkingv1.NetworkPolicyPeer
	Ports             [][]networkingv1.NetworkPolicyPort
	All               map[string][]rule
	Conflicts         [][]string
	Histories         []struct {
		Name   string
		States [][]change
	}
}

// Cyclonus returns cyclonus' cases, of which there are 230.
func Cyclonus() ([]Case, error) {
	var s suite
	if err := yaml.UnmarshalStrict(cyclonus, &s); err != nil {
		return nil, fmt.Errorf("read cyclonus.yaml: %w", err)
	}
	s.Base.Name = "base"
	all := s.targetCases()
	for _, d := range []direction{ingress, egress} {
		all = append(all, s.ruleCases(d)...)
		all = append(all, s.peerCases(d)...)
		all = append(all, s.portCases(d)...)
	}
	all = append(all, s.conflictCases()...)
	for _, h := range s.Histories {
		w := newWorld()
		c := Case{Name: h.Name}
		for _, changes := range h.States {
			for _, one := range changes {
				w.apply(s.Base, one)
			}
			c.States = append(c.States, w.objects())
		}
		all = append(all, c)
	}
	return all, nil
}

// one is a case of policies that are there from the beginning.
func one(name string, plans ...plan) Case {
	w := newWorld()
	for _, p := range plans {
		w.policies[p.Namespace+"/"+p.Name] = p
	}
	return Case{name, []*oracle.Objects{w.objects()}}
}

func (s suite) targetCases() (all []Case) {
	for _, ns := range s.Namespaces {
		p := s.Base
		p.Namespace = ns
		all = append(all, one("target in "+ns, p))
	}
	for _, selector := range s.Subjects {
		p := s.Base
		p.Subject = selector
		all = append(all, one("target "+metav1.FormatLabelSelector(&selector), p))
	}
	return all
}

func (s suite) ruleCases(d direction) (all []Case) {
	for _, rules := range s.Rules {
		p := s.Base
		*d.of(&p) = &rules
		all = append(all, one(fmt.Sprintf("%s of %d rules", d, len(rules)), p))
	}
	return all
}

func (s suite) peerCases(d direction) (all []Case) {
	lists := [][]networkingv1.NetworkPolicyPeer{nil}
	for i, p := range s.Peers {
		lists = append(lists, s.Peers[i:i+1])
		for _, q := range s.Peers[i+1:] {
			lists = append(lists, []networkingv1.NetworkPolicyPeer{p, q})
		}
	}
	lists = append(lists, s.PeersAlone)
	for _, peers := range lists {
		all = append(all, one(fmt.Sprintf("%s peers %s", d, text(peers)), s.Base.withPeers(d, peers)))
	}
	return all
}

func (s suite) portCases(d direction) (all []Case) {
	for _, ports := range append([][]networkingv1.NetworkPolicyPort{nil}, s.Ports...) {
		all = append(all, one(fmt.Sprintf("%s ports %s", d, text(ports)), s.Base.withPorts(d, ports)))
	}
	return all
}

func text(v any) string {
	out, _ := yaml.Marshal(v)
	return strings.Join(strings.Fields(string(out)), " ")
}

func (s suite) conflictCases() (all []Case) {
	for _, words := range s.Conflicts {
		var plans []plan
		for i, word := range words {
			p := plan{Namespace: "x", Name: fmt.Sprint("conflict-", i), Subject: metav1.LabelSelector{MatchLabels: map[string]string{"pod": "b"}}}
			at, to := strings.CutPrefix(word, "to ")
			if to {
				p.Namespace, p.Subject.MatchLabels = "y", map[string]string{"pod": "c"}
			}
			d, which, _ := strings.Cut(at, " ")
			rules := s.All[which]
			*direction(d).of(&p) = &rules
			plans = append(plans, p)
		}
		if strings.Contains(strings.Join(words, " "), "egress") {
			plans = append(plans, s.AllowDNS)
		}
		all = append(all, one("conflict of "+strings.Join(words, " and "), plans...))
	}
	return all
}
