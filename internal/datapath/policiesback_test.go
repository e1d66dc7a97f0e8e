package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// All pods leave a ruleset, a peer gets another class, and a pod enters the ruleset again: a program that found it at the
// pod that left is not told that the peer may pass, since the pod has never let it in. Later, the pod that entered does.
func TestARulesetThatIsWantedAgainWaitsForThoseWhoLeftIt(t *testing.T) {
	for _, named := range []bool{false, true} { // whether the ruleset tells the old class of the peer from others
		d, at := openTest(t), time.Now()
		x := &text{rules: []rule{{label: 1, allow: true, last: 65535}}}
		if named {
			x.rules = append(x.rules, rule{label: 0, last: 65535, protocol: cluster.TCP})
		}
		y := &text{rules: []rule{{label: 0, allow: true, last: 65535}, {label: 1, last: 65535}}}
		peer := peers()[1]
		p := packet{pod: 0, peer: peer, protocol: cluster.TCP, port: 80}
		worlds := []policyWorld{{map[cluster.Name][2]*text{podName(0): {x}, podName(1): {y}}, map[netip.Addr]labels{peer: 1}, map[netip.Prefix]labels{}}}
		for range 2 {
			worlds = append(worlds, worlds[len(worlds)-1].clone())
		}
		worlds[1].pods[podName(0)], worlds[1].labels[peer] = [2]*text{y}, 2
		worlds[2].pods[podName(0)], worlds[2].labels[peer], worlds[2].pods[podName(2)] = [2]*text{y}, 2, [2]*text{x}
		said := policy.Changes{}
		var states []kernelState
		for _, w := range worlds {
			next := w.all()
			var err error
			if said.Subjects == nil {
				_, err = d.ResyncPolicies(next)
			} else {
				err = d.SyncPolicies(since(said, next))
			}
			if said = next; err != nil {
				t.Fatal(err)
			}
			for n := range 3 {
				if s := said.Subjects[podName(n)]; s != nil {
					if err := d.PutEndpoint(podAddr(n), endpointOf(*s, 100+n)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := d.SwappedPolicies(at); err != nil {
				t.Fatal(err)
			}
			if len(states) == 0 {
				settlePolicies(t, d, at)
				at = at.Add(time.Minute)
			}
			states = append(states, stateOf(t, d))
		}
		for i := range states {
			for j := i; j < len(states); j++ {
				for k := j; k < len(states); k++ {
					next := []kernelState{states[i], states[j], states[k], states[k], states[k], states[k]}
					if _, passes := p.passes(func() kernelState { s := next[0]; next = next[1:]; return s }); passes {
						t.Errorf("passes by states %d, %d, %d", i, j, k)
					}
				}
			}
		}
		settlePolicies(t, d, at)
		last := stateOf(t, d)
		p.pod = 2
		if _, passes := p.passes(func() kernelState { return last }); !passes {
			t.Error("is not let in after all")
		}
	}
}
