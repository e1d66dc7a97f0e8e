package agent

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/testnet"
)

func TestAPodThatIsKnownHasItsRulesetsFromTheStart(t *testing.T) {
	n := newNode(t, newTown("10.0.1.0/24", "fd00:1::/64").pod("web").pod("free").isolate("web", "free").Snapshot, judged)
	web, free, plain := testnet.New(t), testnet.New(t), testnet.New(t)
	began := time.Now()
	added := n.add("web", web.File())
	if took := time.Since(began); took > awaitPolicies/2 {
		t.Errorf("it took %s", took)
	}
	for _, a := range added.Addresses {
		if e, ok := n.endpoint(a.Prefix.Addr()); !ok || !isIsolated(e.Ingress) || e.Egress != uint64(policy.Open) || e.Late {
			t.Errorf("%s: %+v, %t", a.Prefix, e, ok)
		}
	}
	if e, _ := n.endpoint(first(n.add("free", free.File()))); e.Ingress != uint64(policy.Open) || e.Egress != uint64(policy.Open) {
		t.Errorf("a pod that no policy selects: %+v", e)
	}
	resp := n.must(api.Request{Verb: api.Add, Attachment: at("plain")}, plain.File())
	if e, _ := n.endpoint(first(resp)); e.Ingress != uint64(policy.Open) || e.Egress != uint64(policy.Open) {
		t.Errorf("a pod that is not Kubernetes': %+v", e)
	}
	if s := n.states("web"); s.Ingress != api.Isolated || s.Egress != api.Open || s.Why != "" {
		t.Errorf("it is said to be %+v", s)
	}
	if r := n.report(); len(r.Repairs) > 0 || len(r.Problems) > 2 {
		t.Errorf("%+v, %+v", r.Repairs, r.Problems)
	}
}

// adding begins an ADD, and says when it is done.
func (n *node) adding(id string, netns *os.File) <-chan api.Response {
	done := make(chan api.Response, 1)
	go func() {
		resp, err := n.call(api.Request{Verb: api.Add, Attachment: at(id), PodNamespace: "default", PodName: id}, netns)
		if err != nil {
			n.t.Error(err)
		}
		done <- resp
	}()
	return done
}

func TestAnAdditionWaitsUntilThePodsPoliciesAreInForce(t *testing.T) {
	world := newTown("10.0.1.0/24").isolate("web", "")
	n := newNode(t, world.Snapshot, judged)
	done := n.adding("web", testnet.New(t).File())
	addr := netip.MustParseAddr("10.0.1.2")
	n.eventually("the pod is closed", func() bool {
		e, ok := n.endpoint(addr)
		return ok && e.Ingress == uint64(policy.Closed) && e.Egress == uint64(policy.Closed)
	})
	if s := n.states("web"); s.Ingress != api.Closed || s.Why != unknown {
		t.Errorf("it is said to be %+v", s)
	}
	select {
	case resp := <-done:
		t.Fatalf("it was answered: %+v", resp)
	case <-time.After(300 * time.Millisecond):
	}
	n.source.say(world.pod("web").Snapshot)
	select {
	case resp := <-done:
		if resp.Error != nil {
			t.Fatal(resp.Error)
		}
	case <-time.After(2 * time.Second):
		t.Fatal("it is not answered")
	}
	if e, _ := n.endpoint(addr); !isIsolated(e.Ingress) || e.Egress != uint64(policy.Open) || e.Late {
		t.Errorf("%+v", e)
	}
}

func TestAPodWhosePoliciesDoNotComeStartsClosedAndOpensUpLater(t *testing.T) {
	world := newTown("10.0.1.0/24")
	n := newNode(t, world.Snapshot, judged)
	resp := n.add("web", testnet.New(t).File())
	e, ok := n.endpoint(first(resp))
	if !ok || e.Ingress != uint64(policy.Closed) || e.Egress != uint64(policy.Closed) {
		t.Fatalf("%+v, %t", e, ok)
	}
	n.source.say(world.pod("web").Snapshot)
	n.eventually("it is open", func() bool { e, _ := n.endpoint(first(resp)); return e.Ingress == 0 && e.Egress == 0 })
}

func TestAPodCanBeDeletedWhileItsAdditionWaits(t *testing.T) {
	n := newNode(t, newTown("10.0.1.0/24").Snapshot, judged)
	done := n.adding("web", testnet.New(t).File())
	n.eventually("the pod is there", func() bool { return len(n.report().Pods) == 1 })
	n.del("web")
	select {
	case resp := <-done:
		if resp.Error == nil || resp.Error.Code != api.CodeTryAgain {
			t.Errorf("%+v", resp)
		}
	case <-time.After(2 * time.Second):
		t.Fatal("it is not answered")
	}
	if _, ok := n.endpoint(netip.MustParseAddr("10.0.1.2")); ok {
		t.Error("its endpoint is left")
	}
}

func TestAPodThatIsIsolatedWhileItRunsIsLate(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web")
	n := newNode(t, world.Snapshot, judged)
	addr := first(n.add("web", testnet.New(t).File()))
	n.source.say(world.isolate("web", "").Snapshot)
	n.eventually("it is isolated, late", func() bool { e, _ := n.endpoint(addr); return isIsolated(e.Ingress) && e.Late })
	before, _ := n.endpoint(addr)
	n.restart()
	if n.must(api.Request{Verb: api.Status}, nil); n.report().Repairs != nil {
		t.Errorf("%+v", n.report().Repairs)
	}
	if after, _ := n.endpoint(addr); after != before {
		t.Errorf("it was %+v, is %+v", before, after)
	}
	n.stop()
	if w := n.agent.datapath.PolicyWrites(); w.Rows != 0 {
		t.Errorf("the next agent wrote %+v", w)
	}
	n.start()
	n.source.say(world.Snapshot)
	n.eventually("it is open", func() bool { e, _ := n.endpoint(addr); return e.Ingress == 0 && !e.Late })
}

