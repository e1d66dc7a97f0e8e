package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/testnet"
)

// patience is how long a connection may take that is to be made.
const patience = 2 * time.Second

// listen accepts connections in a pod.
func listen(t *testing.T, pod *testnet.NS, addr netip.Addr, ports ...uint16) {
	t.Helper()
	for _, port := range ports {
		var l net.Listener
		var err error
		pod.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(addr, port).String()) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
			}
		}()
	}
}

// dial tells how a connection from somewhere goes.
func dial(from func(func()), to netip.Addr, port uint16, wait time.Duration) (err error) {
	from(func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", netip.AddrPortFrom(to, port).String(), wait); err == nil {
			c.Close()
		}
	})
	return err
}

func here(do func()) { do() }

// home gives the node addresses of its own.
func home(t *testing.T, world town) town {
	t.Helper()
	testnet.RequireRoot(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	var addrs []netip.Addr
	for _, text := range []string{"192.0.2.1/32", "fd00:99::1/128"} {
		a, err := netlink.ParseAddr(text)
		if err == nil {
			err = netlink.AddrReplace(lo, a)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = netlink.AddrDel(lo, a) })
		addrs = append(addrs, netip.MustParsePrefix(text).Addr())
	}
	return world.with(func(s *cluster.Snapshot) {
		s.Nodes = []cluster.Node{s.Nodes[0]}
		s.Nodes[0].Addresses = addrs
	})
}

func (n *node) drops(req *api.DropsRequest) (r api.DropsReport) {
	n.t.Helper()
	if err := json.Unmarshal(n.must(api.Request{Verb: api.Drops, Drops: req}, nil).Report, &r); err != nil {
		n.t.Fatal(err)
	}
	return r
}

// metrics are the agent's counters and gauges about policies.
func (n *node) metrics() map[string]float64 {
	n.t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(&metrics{n.agent})
	registry.MustRegister(n.agent.policies.metrics.collectors()...)
	families, err := registry.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return values
}

// toldEvents are the events that the cluster got.
type toldEvents struct {
	mu   sync.Mutex
	list []PodEvent
}

func (e *toldEvents) tell(_ context.Context, one PodEvent) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, one)
	return nil
}

func (e *toldEvents) all() []PodEvent {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}

func TestWhatPoliciesDenyDoesNotPassAndIsTold(t *testing.T) {
	var events toldEvents
	world := home(t, newTown("10.0.1.0/24", "fd00:1::/64")).pod("web").pod("peer").pod("other").isolate("web", "peer")
	n := newNode(t, world.Snapshot, judged, func(c *Config) { c.Tell = events.tell })
	web, peer, other := testnet.New(t), testnet.New(t), testnet.New(t)
	addrs := map[string]api.Response{"web": n.add("web", web.File()), "peer": n.add("peer", peer.File()), "other": n.add("other", other.File())}
	start := n.drops(&api.DropsRequest{Follow: true})
	if len(start.Drops) > 0 || start.Last == 0 {
		t.Fatalf("%+v", start)
	}
	for i := range 2 {
		to := addrs["web"].Addresses[i].Prefix.Addr()
		listen(t, web, to, 80, 81)
		if err := dial(peer.Do, to, 80, patience); err != nil {
			t.Errorf("what is allowed: %v", err)
		}
		if err := dial(here, to, 81, patience); err != nil {
			t.Errorf("from its own node: %v", err)
		}
		if err := dial(web.Do, to, 81, patience); err != nil {
			t.Errorf("from itself: %v", err)
		}
		if dial(other.Do, to, 80, patience/10) == nil || dial(peer.Do, to, 81, patience/10) == nil {
			t.Error("what is denied passes")
		}
	}
	told := n.drops(&api.DropsRequest{Follow: true, After: start.Last})
	i := slices.IndexFunc(told.Drops, func(d api.Drop) bool { return d.To.Port == 80 && d.To.Address == first(addrs["web"]) })
	if i < 0 {
		t.Fatalf("%+v", told)
	}
	if d := told.Drops[i]; d.Direction != "ingress" || d.Protocol != "TCP" || d.From.Pod != "default/other" || d.To.Pod != "default/web" ||
		d.Reason != "isolated by NetworkPolicy/default/to-web" || d.From.Address != first(addrs["other"]) {
		t.Errorf("%+v", d)
	}
	counts := n.drops(nil).Counts
	if len(counts) != 1 || counts[0].Pod != "default/web" || counts[0].Direction != "ingress" || counts[0].Packets < 4 ||
		!slices.Equal(counts[0].Policies, []string{"NetworkPolicy/default/to-web"}) {
		t.Errorf("%+v", counts)
	}
	n.eventually("the pod's owner is told", func() bool { return len(events.all()) > 0 })
	if all := events.all(); len(all) != 1 || all[0].Pod != podName("default", "web") || all[0].UID != "web" || !strings.Contains(all[0].Message, "isolated by NetworkPolicy/default/to-web") {
		t.Errorf("%+v", all)
	}
	metrics := n.metrics()
	for name, least := range map[string]float64{`polder_policy_denied_packets_total{direction="ingress"}`: 4, `polder_policy_rules`: 1, `polder_policy_rulesets`: 1,
		`polder_policy_denied_pod_packets_total{namespace="default",pod="web"}`: 4, `polder_policy_subjects`: 3, `polder_policy_classes`: 1} {
		if metrics[name] < least {
			t.Errorf("%s is %v", name, metrics[name])
		}
	}
	if metrics[`polder_policy_denied_packets_total{direction="egress"}`] != 0 || metrics[`polder_policy_closed_pods`] != 0 {
		t.Errorf("%v", metrics)
	}
	if n.report().Counters["drop ingress denied"] < 4 {
		t.Errorf("%+v", n.report().Counters)
	}
}

