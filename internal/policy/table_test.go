package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

func TestWhatChangesNothingIsNotTold(t *testing.T) {
	w := newWorld(t)
	p := w.pod("a/x", "n2", "app=x", "10.0.2.1")
	w.np("a/p", "*", rules(rule(own("app=x"), cidr("10.0.0.0/8"))), rules())
	if c := w.Changes(); len(c.Subjects) != 1 || len(c.Rulesets) != 2 || len(c.Addresses) != 1 || len(c.Prefixes) != 1 {
		t.Fatalf("%+v", c)
	}
	same := *p
	w.SetPod(name("a/x"), &same)
	w.np("a/p", "*", rules(rule(cidr("10.0.0.0/8"), own("app=x"), own("app=x"))), rules()) // in another order
	w.np("b/p", "*", rules(rule(own("app=y"))), nil)                                       // of no pod here
	w.pod("b/y", "n2", "app=y", "10.0.2.2")
	w.namespace("a", "team=a,more=labels")
	w.SetPod(name("a/x"), nil)
	w.SetPod(name("a/x"), &same)
	if c := w.Changes(); len(c.Subjects)+len(c.Rulesets)+len(c.Addresses)+len(c.Prefixes) != 0 {
		t.Fatalf("%+v", c)
	}
}

func TestAChangeTellsWhatHasGone(t *testing.T) {
	w := newWorld(t)
	w.pod("a/x", "n2", "app=x", "10.0.2.1")
	w.np("a/p", "*", rules(rule(own("app=x"), cidr("10.0.0.0/8"))), nil)
	have := nothing()
	apply(&have, w.Changes())
	w.SetNetworkPolicy(name("a/p"), nil)
	c := w.Changes()
	if len(c.Rulesets) != 1 || len(c.Addresses) != 1 || len(c.Prefixes) != 1 || len(w.All().Prefixes) > 0 {
		t.Fatalf("%+v", c)
	}
	apply(&have, c)
	if len(have.Rulesets)+len(have.Addresses)+len(have.Prefixes) != 0 || *have.Subjects[name("a/web")] != (policy.Subject{}) {
		t.Fatalf("%+v", have)
	}
}

func TestPodsThatAreAskedTheSameShareARuleset(t *testing.T) {
	http := func(port uint16) cluster.PodPort {
		return cluster.PodPort{Name: "http", Protocol: cluster.TCP, Port: port}
	}
	w := newWorld(t)
	w.pod("a/web-2", "n1", "app=web,version=2", "10.0.1.2", http(8080), cluster.PodPort{Name: "dns", Protocol: cluster.UDP, Port: 53})
	w.pod("a/web-3", "n1", "app=web", "10.0.1.3", http(9090))
	w.np("a/p", "app=web", rules(on(rule(), named(cluster.TCP, "http"))), rules(on(rule(), named(cluster.TCP, "http"))))
	c := w.Changes()
	one, two, three := c.Subjects[name("a/web")], c.Subjects[name("a/web-2")], c.Subjects[name("a/web-3")]
	if *one != *two || one.Ingress == three.Ingress || one.Egress != three.Egress || one.Ingress == one.Egress || len(c.Rulesets) != 3 {
		t.Fatalf("%+v, %+v, %+v, %d rulesets", one, two, three, len(c.Rulesets))
	}
}

