package policy_test

import (
	"net/netip"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// Numbers in names are those of the sentences of Kubernetes' semantics about NetworkPolicies.

func TestAPodIsIsolatedPerDirectionIffAPolicyOfItsNamespaceSelectsIt(t *testing.T) { // 1, 2, 23
	w := newWorld(t)
	isolated := func(ingress, egress bool) {
		t.Helper()
		s, _ := w.Subject(name("a/web"))
		if (s.Ingress != policy.Open) != ingress || (s.Egress != policy.Open) != egress {
			t.Fatalf("%+v, want isolated %t, %t", s, ingress, egress)
		}
	}
	isolated(false, false)
	w.np("b/p", "app=web", rules(), rules()) // another namespace
	w.np("a/q", "app=db", rules(), rules())  // another pod
	isolated(false, false)
	w.np("a/in", "app=web", rules(), nil)
	isolated(true, false)
	w.np("a/out", "*", nil, rules()) // 8
	isolated(true, true)
	w.SetNetworkPolicy(name("a/in"), nil)
	isolated(false, true)
	w.SetNetworkPolicy(name("a/out"), nil)
	isolated(false, false)
}

func TestAllowedIsTheUnionOfAllPolicies(t *testing.T) { // 3
	w := newWorld(t)
	w.pod("a/x", "n2", "app=x", "10.0.2.1")
	w.pod("a/y", "n2", "app=y", "10.0.2.2")
	w.pod("a/z", "n2", "app=z", "10.0.2.3")
	w.np("a/1", "*", rules(rule(own("app=x"))), nil)
	w.np("a/2", "app=web", rules(on(rule(own("app=y")), tcp(80, 80))), nil)
	w.np("a/3", "*", rules(), nil)
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 1}, packet{in, "10.0.2.2", cluster.TCP, 80})
	w.dropped(packet{in, "10.0.2.2", cluster.TCP, 81}, packet{in, "10.0.2.3", cluster.TCP, 80}, packet{in, "192.0.2.1", cluster.TCP, 80})
	w.passes(packet{out, "10.0.2.3", cluster.TCP, 80})
}

func TestWithoutRulesNothingAndWithAnEmptyRuleEverythingIsAllowed(t *testing.T) { // 10, 11
	w := newWorld(t)
	w.np("a/p", "*", rules(), rules(rule()))
	w.dropped(packet{in, "192.0.2.1", cluster.TCP, 80}, packet{in, "10.0.1.1", icmp, 0})
	w.passes(packet{out, "192.0.2.1", cluster.TCP, 80}, packet{out, "2001:db8::1", icmp, 0}, packet{out, "192.0.2.1", 47, 0})
}

func TestPeersAndPortsBothCountAndAllPortsMeansAllProtocols(t *testing.T) { // 11, 21
	w := newWorld(t)
	w.pod("a/x", "n2", "app=x", "10.0.2.1")
	w.np("a/p", "*", rules(rule(own("app=x"))), rules(on(rule(own("app=x")), tcp(80, 80), udp(53))))
	w.passes(packet{in, "10.0.2.1", cluster.SCTP, 9}, packet{in, "10.0.2.1", icmp, 0})
	w.passes(packet{out, "10.0.2.1", cluster.TCP, 80}, packet{out, "10.0.2.1", cluster.UDP, 53})
	w.dropped(packet{out, "10.0.2.1", cluster.UDP, 80}, packet{out, "10.0.2.1", cluster.TCP, 53}, packet{out, "10.0.2.1", icmp, 0},
		packet{out, "10.0.2.2", cluster.TCP, 80}, packet{out, "10.0.2.1", cluster.SCTP, 80})
}

func TestSelectorsOfOneElementAreAndThoseOfTheListOr(t *testing.T) { // 12, 14
	w := newWorld(t)
	w.pod("a/x", "n2", "app=x", "10.0.2.1")
	w.pod("b/x", "n2", "app=x", "10.0.3.1")
	w.pod("b/y", "n2", "app=y", "10.0.3.2")
	ask := func(ax, bx, by bool, peers ...cluster.PolicyPeer) {
		t.Helper()
		w.np("a/p", "*", rules(rule(peers...)), nil)
		for addr, want := range map[string]bool{"10.0.2.1": ax, "10.0.3.1": bx, "10.0.3.2": by} {
			w.check(want, []packet{{in, addr, cluster.TCP, 80}})
		}
	}
	ask(true, false, false, own("app=x"))
	ask(true, false, false, own("*"))
	ask(true, true, false, anywhere("app=x", "*"))
	ask(false, true, false, anywhere("app=x", "team=b"))
	ask(false, true, true, anywhere("*", "team=b"))
	ask(true, true, true, anywhere("*", "*"))
	ask(true, false, true, own("app=x"), anywhere("app=y", "team=b"))
	ask(false, true, true, anywhere("*", "team notin (a)"))
	ask(false, false, false, anywhere("*", "team=a,team=b"))
}