func TestAPodWhosePoliciesAreNotKnownReachesItsNodeAlone(t *testing.T) {
	world := home(t, newTown("10.0.1.0/24")).pod("peer")
	n := newNode(t, world.Snapshot, judged)
	pod, peer := testnet.New(t), testnet.New(t)
	peerAddr := first(n.add("peer", peer.File()))
	listen(t, peer, peerAddr, 80)
	done := n.adding("web", pod.File())
	addr := netip.MustParseAddr("10.0.1.3")
	n.eventually("it is up", func() bool { _, ok := n.endpoint(addr); return ok && len(n.report().Pods) == 2 })
	time.Sleep(50 * time.Millisecond)
	listen(t, pod, addr, 80)
	if err := dial(here, addr, 80, patience); err != nil {
		t.Errorf("from its own node: %v", err)
	}
	if dial(peer.Do, addr, 80, patience/10) == nil || dial(pod.Do, peerAddr, 80, patience/10) == nil {
		t.Error("it reaches another pod, or another it")
	}
	n.source.say(world.pod("web").Snapshot)
	if resp := <-done; resp.Error != nil {
		t.Fatal(resp.Error)
	}
	if err := dial(peer.Do, addr, 80, patience); err != nil {
		t.Error(err)
	}
	if err := dial(pod.Do, peerAddr, 80, patience); err != nil {
		t.Error(err)
	}
}

func TestAFloodOfDropsIsToldInPart(t *testing.T) {
	var d drops
	_, last, _, _ := d.after(0)
	for i := range 3 * mostDrops {
		d.add(api.Drop{Protocol: fmt.Sprint(i)})
	}
	list, now, missed, _ := d.after(last)
	if len(list) != mostDrops || missed != 2*mostDrops || now != last+3*mostDrops || list[0].Protocol != fmt.Sprint(2*mostDrops) {
		t.Errorf("%d, %d missed, %d after %d", len(list), missed, now, last)
	}
	if list, _, missed, wait := d.after(now); len(list) > 0 || missed > 0 || wait == nil {
		t.Errorf("%d, %d missed", len(list), missed)
	}
	if list, _, _, _ := d.after(now - 1); len(list) != 1 {
		t.Errorf("%d", len(list))
	}
	if r := d.follow(t.Context(), "n", 1<<40); len(r.Drops) > 0 || r.Last != now { // another agent's number
		t.Errorf("%+v", r)
	}
}

func TestEventsAreFew(t *testing.T) {
	var told toldEvents
	a := &Agent{}
	a.cfg.Tell = told.tell
	e, now := newEvents(a), time.Now()
	for i := range 10 * eventBurst {
		for _, direction := range []string{"ingress", "egress", "ingress"} {
			p := localPod(fmt.Sprint("p", i%(3*eventBurst)))
			e.note(t.Context(), p, api.Drop{Direction: direction}, now)
		}
	}
	e.note(t.Context(), cluster.LocalPod{Link: "plain"}, api.Drop{}, now)
	count := func(want int) {
		t.Helper()
		for range 100 {
			if len(told.all()) == want {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond)
		if n := len(told.all()); n != want {
			t.Errorf("%d events, want %d", n, want)
		}
	}
	count(eventBurst)
	e.note(t.Context(), localPod("p0"), api.Drop{Direction: "ingress"}, now.Add(eventEvery/2))
	count(eventBurst)
	e.note(t.Context(), localPod("p0"), api.Drop{Direction: "ingress"}, now.Add(eventEvery))
	count(eventBurst + 1)
}

func TestWhoDecidedIsRememberedForAWhile(t *testing.T) {
	var k knownRulesets
	set := func(id policy.ID, d ...policy.Decider) { k.note(map[policy.ID]*policy.Ruleset{id: {Deciders: d}}) }
	set(7, policy.Decider{Objects: []string{"NetworkPolicy/a/b"}, Rule: -1}, policy.Decider{Objects: []string{"ClusterNetworkPolicy/c"}, Rule: 2, Name: "no"})
	k.note(map[policy.ID]*policy.Ruleset{7: nil})
	for decision, want := range map[policy.Decision]string{0: "isolated by NetworkPolicy/a/b", 1: `denied by ClusterNetworkPolicy/c, rule 3 "no"`, 2: "isolated by policies that have changed since"} {
		if got, _ := k.reason(7, decision); got != want {
			t.Errorf("%d: %q", decision, got)
		}
	}
	for id := policy.ID(100); id < 100+mostGone; id++ {
		set(id, policy.Decider{Rule: -1})
		k.note(map[policy.ID]*policy.Ruleset{id: nil})
	}
	if _, policies := k.reason(7, 0); policies != nil || len(k.deciders) != mostGone {
		t.Errorf("%v, %d are remembered", policies, len(k.deciders))
	}
}
