package lab_test

import (
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/polder-net/polder/lab"
)

// parts says which of its three parts Polder plays on a cluster's nodes. Without the network, ptp connects pods.
type parts struct{ network, services, policies bool }

// everySubset is all of them but none.
func everySubset() []parts {
	return []parts{
		{network: true}, {services: true}, {policies: true},
		{network: true, services: true}, {network: true, policies: true}, {services: true, policies: true},
		{true, true, true},
	}
}

func (p parts) String() string {
	var names []string
	for _, part := range []struct {
		name string
		on   bool
	}{{"network", p.network}, {"services", p.services}, {"policies", p.policies}} {
		if part.on {
			names = append(names, part.name)
		}
	}
	if len(names) == 3 {
		return "all three"
	}
	return strings.Join(names, " and ")
}

// args are an agent's.
func (p parts) args() []string {
	of := func(on bool, yes string) string {
		if on {
			return yes
		}
		return "off"
	}
	return []string{"--routing", of(p.network, "auto"), "--services", of(p.services, "on"), "--policies", of(p.policies, "on")}
}

// knowsPods says whether the agent is told of pods: it connects them, or guards them behind ptp.
func (p parts) knowsPods() bool { return p.network || p.policies }

// TestEveryPartStandsAloneAndWithTheOthers has Polder play some of its parts, and nobody the others but ptp the network's.
// Each time all of them are tried: what is not played must not happen. Then the agents are restarted, and it is so still.
func TestEveryPartStandsAloneAndWithTheOthers(t *testing.T) {
	seen := &matrix{}
	for _, p := range everySubset() {
		t.Run(p.String(), func(t *testing.T) {
			s := newSubset(t, p)
			s.isolate()
			seen.add(p.String(), s.check("at first"))
			for _, n := range s.Nodes() {
				if err := n.RestartAgent(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			s.settled()
			seen.add("  agents restarted", s.check("with the next agents"))
			apply(t, s.Cluster, "policies", "")
			s.opens()
			s.leave()
		})
	}
	t.Logf("what was seen of\n%s", seen)
}

// isolate closes the pods in the namespace default both ways, except for one port of each other's and of theirs for
// everybody's pods, as far as somebody enforces it.
func (s *subset) isolate() {
	s.t.Helper()
	ports := fmt.Sprintf("ports: [{protocol: TCP, port: %d}, {protocol: UDP, port: %[1]d}]", backendPort)
	apply(s.t, s.Cluster, "policies", `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: one-port, namespace: default}
spec:
  podSelector: {}
  ingress: [{from: [{namespaceSelector: {}}], `+ports+`}]
  egress: [{to: [{podSelector: {}}], `+ports+`}]
  policyTypes: [Ingress, Egress]
`)
	s.settled()
}

// leave deletes all pods: whoever connected them lets go of them.
func (s *subset) leave() {
	s.t.Helper()
	err := parallel(len(s.pods), func(i int) error { return s.DeletePod(s.t.Context(), s.pods[i].Name) })
	if err != nil {
		s.t.Fatal(err)
	}
	for _, n := range s.Nodes() {
		r := reportOf(s.t, n)
		if len(r.Pods) > 0 {
			s.t.Errorf("%s still has the pods %+v", n.Name, r.Pods)
		}
		for i, pool := range r.Addresses {
			if pool.Used != s.bare[n.Name][i].Used {
				s.t.Errorf("%s: addresses are left: %+v, at first %+v", n.Name, pool, s.bare[n.Name][i])
			}
		}
	}
}

// matrix is what was seen: a row for each subset, a column for each check.
type matrix struct {
	columns []string
	rows    [][]string
}

func (m *matrix) add(row string, found []finding) {
	m.columns = []string{""}
	cells := []string{row}
	for _, f := range found {
		m.columns, cells = append(m.columns, f.check), append(cells, f.seen)
	}
	m.rows = append(m.rows, cells)
}

func (m *matrix) String() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, cells := range append([][]string{m.columns}, m.rows...) {
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush()
	return text.String()
}

// freePods are in a namespace of their own that has no policy, webPods in the one that is isolated.
func freePods() []lab.PodOptions {
	return []lab.PodOptions{
		{Name: "one", Namespace: "free", Node: "node-1"}, {Name: "two", Namespace: "free", Node: "node-1"},
		{Name: "far", Namespace: "free", Node: "node-2"},
	}
}

func webPods() []lab.PodOptions {
	return []lab.PodOptions{{Name: "web-1", Node: "node-1"}, {Name: "web-2", Node: "node-2"}}
}