func TestAnExceptedAddressMayBeInAnotherBlock(t *testing.T) { // 15, 16
	w := newWorld(t)
	w.pod("b/x", "n2", "app=x", "10.1.2.3")
	w.np("a/p", "*", nil, rules(rule(cidr("10.0.0.0/8", "10.1.0.0/16"))))
	w.passes(packet{out, "10.0.2.1", cluster.TCP, 80})
	w.dropped(packet{out, "10.1.2.3", cluster.TCP, 80}, packet{out, "10.1.9.9", cluster.TCP, 80}, packet{out, "11.0.0.1", cluster.TCP, 80})
	w.np("a/q", "*", nil, rules(on(rule(cidr("10.1.2.0/24", "10.1.2.128/25")), tcp(80, 80))))
	w.passes(packet{out, "10.1.2.3", cluster.TCP, 80})
	w.dropped(packet{out, "10.1.2.3", cluster.TCP, 81}, packet{out, "10.1.2.129", cluster.TCP, 80}, packet{out, "10.1.9.9", cluster.TCP, 80})
	w.np("a/r", "*", nil, rules(on(rule(anywhere("app=x", "*")), tcp(81, 81)))) // the pod gets an entry of its own
	w.passes(packet{out, "10.1.2.3", cluster.TCP, 80}, packet{out, "10.1.2.3", cluster.TCP, 81})
	if len(w.All().Prefixes) == 0 {
		t.Fatal("there are no blocks")
	}
}

func TestABlockOfAllIPv6HoldsNoIPv4Address(t *testing.T) { // 15
	w := newWorld(t)
	w.np("a/p", "*", nil, rules(rule(cidr("::/0"))))
	w.passes(packet{out, "2001:db8::1", cluster.TCP, 80})
	w.dropped(packet{out, "192.0.2.1", cluster.TCP, 80})
	if _, ok := w.All().Prefixes[netip.MustParsePrefix("0.0.0.0/0")]; !ok {
		t.Fatal("IPv4 addresses find ::/0 in a table of both families")
	}
}

func TestANamedPortIsThatOfTheDestination(t *testing.T) { // 17
	w := newWorld(t)
	w.pod("b/x", "n2", "app=x", "10.0.2.1", cluster.PodPort{Name: "http", Protocol: cluster.TCP, Port: 9090},
		cluster.PodPort{Name: "http", Protocol: cluster.UDP, Port: 9091})
	w.pod("b/y", "n2", "app=x", "10.0.2.2", cluster.PodPort{Name: "http", Protocol: cluster.TCP, Port: 7070})
	w.pod("b/z", "n2", "app=x", "10.0.2.3")
	w.pod("b/q", "n2", "app=q", "10.0.2.4", cluster.PodPort{Name: "http", Protocol: cluster.TCP, Port: 9090})
	http := on(rule(anywhere("app=x", "*")), named(cluster.TCP, "http"))
	w.np("a/p", "*", rules(http), rules(http))
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 8080}, packet{in, "10.0.2.3", cluster.TCP, 8080})
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 9090}, packet{in, "10.0.2.1", cluster.UDP, 8080}, packet{in, "10.0.2.4", cluster.TCP, 8080})
	w.passes(packet{out, "10.0.2.1", cluster.TCP, 9090}, packet{out, "10.0.2.2", cluster.TCP, 7070})
	w.dropped(packet{out, "10.0.2.1", cluster.TCP, 7070}, packet{out, "10.0.2.1", cluster.TCP, 8080},
		packet{out, "10.0.2.1", cluster.UDP, 9091}, packet{out, "10.0.2.3", cluster.TCP, 9090}, packet{out, "10.0.2.4", cluster.TCP, 9090})
	w.np("a/p", "*", nil, rules(on(rule(anywhere("app=x", "*")), named(0, "http"))))
	w.passes(packet{out, "10.0.2.1", cluster.UDP, 9091}, packet{out, "10.0.2.1", cluster.TCP, 9090})
	w.dropped(packet{out, "10.0.2.1", cluster.UDP, 9090})
}

