package policy_test

import (
	"net/netip"
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// Numbers in comments are those of the sentences about ClusterNetworkPolicies.

func deny(r cluster.PolicyRule) []cluster.PolicyRule {
	return []cluster.PolicyRule{act(cluster.Deny, r)}
}
func pass(r cluster.PolicyRule) []cluster.PolicyRule {
	return []cluster.PolicyRule{act(cluster.Pass, r)}
}
func accept(r cluster.PolicyRule) []cluster.PolicyRule {
	return []cluster.PolicyRule{act(cluster.Accept, r)}
}

func TestTheLowerPriorityIsAskedFirstAndOfEqualOnesTheFirstName(t *testing.T) { // 1, 4
	w := newWorld(t)
	w.cnp("z", cluster.Admin, 1, deny(rule()), nil)
	w.cnp("a", cluster.Admin, 2, accept(rule()), nil)
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.cnp("z", cluster.Admin, 2, deny(rule()), nil)
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.cnp("a", cluster.Admin, 1000, accept(rule()), nil)
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.SetClusterPolicy("z", nil)
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 80})
}

func TestAdminIsAskedBeforeNetworkPoliciesAndBaselineOnlyWithoutThem(t *testing.T) { // 2, 3
	w := newWorld(t)
	all := packet{in, "10.0.2.1", cluster.TCP, 80}
	w.cnp("base", cluster.Baseline, 0, deny(rule()), nil)
	w.dropped(all)
	w.np("a/p", "app=web", rules(rule()), nil)
	w.passes(all) // decided by the NetworkPolicy
	w.np("a/p", "app=web", rules(), nil)
	w.cnp("base", cluster.Baseline, 0, accept(rule()), nil)
	w.dropped(all) // so is this
	w.cnp("admin", cluster.Admin, 5, accept(rule()), nil)
	w.passes(all)
	w.np("a/p", "app=web", rules(rule()), nil)
	w.cnp("admin", cluster.Admin, 5, deny(rule()), nil)
	w.dropped(all)
	w.cnp("admin", cluster.Admin, 5, pass(rule()), nil)
	w.passes(all)
	w.np("a/p", "app=web", nil, rules()) // isolates the other direction alone
	w.cnp("base", cluster.Baseline, 0, deny(rule()), nil)
	w.dropped(all)
}

func TestRulesAreAskedInOrderAndPassSkipsTheRestOfTheTierAlone(t *testing.T) { // 5, 7
	w := newWorld(t)
	w.cnp("1", cluster.Admin, 1, []cluster.PolicyRule{
		act(cluster.Accept, on(rule(cidr("10.0.0.0/8")), tcp(80, 80))),
		act(cluster.Pass, rule(cidr("10.0.2.0/24"))),
		act(cluster.Deny, rule(cidr("10.0.0.0/16"))),
	}, nil)
	w.cnp("2", cluster.Admin, 2, deny(rule(cidr("10.0.2.0/24"))), nil)
	w.cnp("3", cluster.Baseline, 2, append(pass(on(rule(cidr("10.0.2.0/24")), tcp(90, 90))), deny(on(rule(), tcp(85, 95)))...), nil)
	w.cnp("4", cluster.Baseline, 3, deny(on(rule(), tcp(90, 90))), nil)
	w.passes(packet{in, "10.0.3.1", cluster.TCP, 80}, packet{in, "10.0.2.1", cluster.TCP, 80}, packet{in, "10.0.2.1", cluster.TCP, 81},
		packet{in, "10.0.2.1", cluster.TCP, 90}, packet{in, "10.0.2.1", icmp, 0}, packet{in, "192.0.2.1", cluster.TCP, 84})
	w.dropped(packet{in, "10.0.3.1", cluster.TCP, 81}, packet{in, "10.0.3.1", icmp, 0}, packet{in, "10.0.2.1", cluster.TCP, 91},
		packet{in, "10.0.2.1", cluster.TCP, 89}, packet{in, "192.0.2.1", cluster.TCP, 90})
}

