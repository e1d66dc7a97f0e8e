package lab_test

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/polder-net/polder/lab"
)

// backendGroup is pods by the node that they are on.
type backendGroup struct {
	name string
	on   []string // the nodes
	ends bool     // they are terminating, all of them
}

func backendGroups() []backendGroup {
	return []backendGroup{
		{"everywhere", []string{"node-1", "node-2", "node-3"}, false},
		{"elsewhere", []string{"node-2", "node-3"}, false},
		{"nowhere", nil, false},
		{"ending", []string{"node-1", "node-2"}, true},
	}
}

// pods are the names of those of a node, or of all where node is empty.
func (g backendGroup) pods(node string) []string {
	var names []string
	for i, on := range g.on {
		if node == "" || on == node {
			names = append(names, fmt.Sprintf("%s-%d", g.name, i+1))
		}
	}
	return names
}

// serves is what a traffic policy makes of a client that a node serves: nobody answers where nobody could, anywhere;
// where others have backends, a node without is silent.
func (g backendGroup) serves(local bool, node string) outcome {
	if !local || len(g.on) == 0 {
		return outcome{backends: g.pods("")}
	}
	return outcome{g.pods(node), len(g.pods(node)) == 0}
}

// tableService is a Service of the table: both its traffic policies are Local, or neither.
type tableService struct {
	lab.Service
	group backendGroup
	local bool

	mu       sync.Mutex
	answered map[string]bool
}

// row is a question of the table.
type row struct {
	what    string
	from    *client
	network string
	to      netip.AddrPort
	want    outcome
}

// rows are all questions about a Service.
func (s *tableService) rows(p *proxy) []row {
	var all []row
	for _, c := range p.clients() {
		for family, i := range families() {
			for n, network := range []string{"tcp", "udp"} {
				add := func(what string, addr netip.Addr, port uint16, want outcome) {
					all = append(all, row{fmt.Sprintf("%s %s", what, family), c, network, netip.AddrPortFrom(addr, port), want})
				}
				outside := c == p.outside
				add("cluster IP", s.ClusterIPs[i], 80, s.group.serves(s.local, "node-1"))
				add("load balancer", s.LoadBalancerIPs[i], 80, s.group.serves(s.local && outside, "node-1"))
				port := s.Ports[n].NodePort
				add("own node's port", p.node1.Cluster().Addresses[i], port, s.group.serves(s.local && outside, "node-1"))
				for _, other := range []*lab.Node{p.node2, p.node3} {
					add(other.Name+"'s port", other.Cluster().Addresses[i], port, s.group.serves(s.local, other.Name))
				}
			}
		}
	}
	return all
}

// TestWhoeverAsksAServiceIsServedAsItsPoliciesSay asks every kind of client's every kind of address: D4 of Kubernetes'
// rules, with ADR 14 for whose address the backend sees, and where a pod is led that asks another node.
func TestWhoeverAsksAServiceIsServedAsItsPoliciesSay(t *testing.T) {
	eachWay(t, func(t *testing.T, p *proxy) {
		for _, prefix := range []string{"10.96.0.0/16", "fd00:96::/112"} { // cluster IPs have a way in
			if err := p.RouteOutside(netip.MustParsePrefix(prefix), p.node1); err != nil {
				t.Fatal(err)
			}
		}
		services := p.tableServices()
		for _, s := range services {
			t.Run(s.Name, func(t *testing.T) { s.test(t, p) })
		}
	})
}

func (p *proxy) tableServices() []*tableService {
	var all []*tableService
	for _, g := range backendGroups() {
		for _, pod := range p.backends(g.name, g.on...) {
			if g.ends {
				if err := p.TerminatePod(pod.Name); err != nil {
					p.t.Fatal(err)
				}
			}
		}
		for _, policy := range []string{"Cluster", "Local"} {
			o := lab.ServiceOptions{Name: g.name + map[string]string{"Cluster": "", "Local": "-local"}[policy], Type: "LoadBalancer",
				Selector: map[string]string{"app": g.name}, ExternalTrafficPolicy: policy, InternalTrafficPolicy: policy}
			all = append(all, &tableService{Service: p.service(o), group: g, local: policy == "Local", answered: map[string]bool{}})
		}
	}
	for _, s := range all {
		ready := len(s.group.on)
		if s.group.ends {
			ready = 0
		}
		p.awaitEndpoints(s.Name, len(s.group.on), ready)
		p.servedBy(s.Name, len(s.group.on))
	}
	return all
}

// test asks everything several times: where backends are chosen by chance, each must have had its turn.
func (s *tableService) test(t *testing.T, p *proxy) {
	var asking errgroup.Group
	asking.SetLimit(24)
	rows := s.rows(p)
	for _, r := range slices.Concat(rows, rows, rows) {
		asking.Go(func() error {
			if err := s.ask(r); err != nil {
				t.Errorf("%s: %v", r.what, err)
			}
			return nil
		})
	}
	asking.Wait()
	for _, name := range s.group.pods("") {
		if !s.answered[name] {
			t.Errorf("%s has never answered", name)
		}
	}
}

// ask wants the backend to see the client's own address, whoever it is and wherever it asked.
func (s *tableService) ask(r row) error {
	a, err := r.want.check(r.from, r.network, r.to)
	if err != nil || a.Name == "" {
		return err
	}
	s.mu.Lock()
	s.answered[a.Name] = true
	s.mu.Unlock()
	if a.Seen.Addr() != a.Own.Addr() {
		return fmt.Errorf("%s asks %s by %s: %s sees %s, not %s", r.from.Name, r.to, r.network, a.Name, a.Seen, a.Own)
	}
	return nil
}