func TestANamedPortFollowsThePod(t *testing.T) { // 17, 22
	w := newWorld(t)
	http := on(rule(anywhere("*", "*")), named(cluster.TCP, "http"))
	w.np("a/p", "*", rules(http), rules(http))
	for _, port := range []uint16{9090, 7070} {
		w.pod("b/x", "n2", "app=x", "10.0.2.1", cluster.PodPort{Name: "http", Protocol: cluster.TCP, Port: port})
		w.pod("a/web", "n1", "app=web", "10.0.1.1", cluster.PodPort{Name: "http", Protocol: cluster.TCP, Port: port + 1})
		w.passes(packet{out, "10.0.2.1", cluster.TCP, port}, packet{in, "10.0.2.1", cluster.TCP, port + 1})
		w.dropped(packet{out, "10.0.2.1", cluster.TCP, port + 1}, packet{out, "10.0.2.1", cluster.TCP, 16160 - port},
			packet{in, "10.0.2.1", cluster.TCP, 16161 - port})
	}
	w.pod("b/x", "n2", "app=x", "10.0.2.1")
	w.dropped(packet{out, "10.0.2.1", cluster.TCP, 7070})
}

func TestANamedPortOfAllPeersOrOfABlockIsThatOfThePodsThere(t *testing.T) { // 17
	w := newWorld(t)
	w.pod("b/x", "n2", "app=x", "10.0.2.1", cluster.PodPort{Name: "http", Protocol: cluster.TCP, Port: 9090})
	w.pod("b/y", "n2", "app=x", "10.0.3.1", cluster.PodPort{Name: "http", Protocol: cluster.TCP, Port: 7070})
	for _, block := range []bool{false, true} {
		r := rule()
		if block {
			r = rule(cidr("10.0.2.0/24"))
		}
		w.np("a/p", "*", nil, rules(on(r, named(cluster.TCP, "http"))))
		w.passes(packet{out, "10.0.2.1", cluster.TCP, 9090})
		w.check(!block, []packet{{out, "10.0.3.1", cluster.TCP, 7070}})
		w.dropped(packet{out, "10.0.3.1", cluster.TCP, 9090}, packet{out, "10.0.2.9", cluster.TCP, 9090}, packet{out, "192.0.2.1", cluster.TCP, 9090})
	}
}

func TestANameThatResolvesNowhereMatchesNothing(t *testing.T) { // 18
	w := newWorld(t)
	w.pod("b/x", "n2", "app=x", "10.0.2.1")
	r := on(rule(), named(cluster.TCP, "nowhere"), named(0, ""))
	w.np("a/p", "*", rules(r), rules(r))
	for _, p := range []cluster.Protocol{cluster.TCP, cluster.UDP, icmp} {
		w.dropped(packet{in, "10.0.2.1", p, 0}, packet{out, "10.0.2.1", p, 0}, packet{in, "192.0.2.1", p, 80}, packet{out, "192.0.2.1", p, 80})
	}
}

func TestARangeOfPortsIncludesBothEnds(t *testing.T) { // 17, 19
	w := newWorld(t)
	w.np("a/p", "*", rules(on(rule(), tcp(100, 200), tcp(201, 201), tcp(65535, 65535)), on(rule(cidr("192.0.2.0/24")), tcp(0, 65535))), nil)
	w.passes(packet{in, "10.9.9.9", cluster.TCP, 100}, packet{in, "10.9.9.9", cluster.TCP, 201}, packet{in, "10.9.9.9", cluster.TCP, 65535},
		packet{in, "192.0.2.1", cluster.TCP, 0}, packet{in, "192.0.2.1", cluster.TCP, 65535})
	w.dropped(packet{in, "10.9.9.9", cluster.TCP, 99}, packet{in, "10.9.9.9", cluster.TCP, 202}, packet{in, "10.9.9.9", cluster.TCP, 0},
		packet{in, "10.9.9.9", cluster.TCP, 65534}, packet{in, "192.0.2.1", icmp, 0})
}

func TestSCTPAloneIsolatesTCPToo(t *testing.T) { // 20
	w := newWorld(t)
	w.np("a/p", "*", rules(on(rule(), cluster.PolicyPort{Protocol: cluster.SCTP, First: 80, Last: 80})), nil)
	w.passes(packet{in, "10.9.9.9", cluster.SCTP, 80})
	w.dropped(packet{in, "10.9.9.9", cluster.TCP, 80}, packet{in, "10.9.9.9", cluster.UDP, 80}, packet{in, "10.9.9.9", icmp, 0})
}

func TestChangesTakeEffectInAnyOrder(t *testing.T) { // 22
	w := newWorld(t)
	w.np("a/p", "app=web", rules(rule(anywhere("app=x", "team=c"))), nil)
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.pod("c/x", "n2", "app=x", "10.0.2.1")
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80}) // its namespace is not known
	w.namespace("c", "team=c")
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.namespace("c", "team=d")
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.namespace("c", "team=c")
	w.pod("c/x", "n2", "app=y", "10.0.2.1")
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.pod("c/x", "n2", "app=x", "10.0.2.2")
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.passes(packet{in, "10.0.2.2", cluster.TCP, 80})
	w.pod("a/web", "n1", "app=other", "10.0.1.1")
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.pod("a/web", "n1", "app=web", "10.0.1.1")
	w.SetPod(name("c/x"), nil)
	w.dropped(packet{in, "10.0.2.2", cluster.TCP, 80})
}