func TestClassesThatAreJudgedLikeOthersHaveNoRows(t *testing.T) {
	w := newWorld(t)
	w.pod("a/x", "n2", "app=x", "10.0.2.1")
	w.pod("a/y", "n1", "app=y", "10.0.1.2")
	w.np("a/y", "app=y", rules(rule(own("app=x"))), rules(rule()))
	w.np("a/web", "app=web", rules(on(rule(own("app=x")), tcp(80, 80)), on(rule(), tcp(80, 80))), nil)
	w.np("a/all", "app=web", nil, rules(rule(), rule(own("app=x"))))
	c := w.Changes()
	class := c.Addresses[netip.MustParseAddr("10.0.2.1")]
	rows := func(id policy.ID) map[policy.Key]policy.Row { return c.Rulesets[id].Rows }
	if got := rows(c.Subjects[name("a/web")].Egress); len(got) != 1 { // the first rule decides anyhow
		t.Fatalf("%+v", got)
	}
	if got := rows(c.Subjects[name("a/y")].Ingress); len(got) != 2 || !slices.Equal(got[policy.Key{Class: class}], policy.Row{{First: 0, Last: 65535, Decision: policy.Allow}}) {
		t.Fatalf("%+v", got)
	}
	// Another rule decides here, so there is a row, though it says the same.
	if got := rows(c.Subjects[name("a/web")].Ingress); len(got) != 4 || len(got[policy.Key{Class: class, Protocol: cluster.TCP}]) != 3 {
		t.Fatalf("%+v", got)
	}
}

// CVE-2025-64715 was to take an empty selector for none.
func TestNilAndEmptyAreWhatTheySay(t *testing.T) {
	zero := cluster.PolicyPeer{}
	for i := range 64 {
		bit := func(n int) bool { return i>>n&1 == 1 }
		maybe := func(empty bool) labels.Selector {
			if empty {
				return labels.Everything()
			}
			return nil
		}
		peer := cluster.PolicyPeer{Pods: maybe(bit(0)), Namespaces: maybe(bit(1))}
		list := [][]cluster.PolicyPeer{nil, {}, {peer}, {zero, peer, zero}}[i>>2&3]
		subject, all := maybe(bit(4)), bit(5)

		w := newWorld(t)
		w.pod("a/x", "n2", "app=x", "10.0.2.1")
		w.pod("b/x", "n2", "app=x", "10.0.3.1")
		w.SetNetworkPolicy(name("a/p"), &cluster.NetworkPolicy{Name: name("a/p"), Subject: subject,
			Ingress: rules(cluster.PolicyRule{AllPeers: all, Peers: list, AllPorts: true})})
		free := subject == nil || all
		peers := len(list) > 0 && peer.Pods != nil
		for addr, want := range map[string]bool{"10.0.2.1": free || peers, "10.0.3.1": free || peers && peer.Namespaces != nil, "192.0.2.1": free} {
			if got, _ := w.decide(in, "a/web", addr, cluster.TCP, 80); got != want {
				t.Errorf("combination %06b, from %s: allowed %t, want %t", i, addr, got, want)
			}
		}
	}
}

func TestASelectorOfNothingIsNotOneOfEverything(t *testing.T) { // their texts are one in the library
	w := newWorld(t)
	w.pod("a/x", "n2", "app=x", "10.0.2.1")
	w.np("a/1", "*", rules(on(rule(cluster.PolicyPeer{Pods: labels.Nothing()}), tcp(1, 1)), on(rule(own("*")), tcp(2, 2))), nil)
	w.np("a/2", "*", rules(on(rule(cluster.PolicyPeer{Pods: sel("*"), Namespaces: labels.Nothing()}), tcp(3, 3)), on(rule(anywhere("*", "*")), tcp(4, 4))), nil)
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 2}, packet{in, "10.0.2.1", cluster.TCP, 4})
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 1}, packet{in, "10.0.2.1", cluster.TCP, 3})
}

func TestClassesAreBoundedBySelectorsNotByLabels(t *testing.T) {
	w := newWorld(t)
	for i := range 20000 {
		p := &cluster.Pod{Namespace: "b", Name: fmt.Sprint(i), Node: "n2", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})},
			Labels: cluster.MakeLabels(map[string]string{"hash": fmt.Sprint(i), "a": fmt.Sprint(i % 2), "b": fmt.Sprint(i % 3), "c": fmt.Sprint(i % 5)})}
		w.SetPod(cluster.Name{Namespace: "b", Name: p.Name}, p)
	}
	w.np("a/p", "*", rules(rule(anywhere("a=1", "*")), rule(anywhere("b=1", "*")), rule(anywhere("c in (1,2)", "team=b"))), nil)
	c := w.Changes()
	classes := map[policy.ID]int{}
	for _, id := range c.Addresses {
		classes[id]++
	}
	if want := 20000 - 20000*1*2*3/30; len(classes) != 7 || len(c.Addresses) < want-10 || len(c.Addresses) > want+10 {
		t.Fatalf("%d classes, %d addresses", len(classes), len(c.Addresses))
	}
	if r := c.Rulesets[c.Subjects[name("a/web")].Ingress]; len(r.Rows) != 8 {
		t.Fatalf("%d rows", len(r.Rows))
	}
}