func TestWithoutRulesInADirectionThereIsNoEffect(t *testing.T) { // 6
	w := newWorld(t)
	w.cnp("1", cluster.Admin, 1, nil, deny(on(rule(), tcp(80, 80))))
	s, _ := w.Subject(name("a/web"))
	if s.Ingress != policy.Open || s.Egress == policy.Open {
		t.Fatalf("%+v", s)
	}
	w.dropped(packet{out, "10.0.2.1", cluster.TCP, 80})
	w.passes(packet{out, "10.0.2.1", cluster.TCP, 81}, packet{out, "10.0.2.1", icmp, 0}) // no implicit isolation
}

func TestASubjectIsSelectedByItsNamespaceAndItsLabels(t *testing.T) { // 8
	w := newWorld(t)
	w.pod("c/pod", "n1", "app=web", "10.0.1.2") // in a namespace that is not known
	for _, c := range []struct {
		namespaces, pods labels.Selector
		known, notKnown  bool
	}{
		{sel("*"), sel("*"), true, true}, {sel("team=a"), sel("app=web"), true, false}, {sel("team=b"), sel("*"), false, false},
		{sel("*"), sel("app=db"), false, false}, {sel("team!=x"), sel("*"), true, false}, {nil, sel("*"), false, false},
		{sel("*"), nil, false, false}, {labels.Nothing(), sel("*"), false, false}, {sel("*"), labels.Nothing(), false, false},
	} {
		w.SetClusterPolicy("p", &cluster.ClusterPolicy{Name: "p", Namespaces: c.namespaces, Pods: c.pods, Ingress: deny(rule())})
		a, _ := w.Subject(name("a/web"))
		b, _ := w.Subject(name("c/pod"))
		if (a.Ingress != policy.Open) != c.known || (b.Ingress != policy.Open) != c.notKnown {
			t.Errorf("%+v: %+v, %+v", c, a, b)
		}
	}
}