func TestAPodThatTheClusterForgetsKeepsItsPoliciesWhileItsLinkIsHere(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web").pod("peer").isolate("web", "peer")
	n := newNode(t, world.Snapshot, judged)
	addr := first(n.add("web", testnet.New(t).File()))
	before, _ := n.endpoint(addr)
	n.source.say(world.withoutPod("web").Snapshot)
	n.report() // the loop has turned, or turns now
	n.source.say(world.withoutPod("web").pod("other").Snapshot)
	time.Sleep(200 * time.Millisecond)
	if after, _ := n.endpoint(addr); after != before || !isIsolated(after.Ingress) {
		t.Errorf("it was %+v, is %+v", before, after)
	}
	n.del("web")
	n.source.say(world.withoutPod("web").Snapshot)
	n.report()
	time.Sleep(200 * time.Millisecond)
	n.stop()
	if _, known := n.agent.policies.table.Subject(cluster.Name{Namespace: "default", Name: "web"}); known {
		t.Error("it is never forgotten")
	}
	n.start()
}

func TestANamespaceThatIsBeingDeletedLoosensNoPod(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web").isolate("web", "")
	n := newNode(t, world.Snapshot, judged)
	addr := first(n.add("web", testnet.New(t).File()))
	isolated := func() bool { e, ok := n.endpoint(addr); return ok && e.Ingress != uint64(policy.Open) }
	ending := world.namespace("default", true)
	n.source.say(ending.Snapshot)
	n.report()
	n.source.say(ending.release("web").Snapshot)
	time.Sleep(300 * time.Millisecond)
	if !isolated() {
		t.Error("without its policies it is open")
	}
	n.restart() // this one never knew the policy
	n.report()
	if !isolated() {
		e, _ := n.endpoint(addr)
		t.Errorf("after a restart it is open: %+v", e)
	}
	n.restart()
	if n.report(); !isolated() {
		t.Error("after the next it is open")
	}
	n.source.say(world.release("web").Snapshot) // it was not deleted after all
	n.eventually("it is open", func() bool { return !isolated() })
}

// The cluster may say for long that an address is a pod's that has gone.
func TestAnAddressIsTheNewPodsAlone(t *testing.T) {
	const addr = "10.9.0.5"
	world := newTown("10.0.1.0/24").pod("a-old", addr).pod("new").pod("web").isolate("web", "a-old").isolate("new", "")
	n := newNode(t, world.Snapshot, judged)
	n.add("web", testnet.New(t).File())
	class := func() policy.ID {
		n.stop()
		defer n.start()
		return n.agent.policies.table.Class(netip.MustParseAddr(addr))
	}
	if class() == policy.Others {
		t.Fatal("the old pod's address has no class: this tests nothing")
	}
	n.must(api.Request{Verb: api.Add, Attachment: at("new"), PodNamespace: "default", PodName: "new", DelegatedIPAM: true,
		Addresses: []api.Address{{Prefix: netip.MustParsePrefix(addr + "/32")}}}, testnet.New(t).File())
	if e, _ := n.endpoint(netip.MustParseAddr(addr)); !isIsolated(e.Ingress) {
		t.Errorf("the new pod is judged by %+v", e)
	}
	if c := class(); c != policy.Others {
		t.Errorf("the new pod is taken for the old one: class %x", c)
	}
	n.del("new")
}

func TestWhatCouldNotBeReadLoosensNothing(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web").isolate("web", "")
	n := newNode(t, world.Snapshot, judged)
	addr := first(n.add("web", testnet.New(t).File()))
	before, _ := n.endpoint(addr)
	n.stop()
	unread := world.release("web").with(func(s *cluster.Snapshot) { s.Incomplete = true })
	n.source.say(unread.Snapshot)
	n.start()
	n.report()
	time.Sleep(1500 * time.Millisecond) // until rows that nobody wants are taken away
	n.report()
	if after, _ := n.endpoint(addr); after != before {
		t.Errorf("it was %+v, is %+v", before, after)
	}
	n.source.say(world.release("web").Snapshot)
	n.eventually("it is open", func() bool { e, _ := n.endpoint(addr); return e.Ingress == 0 })
}

func TestWithoutPoliciesWhatAnEarlierAgentWroteIsTakenBack(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web").isolate("web", "peer").admit("web", "192.0.2.0/24")
	n := newNode(t, world.Snapshot, judged)
	addr := first(n.add("web", testnet.New(t).File()))
	n.stop()
	n.cfg.Options.Policies = false
	n.start()
	n.report()
	if e, ok := n.endpoint(addr); !ok || e.Ingress != 0 || e.Egress != 0 {
		t.Errorf("%+v", e)
	}
	if s := n.states("web"); s != (api.PodPolicies{}) {
		t.Errorf("it is said to be %+v", s)
	}
	n.refused(api.CodeUnsupported, api.Request{Verb: api.Drops}, nil)
	n.eventually("the rules are gone", func() bool {
		n.report()
		live, err := datapath.OpenLive(n.cfg.Pins)
		if err != nil {
			t.Fatal(err)
		}
		defer live.Close()
		entries, err := live.Entries()
		if err != nil {
			t.Fatal(err)
		}
		return entries["rules"] == 0 && entries["classes"] == 0 && entries["blocks"] == 0
	})
	n.stop() // after a sync that finds it so
	n.agent.sync()
	if len(n.agent.repairs) > 0 {
		t.Errorf("%+v", n.agent.repairs)
	}
	n.start()
}
