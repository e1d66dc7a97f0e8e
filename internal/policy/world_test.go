package policy_test

import (
	"net/netip"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

const (
	in  = true
	out = false
)

// world is a table with words to fill and to ask it.
type world struct {
	t *testing.T
	*policy.Table
}

// newWorld has namespaces "a" and "b" with a label team of that value, and on node n1 the pod a/web (app=web, 10.0.1.1,
// port http TCP 8080).
func newWorld(t *testing.T) world {
	w := world{t, policy.NewTable("n1")}
	w.namespace("a", "team=a")
	w.namespace("b", "team=b")
	w.pod("a/web", "n1", "app=web", "10.0.1.1", cluster.PodPort{Name: "http", Protocol: cluster.TCP, Port: 8080})
	return w
}

func name(text string) cluster.Name {
	for i := range text {
		if text[i] == '/' {
			return cluster.Name{Namespace: text[:i], Name: text[i+1:]}
		}
	}
	return cluster.Name{Name: text}
}

func labelsOf(text string) cluster.Labels {
	set, err := labels.ConvertSelectorToLabelsMap(text)
	if err != nil {
		panic(err)
	}
	return cluster.MakeLabels(set)
}

// sel reads a selector; "*" is the one that selects everything.
func sel(text string) labels.Selector {
	if text == "*" {
		return labels.Everything()
	}
	s, err := labels.Parse(text)
	if err != nil {
		panic(err)
	}
	return s
}

func (w world) namespace(n, l string) {
	w.SetNamespace(n, &cluster.Namespace{Name: n, Labels: labelsOf(l)})
}

func (w world) pod(n, node, l, addr string, ports ...cluster.PodPort) *cluster.Pod {
	id := name(n)
	p := &cluster.Pod{Namespace: id.Namespace, Name: id.Name, Node: node, Labels: labelsOf(l), Ports: ports}
	if addr != "" {
		p.Addresses = []netip.Addr{netip.MustParseAddr(addr)}
	}
	w.SetPod(id, p)
	return p
}

// rules is a direction that isolates; without rules it denies everything.
func rules(list ...cluster.PolicyRule) *cluster.PolicyRules { return &cluster.PolicyRules{Rules: list} }

func (w world) np(n, subject string, ingress, egress *cluster.PolicyRules) {
	w.SetNetworkPolicy(name(n), &cluster.NetworkPolicy{Name: name(n), Subject: sel(subject), Ingress: ingress, Egress: egress})
}

// cnp selects every pod of namespace a.
func (w world) cnp(n string, tier cluster.Tier, priority int, ingress, egress []cluster.PolicyRule) {
	w.SetClusterPolicy(n, &cluster.ClusterPolicy{Name: n, Tier: tier, Priority: priority, Namespaces: sel("team=a"), Pods: sel("*"),
		Ingress: ingress, Egress: egress})
}

// rule accepts peers on all ports; without peers, all.
func rule(peers ...cluster.PolicyPeer) cluster.PolicyRule {
	return cluster.PolicyRule{AllPeers: len(peers) == 0, Peers: peers, AllPorts: true}
}

// on restricts a rule to ports.
func on(r cluster.PolicyRule, ports ...cluster.PolicyPort) cluster.PolicyRule {
	r.AllPorts, r.Ports = false, ports
	return r
}

func act(action cluster.PolicyAction, r cluster.PolicyRule) cluster.PolicyRule {
	r.Action = action
	return r
}

func tcp(first, last uint16) cluster.PolicyPort {
	return cluster.PolicyPort{Protocol: cluster.TCP, First: first, Last: last}
}

func udp(port uint16) cluster.PolicyPort {
	return cluster.PolicyPort{Protocol: cluster.UDP, First: port, Last: port}
}

func named(p cluster.Protocol, n string) cluster.PolicyPort {
	return cluster.PolicyPort{Protocol: p, Name: n}
}

func own(pods string) cluster.PolicyPeer { return cluster.PolicyPeer{Pods: sel(pods)} }

func anywhere(pods, namespaces string) cluster.PolicyPeer {
	return cluster.PolicyPeer{Pods: sel(pods), Namespaces: sel(namespaces)}
}

func cidr(block string, except ...string) cluster.PolicyPeer {
	p := cluster.PolicyPeer{Block: netip.MustParsePrefix(block)}
	for _, e := range except {
		p.Except = append(p.Except, netip.MustParsePrefix(e))
	}
	return p
}

const icmp cluster.Protocol = 1

// decide is what becomes of a packet between a local pod and an address, and by whom.
func (w world) decide(ingress bool, pod, addr string, proto cluster.Protocol, port uint16) (bool, policy.Decider) {
	w.t.Helper()
	s, known := w.Subject(name(pod))
	if !known {
		w.t.Fatalf("%s is no subject", pod)
	}
	id := s.Egress
	if ingress {
		id = s.Ingress
	}
	switch id {
	case policy.Open:
		return true, policy.Decider{Rule: -1}
	case policy.Closed:
		return false, policy.Decider{Rule: -2}
	}
	r := w.Ruleset(id)
	d := r.Decide(w.Class(netip.MustParseAddr(addr)), proto, port)
	return d.Allows(), r.Deciders[d.Decider()]
}

// packet is one that a test asks about.
type packet struct {
	ingress bool
	addr    string
	proto   cluster.Protocol
	port    uint16
}

func (w world) passes(packets ...packet)  { w.t.Helper(); w.check(true, packets) }
func (w world) dropped(packets ...packet) { w.t.Helper(); w.check(false, packets) }

func (w world) check(want bool, packets []packet) {
	w.t.Helper()
	for _, p := range packets {
		if got, by := w.decide(p.ingress, "a/web", p.addr, p.proto, p.port); got != want {
			w.t.Errorf("%+v: allowed %t by %+v, want %t", p, got, by, want)
		}
	}
}