func TestPeersArePodsNamespacesNetworksAndNodes(t *testing.T) { // 9, 10
	w := newWorld(t)
	w.pod("b/x", "n2", "app=x", "10.0.2.1")
	w.SetNodes([]cluster.Node{{Name: "n2", Labels: labelsOf("role=edge"), Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2"),
		netip.MustParseAddr("2001:db8::2")}}, {Name: "n3", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.3")}}})
	ask := func(pod, node, otherNode, world bool, peers ...cluster.PolicyPeer) {
		t.Helper()
		w.cnp("p", cluster.Admin, 0, nil, deny(rule(peers...)))
		for addr, want := range map[string]bool{"10.0.2.1": pod, "192.0.2.2": node, "2001:db8::2": node, "192.0.2.3": otherNode, "198.51.100.1": world} {
			for _, p := range []cluster.Protocol{cluster.TCP, icmp} {
				w.check(!want, []packet{{out, addr, p, 0}})
			}
		}
	}
	ask(true, false, false, false, anywhere("*", "team=b"))
	ask(true, false, false, false, anywhere("app=x", "*"))
	ask(true, false, false, false, cidr("10.0.0.0/8"))
	ask(true, true, true, true, cidr("0.0.0.0/0"), cidr("2001:db8::2/128"))
	ask(false, true, false, false, cluster.PolicyPeer{Nodes: sel("role=edge")})
	ask(false, true, true, false, cluster.PolicyPeer{Nodes: sel("*")})
	ask(true, true, true, true) // all peers
	w.SetNodes(nil)
	ask(true, false, false, false, anywhere("app=x", "*"), cluster.PolicyPeer{Nodes: sel("*")})
}

func TestPeersThatCannotMatchMatchNobody(t *testing.T) { // 12: what to make of such a rule is the reader's business
	w := newWorld(t)
	w.pod("a/x", "n2", "app=x", "10.0.2.1")
	none := func(peers ...cluster.PolicyPeer) cluster.PolicyRule {
		return cluster.PolicyRule{Peers: peers, AllPorts: true}
	}
	for _, r := range []cluster.PolicyRule{none(), none(cluster.PolicyPeer{}), none(own("*")), none(cluster.PolicyPeer{Pods: labels.Nothing(), Namespaces: sel("*")}),
		none(cluster.PolicyPeer{Pods: sel("*"), Namespaces: labels.Nothing()}), none(cluster.PolicyPeer{Nodes: labels.Nothing()})} {
		w.cnp("p", cluster.Admin, 0, deny(r), nil)
		w.passes(packet{in, "10.0.2.1", cluster.TCP, 80}, packet{in, "192.0.2.1", cluster.TCP, 80})
	}
}

func TestProtocolsAreOfThePortsAndNamedPortsOfThePods(t *testing.T) { // 11
	w := newWorld(t)
	w.pod("b/x", "n2", "app=x", "10.0.2.1", cluster.PodPort{Name: "dns", Protocol: cluster.UDP, Port: 53},
		cluster.PodPort{Name: "dns", Protocol: cluster.TCP, Port: 5353})
	w.cnp("p", cluster.Admin, 0, deny(on(rule(), named(0, "http"))), deny(on(rule(anywhere("*", "*")), named(0, "dns"), udp(99))))
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 8080}, packet{out, "10.0.2.1", cluster.UDP, 53}, packet{out, "10.0.2.1", cluster.TCP, 5353},
		packet{out, "10.0.2.1", cluster.UDP, 99})
	w.passes(packet{in, "10.0.2.1", cluster.UDP, 8080}, packet{out, "10.0.2.1", cluster.TCP, 53}, packet{out, "10.0.2.1", icmp, 0},
		packet{out, "10.0.2.9", cluster.UDP, 53}, packet{out, "10.0.1.1", cluster.UDP, 53})
	w.dropped(packet{out, "10.0.1.1", cluster.UDP, 99})
}

func TestADecisionSaysWhichRuleOfWhichObjectMadeIt(t *testing.T) { // 17
	w := newWorld(t)
	first := on(rule(), tcp(22, 22))
	second := on(rule(), tcp(80, 80))
	second.Name = "web"
	w.cnp("admin", cluster.Admin, 0, append(accept(first), deny(second)...), nil)
	w.np("a/p", "*", rules(on(rule(), tcp(1, 1)), on(rule(), tcp(443, 443))), nil)
	w.np("a/q", "*", rules(), rules())
	w.cnp("base", cluster.Baseline, 0, deny(rule()), accept(rule()))
	for port, want := range map[uint16]policy.Decider{
		22:  {Objects: []string{"ClusterNetworkPolicy/admin"}, Rule: 0},
		80:  {Objects: []string{"ClusterNetworkPolicy/admin"}, Rule: 1, Name: "web"},
		443: {Objects: []string{"NetworkPolicy/a/p"}, Rule: 1},
		444: {Objects: []string{"NetworkPolicy/a/p", "NetworkPolicy/a/q"}, Rule: -1},
	} {
		if _, got := w.decide(in, "a/web", "10.0.2.1", cluster.TCP, port); !reflect.DeepEqual(got, want) {
			t.Errorf("port %d: %+v, want %+v", port, got, want)
		}
	}
	w.SetNetworkPolicy(name("a/p"), nil)
	w.SetNetworkPolicy(name("a/q"), nil)
	w.cnp("base", cluster.Baseline, 0, deny(on(rule(), tcp(5, 5))), nil)
	if allowed, got := w.decide(in, "a/web", "10.0.2.1", cluster.TCP, 6); !allowed || !reflect.DeepEqual(got, policy.Decider{Rule: -1}) {
		t.Errorf("%+v", got)
	}
}
