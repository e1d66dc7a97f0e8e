package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/testnet"
)

// upgrade has the next agent find no endpoints, as one does whose map has another layout. What there is stays pinned under
// another name, if that is wanted.
func (n *node) upgrade(keep bool) {
	n.t.Helper()
	n.stop()
	pins, err := filepath.Glob(filepath.Join(n.cfg.Pins, "maps", "endpoints_*"))
	if err != nil || len(pins) != 1 {
		n.t.Fatal(pins, err)
	}
	if keep {
		err = os.Rename(pins[0], filepath.Join(n.cfg.Pins, "maps", "endpoints_0ld1ay0u"))
	} else {
		err = os.Remove(pins[0])
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.start()
	n.report()
}

// What an agent with another layout of the map of endpoints finds there opens no pod.
func TestAnUpgradeOpensNoPod(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("gone").pod("web").pod("free").isolate("gone", "").isolate("web", "")
	n := newNode(t, world.Snapshot, judged)
	addrs := map[string]netip.Addr{}
	for _, name := range []string{"gone", "web", "free", "unknown"} {
		addrs[name] = first(n.add(name, testnet.New(t).File()))
	}
	n.source.say(world.withoutPod("gone").release("web").namespace("default", true).Snapshot)
	for _, keep := range []bool{true, false} {
		n.upgrade(keep)
		if e, ok := n.endpoint(addrs["free"]); !ok || (e.Ingress == uint64(policy.Open)) != keep {
			t.Errorf("a pod that was open, and whose namespace goes: %+v, %t", e, ok)
		}
		for _, name := range []string{"gone", "web", "unknown"} {
			if e, ok := n.endpoint(addrs[name]); !ok || e.Ingress == uint64(policy.Open) {
				t.Errorf("%s: %+v, %t", name, e, ok)
			}
		}
	}
	n.source.say(world.pod("unknown").Snapshot)
	for name, isolated := range map[string]bool{"web": true, "free": false, "unknown": false} {
		n.eventually(name+" is as its policies say", func() bool {
			e, _ := n.endpoint(addrs[name])
			return isIsolated(e.Ingress) == isolated && e.Egress == uint64(policy.Open)
		})
	}
}

// incomplete is what a source says that could not read all policies.
func (t town) incomplete() town {
	return t.with(func(s *cluster.Snapshot) { s.Incomplete = true })
}

func TestAPodThatIsClosedDoesNotOpenForWantOfKnowledge(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web").pod("new").pod("later")
	a := &Agent{datapath: &datapath.Datapath{}, snapshot: world.Snapshot}
	a.cfg.Options.Policies = true
	a.openPolicies()
	closed := func(p cluster.LocalPod) bool {
		return p.Ingress == uint64(policy.Closed) && p.Egress == uint64(policy.Closed)
	}
	web := podName("default", "web")
	a.policies.subjects[web] = policy.Subject{Ingress: 77}
	p := a.judge(localPod("web"))
	later := a.judge(localPod("later"))
	if !closed(p) || !closed(later) {
		t.Fatalf("%+v, %+v", p, later)
	}
	a.snapshot = world.incomplete().Snapshot
	for _, name := range []string{"web", "new", "later"} {
		a.policies.subjects[podName("default", name)] = policy.Subject{}
	}
	for range 2 {
		if p = a.judge(p); !closed(p) || a.podPolicies(p).Why != unread {
			t.Errorf("closed, since its rules did not fit, it is %+v, %+v", p, a.podPolicies(p))
		}
	}
	for _, p := range []cluster.LocalPod{a.judge(later), a.judge(localPod("new"))} {
		if p.Ingress != 0 || p.Egress != 0 {
			t.Errorf("closed only since it was not known, it is %+v", p)
		}
	}
	a.snapshot = world.Snapshot
	if p = a.judge(p); p.Ingress != 0 || p.Egress != 0 || a.podPolicies(p).Why != "" {
		t.Errorf("now that all is known it is %+v", p)
	}
}

func TestAPodThatAnEarlierAgentClosedDoesNotOpenForWantOfKnowledge(t *testing.T) {
	world := newTown("10.0.1.0/24")
	n := newNode(t, world.Snapshot, judged)
	addr := first(n.add("web", testnet.New(t).File()))
	n.stop()
	n.source.say(world.pod("web").incomplete().Snapshot)
	n.start()
	n.report()
	if s := n.states("web"); s.Ingress != api.Closed || s.Egress != api.Closed || s.Why != unread {
		t.Errorf("%+v", s)
	}
	n.source.say(world.pod("web").Snapshot)
	n.eventually("it is open", func() bool { e, _ := n.endpoint(addr); return e.Ingress == 0 && e.Egress == 0 })
}