func TestMoreSpansThanARowHoldsCloseThePodAndAreAProblem(t *testing.T) {
	w := newWorld(t)
	var odd []cluster.PolicyPort
	for i := range uint16(2000) {
		odd = append(odd, tcp(2*i+1, 2*i+1))
	}
	w.np("a/p", "*", rules(on(rule(cidr("10.0.0.0/8")), odd...)), rules())
	c := w.Changes()
	if s := c.Subjects[name("a/web")]; s.Ingress != policy.Closed || s.Egress <= policy.Closed || len(c.Rulesets) != 1 {
		t.Fatalf("%+v", s)
	}
	if p := w.Problems(); len(p) != 1 || p[0].Object != "Pod/a/web" {
		t.Fatalf("%+v", p)
	}
	w.np("a/p", "*", rules(on(rule(cidr("10.0.0.0/8")), odd[:500]...)), rules())
	if s := w.Changes().Subjects[name("a/web")]; s.Ingress <= policy.Closed || len(w.Problems()) != 0 {
		t.Fatalf("%+v", s)
	}
}

func TestOfTooManyNeighboursTheFirstIsSaidToDecide(t *testing.T) {
	w := newWorld(t)
	var list []cluster.PolicyRule
	for i := range uint16(2000) {
		list = append(list, on(rule(), tcp(i+1, i+1)))
	}
	w.np("a/p", "*", rules(list...), nil)
	w.passes(packet{in, "10.0.2.1", cluster.TCP, 1}, packet{in, "10.0.2.1", cluster.TCP, 2000})
	w.dropped(packet{in, "10.0.2.1", cluster.TCP, 0}, packet{in, "10.0.2.1", cluster.TCP, 2001})
	if p := w.Problems(); len(p) != 0 {
		t.Fatalf("%+v", p)
	}
}

func TestAnAddressInBlocksAloneHasNoEntryOfItsOwn(t *testing.T) {
	w := newWorld(t)
	w.pod("b/x", "n2", "app=x", "10.0.2.1")
	w.np("a/p", "*", nil, rules(rule(cidr("0.0.0.0/0", "10.9.0.0/16"))))
	c := w.Changes()
	if len(c.Addresses) != 0 || len(c.Prefixes) != 2 || w.Class(netip.MustParseAddr("10.0.2.1")) != c.Prefixes[netip.MustParsePrefix("0.0.0.0/0")] {
		t.Fatalf("%+v", c)
	}
	if c.Prefixes[netip.MustParsePrefix("10.9.0.0/16")] == policy.Others {
		t.Fatal("the exception would be taken for gone")
	}
	w.passes(packet{out, "10.0.2.1", cluster.TCP, 80})
	w.dropped(packet{out, "10.9.2.1", cluster.TCP, 80})
}

func TestAPodThatMovesOrComesAgainIsASubjectWhereItIs(t *testing.T) {
	w := newWorld(t)
	w.np("a/p", "*", rules(), nil)
	w.Changes()
	w.pod("a/web", "n2", "app=web", "10.0.1.1")
	if c := w.Changes(); len(c.Subjects) != 1 || c.Subjects[name("a/web")] != nil || len(c.Rulesets) != 1 {
		t.Fatalf("%+v", c)
	}
	w.SetPod(name("a/web"), nil)
	w.pod("a/web", "n1", "app=web", "10.0.1.7")
	if c := w.Changes(); c.Subjects[name("a/web")] == nil || len(c.Rulesets) != 1 {
		t.Fatalf("%+v", c)
	}
}
