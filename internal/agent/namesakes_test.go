package agent

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/testnet"
)

// again is a pod of a name that another one had, of another workload.
func (t town) again(name, uid, app string) town {
	p := cluster.Pod{Namespace: "default", Name: name, UID: uid, Node: "node-1", Labels: cluster.MakeLabels(map[string]string{"app": app})}
	return t.with(func(s *cluster.Snapshot) {
		s.AllPods = s.AllPods.With(map[cluster.Name]*cluster.Pod{podName("default", name): &p})
		s.Pods = []cluster.Pod{p}
	})
}

// addingAs begins an ADD of a pod whose UID the runtime knows.
func (n *node) addingAs(id, name, uid string, netns *os.File) <-chan api.Response {
	done := make(chan api.Response, 1)
	go func() {
		resp, err := n.call(api.Request{Verb: api.Add, Attachment: at(id), PodNamespace: "default", PodName: name, PodUID: uid}, netns)
		if err != nil {
			n.t.Error(err)
		}
		done <- resp
	}()
	return done
}

func (n *node) judgedAs(addr netip.Addr, ingress, egress policy.ID) bool {
	e, ok := n.endpoint(addr)
	return ok && e.Ingress == uint64(ingress) && e.Egress == uint64(egress)
}

func (n *node) awaitAnswer(done <-chan api.Response) api.Response {
	n.t.Helper()
	select {
	case resp := <-done:
		if resp.Error != nil {
			n.t.Fatal(resp.Error)
		}
		return resp
	case <-time.After(2 * time.Second):
		n.t.Fatal("it is not answered")
	}
	return api.Response{}
}

// Its name's last pod was open, and is what the cluster still says.
func TestANewPodIsNotJudgedAsThePodThatHadItsName(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web").pod("db").isolate("secret", "").isolate("db", "web")
	n := newNode(t, world.Snapshot, judged)
	last := first(n.awaitAnswer(n.addingAs("c1", "web", "web", testnet.New(t).File())))
	if !n.judgedAs(last, policy.Open, policy.Open) {
		t.Fatal("the first pod is not open")
	}
	n.add("db", testnet.New(t).File())
	n.del("c1")
	done := n.addingAs("c2", "web", "web-2", testnet.New(t).File())
	addr := netip.MustParseAddr("10.0.1.4")
	closed := func(when string) {
		t.Helper()
		n.eventually("it is closed "+when, func() bool { return n.judgedAs(addr, policy.Closed, policy.Closed) })
		if s := n.states("web"); s.Why != unknown {
			t.Errorf("%s it is said to be %+v", when, s)
		}
		select {
		case resp := <-done:
			t.Fatalf("%s it is answered: %+v", when, resp)
		case <-time.After(300 * time.Millisecond):
		}
	}
	closed("while the last pod is there")
	n.source.say(world.withoutPod("web").Snapshot)
	closed("once the last pod has gone")
	n.source.say(world.again("web", "web-2", "secret").Snapshot)
	n.awaitAnswer(done)
	if e, _ := n.endpoint(addr); !isIsolated(e.Ingress) || e.Egress != uint64(policy.Open) || e.Late {
		t.Errorf("it is judged by %+v", e)
	}
}

func TestAPodOfAnothersNameHasNothingOfItsAfterARestart(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web").pod("db").isolate("db", "web")
	n := newNode(t, world.Snapshot, judged)
	n.add("db", testnet.New(t).File())
	addr := first(n.awaitAnswer(n.addingAs("c1", "web", "web", testnet.New(t).File())))
	class := func() policy.ID {
		n.stop()
		defer n.start()
		return n.agent.policies.table.Class(addr)
	}
	if class() == policy.Others {
		t.Fatal("nobody asks for the pod's labels: this tests nothing")
	}
	n.stop()
	n.source.say(world.again("web", "web-2", "web").Snapshot)
	n.start()
	if c := class(); c != policy.Others {
		t.Errorf("the pod before is taken for the one that comes: class %x", c)
	}
	if !n.judgedAs(addr, policy.Open, policy.Open) {
		t.Error("it is not judged as it was")
	}
	n.source.say(world.Snapshot)
	n.report()
	if class() == policy.Others {
		t.Error("the pod itself is not known again")
	}
}

// The old pod's container still ends while the new pod's starts.
func TestTwoPodsOfOneNameAreJudgedEachAsItself(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web").isolate("web", "")
	n := newNode(t, world.Snapshot, judged)
	old := first(n.awaitAnswer(n.addingAs("c1", "web", "web", testnet.New(t).File())))
	before, _ := n.endpoint(old)
	done := n.addingAs("c2", "web", "web-2", testnet.New(t).File())
	addr := netip.MustParseAddr("10.0.1.3")
	n.eventually("the new pod is closed", func() bool { return n.judgedAs(addr, policy.Closed, policy.Closed) })
	if e, _ := n.endpoint(old); e != before || !isIsolated(e.Ingress) {
		t.Errorf("the old pod was judged by %+v, is by %+v", before, e)
	}
	n.source.say(world.again("web", "web-2", "free").Snapshot)
	n.awaitAnswer(done)
	if !n.judgedAs(addr, policy.Open, policy.Open) || !n.judgedAs(old, policy.Closed, policy.Open) {
		e, _ := n.endpoint(addr)
		o, _ := n.endpoint(old)
		t.Errorf("the new pod is judged by %+v, the old one by %+v", e, o)
	}
}

func TestARuntimeThatKnowsNoUIDIsBelieved(t *testing.T) {
	n := newNode(t, newTown("10.0.1.0/24").pod("web").isolate("web", "").Snapshot, judged)
	if e, _ := n.endpoint(first(n.awaitAnswer(n.adding("web", testnet.New(t).File())))); !isIsolated(e.Ingress) {
		t.Errorf("it is judged by %+v", e)
	}
}
