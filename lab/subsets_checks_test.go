package lab_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/lab"
)

// finding is what a check saw: a cell of the matrix.
type finding struct{ check, seen string }

// check tries everything, and reports what is not as the parts that are played want it.
func (s *subset) check(when string) (found []finding) {
	s.t.Helper()
	closed, served := "open", "silence"
	if s.policies {
		closed = "closed"
	}
	if s.services {
		served = "answers"
	}
	byPackets, behind := served, served
	if !s.seesPackets() {
		byPackets = "silence"
	}
	if s.services { // else nobody answers for the Service, isolated or not
		behind = closed
	}
	for _, c := range []struct {
		name, want string
		fails      func() error
	}{
		{"pods by", s.connectedBy(), s.connected},
		{"own node", "open", func() error { return answer(s.amongPods("one", "two")) }},
		{"other node", "open", func() error { return answer(append(s.amongPods("one", "far"), s.amongPods("two", "far")...)) }},
		{"allowed port", "open", func() error { return answer(s.toOpenPorts()) }},
		{"denied port", closed, func() error { return answer(s.toClosedPorts()) }},
		{"from its node", "open", func() error { return answer(s.fromOwnNodes()) }},
		{"Service", served, func() error { return answer(s.toServices(false, 80)) }},
		{"by packets", byPackets, func() error { return answer(s.toServices(true, 80)) }},
		{"denied behind it", behind, func() error { return answer(append(s.toServices(false, 81), s.toServices(true, 81)...)) }},
		{"problems", "none", s.nothingWrong},
	} {
		seen := c.want
		if err := c.fails(); err != nil {
			seen = "WRONG"
			s.t.Errorf("%s: %s: %v", when, c.name, err)
		}
		found = append(found, finding{c.name, seen})
	}
	return found
}

// seesPackets says whether programs on pods' links lead packets to backends, and not only hooks on sockets.
func (s *subset) seesPackets() bool { return s.services && s.knowsPods() }

// to is a question to a pod; whoever is asked answers.
func (s *subset) to(from, pod string, port uint16) question {
	return question{from: s.clients[from], to: s.clients[pod].addrs, port: port, at: pod, who: pod}
}

func (s *subset) amongPods(a, b string) []question {
	return []question{s.to(a, b, backendPort), s.to(b, a, backendPort), s.to(a, b, closedPort), s.to(b, a, closedPort)}
}

// strangers are pairs of whom the policies let through to one port alone, and who is not the pod's own node.
func (s *subset) strangers(port uint16) []question {
	var all []question
	for _, pair := range [][2]string{
		{"one", "web-1"}, {"far", "web-1"}, {"web-2", "web-1"}, {"one", "web-2"}, {"far", "web-2"}, {"web-1", "web-2"},
	} {
		all = append(all, s.to(pair[0], pair[1], port))
	}
	return all
}

func (s *subset) toOpenPorts() []question { return s.strangers(backendPort) }

func (s *subset) toClosedPorts() []question {
	all := append(s.strangers(closedPort), s.to("node-2", "web-1", closedPort), s.to("node-1", "web-2", closedPort),
		s.to("web-1", "one", backendPort), s.to("web-1", "far", backendPort))
	return s.unlessDenied(all)
}

// unlessDenied has nobody answer where policies are enforced.
func (s *subset) unlessDenied(all []question) []question {
	for i := range all {
		if s.policies {
			all[i].who = ""
		}
	}
	return all
}

func (s *subset) fromOwnNodes() []question {
	return []question{
		s.to("node-1", "web-1", backendPort), s.to("node-1", "web-1", closedPort), s.to("node-1", "one", backendPort),
		s.to("node-2", "web-2", backendPort), s.to("node-2", "web-2", closedPort), s.to("node-2", "far", backendPort),
	}
}

// toServices are pods' questions to Services with a backend on their own node and on the other one.
func (s *subset) toServices(packets bool, port uint16) []question {
	var all []question
	for _, from := range []string{"one", "far"} {
		for _, name := range []string{"web-1", "web-2"} {
			q := question{from: s.clients[from], packets: packets, to: s.serves[name].ClusterIPs, port: port, at: name, who: name}
			if !s.services || packets && !s.seesPackets() {
				q.who = ""
			}
			all = append(all, q)
		}
	}
	if port != 80 {
		return s.unlessDenied(all)
	}
	return all
}

func (s *subset) connectedBy() string {
	switch {
	case s.network:
		return "Polder"
	case s.policies:
		return "ptp, Polder"
	}
	return "ptp"
}

// connected checks who has connected the pods, by the configuration on the nodes and by what the agents know.
func (s *subset) connected() error {
	var errs []error
	for _, n := range s.Nodes() {
		_, err := os.Stat(filepath.Join(n.Path(cniNet), cniConf))
		if (err == nil) != s.network {
			errs = append(errs, fmt.Errorf("%s: Polder's network configuration: %v", n.Name, err))
		}
		network, known := "polder", reportOf(s.t, n).Pods
		if !s.network {
			network = "other"
		}
		for _, p := range s.pods {
			there := slices.ContainsFunc(known, func(k api.LocalPod) bool {
				return k.Name == p.Name && k.Network == network && slices.Equal(k.Addresses, p.Addresses)
			})
			if there != (s.knowsPods() && p.Node == n.Name) {
				errs = append(errs, fmt.Errorf("%s: pod %s of %s is not among %+v, or should not be", n.Name, p.Name, p.Node, known))
			}
		}
	}
	return errors.Join(errs...)
}

// nothingWrong checks what the agents say of themselves.
func (s *subset) nothingWrong() error {
	var errs []error
	for _, n := range s.Nodes() {
		errs = append(errs, s.nothingWrongOn(n))
	}
	return errors.Join(errs...)
}

func (s *subset) nothingWrongOn(n *lab.Node) error {
	r := reportOf(s.t, n)
	for _, p := range r.Problems {
		if !strings.Contains(p.Message, "install the reference CNI plugins") { // the lab has none behind Polder's
			return fmt.Errorf("%s: %+v", n.Name, p)
		}
	}
	if !r.Ready {
		return fmt.Errorf("%s is not ready", n.Name)
	}
	for _, p := range r.Pods {
		if (p.Policies != nil) != s.policies || s.policies && p.Policies.Why != "" {
			return fmt.Errorf("%s: policies make of %s %+v", n.Name, p.Name, p.Policies)
		}
	}
	return nil
}