func TestANamespaceThatIsNotKnownIsSelectedByNothingButTheEmptySelector(t *testing.T) {
	w := newWorld(t)
	w.pod("c/x", "n2", "app=x", "10.0.2.1")
	for selector, want := range map[string]bool{"*": true, "!team": false, "team notin (a)": false} {
		w.np("a/p", "*", rules(rule(anywhere("*", selector))), nil)
		w.check(want, []packet{{in, "10.0.2.1", cluster.TCP, 80}})
	}
}

func TestHostNetworkPodsAreNeitherSubjectsNorPeers(t *testing.T) { // 28
	w := newWorld(t)
	p := w.pod("a/host", "n1", "app=web", "192.0.2.1")
	host := *p
	host.HostNetwork = true
	w.SetPod(name("a/host"), &host)
	w.np("a/p", "*", rules(rule(own("*"))), nil)
	if _, known := w.Subject(name("a/host")); known {
		t.Fatal("it is a subject")
	}
	w.dropped(packet{in, "192.0.2.1", cluster.TCP, 80})
	w.passes(packet{in, "10.0.1.1", cluster.TCP, 80})
	w.SetPod(name("a/host"), p)
	w.passes(packet{in, "192.0.2.1", cluster.TCP, 80})
	w.SetPod(name("a/host"), &host)
	w.dropped(packet{in, "192.0.2.1", cluster.TCP, 80})
}

func TestOnlyPodsOfThisNodeAreSubjects(t *testing.T) {
	w := newWorld(t)
	w.pod("a/far", "n2", "app=web", "10.0.2.1")
	w.pod("a/new", "n1", "app=web", "") // without an address yet: 24
	w.np("a/p", "*", rules(), nil)
	c := w.Changes()
	if len(c.Subjects) != 2 || c.Subjects[name("a/new")] == nil || c.Subjects[name("a/web")] == nil {
		t.Fatalf("%v", c.Subjects)
	}
	w.SetPod(name("a/new"), nil)
	if c = w.Changes(); len(c.Subjects) != 1 || c.Subjects[name("a/new")] != nil {
		t.Fatalf("%v", c.Subjects)
	}
}

func TestOfTwoPodsWithOneAddressTheFirstByNameHasIt(t *testing.T) {
	w := newWorld(t)
	w.np("a/p", "*", rules(rule(anywhere("app=x", "*"))), nil)
	w.pod("b/2", "n2", "app=x", "10.0.2.1")
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.pod("b/1", "n2", "app=y", "10.0.2.1")
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.pod("a/9", "n2", "app=x", "10.0.2.1")
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.SetPod(name("a/9"), nil)
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.SetPod(name("b/1"), nil)
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.SetPod(name("b/2"), nil)
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80})
}

// CVE-2024-7598.
func TestAPolicyThatGoesBeforeThePodsOfItsNamespaceStaysInForce(t *testing.T) {
	for _, first := range []string{"namespace", "policy"} { // what is told first of what happens at once
		w := newWorld(t)
		terminating := func() {
			w.SetNamespace("a", &cluster.Namespace{Name: "a", Labels: labelsOf("team=a"), Terminating: true})
		}
		w.np("a/p", "*", rules(), nil)
		w.Changes()
		if first == "namespace" {
			terminating()
		}
		w.SetNetworkPolicy(name("a/p"), nil)
		terminating()
		w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80})
		w.pod("a/web", "n1", "app=web,more=labels", "10.0.1.1")
		w.dropped(packet{in, "10.0.2.1", cluster.TCP, 80})
		if first == "namespace" {
			w.SetNamespace("a", nil)
		} else {
			w.namespace("a", "team=a") // it stays after all
		}
		w.passes(packet{in, "10.0.2.1", cluster.TCP, 80})
	}
}

func TestAPolicyThatComesAgainInANamespaceThatGoesIsTheNewOne(t *testing.T) {
	w := newWorld(t)
	w.np("a/p", "*", rules(), nil)
	w.SetNamespace("a", &cluster.Namespace{Name: "a", Terminating: true})
	w.SetNetworkPolicy(name("a/p"), nil)
	w.Changes()
	w.np("a/p", "*", rules(rule(cidr("10.0.2.0/24"))), nil)
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 80})
	w.dropped(packet{in, "10.0.3.1", cluster.TCP, 80})
}
