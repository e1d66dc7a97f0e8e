package agent

import (
	"testing"
	"time"

	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/policy"
)

// The watch of policies may be ahead of that of namespaces.
func TestAPodWhosePoliciesWentAMomentBeforeItsNamespaceEndsIsClosedAgain(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web")
	web := podName("default", "web")
	for name, c := range map[string]struct {
		had  policy.Subject
		wait time.Duration
		want policy.Subject
	}{
		"isolated":             {policy.Subject{Ingress: 77}, 0, policy.Subject{Ingress: policy.Closed}},
		"isolated for long":    {policy.Subject{Ingress: 77, Egress: 78}, 2 * lagging, policy.Subject{}},
		"both ways":            {policy.Subject{Ingress: 77, Egress: 78}, lagging / 2, policy.Subject{Ingress: policy.Closed, Egress: policy.Closed}},
		"open from the start":  {policy.Subject{}, 0, policy.Subject{}},
		"unknown at the start": {policy.Subject{Ingress: policy.Closed, Egress: policy.Closed}, 0, policy.Subject{}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &Agent{datapath: &datapath.Datapath{}, snapshot: world.Snapshot}
			a.cfg.Options.Policies = true
			a.openPolicies()
			a.policies.subjects[web] = policy.Subject{}
			p := localPod("web")
			p.Ingress, p.Egress = uint64(c.had.Ingress), uint64(c.had.Egress)
			if p = a.judge(p); p.Ingress != 0 || p.Egress != 0 {
				t.Fatalf("without a policy it is %+v", p)
			}
			p = a.judge(p)
			if o, ok := a.policies.opened[p.Link]; ok {
				o.at = o.at.Add(-c.wait)
				a.policies.opened[p.Link] = o
			}
			a.snapshot = world.namespace("default", true).Snapshot
			for range 2 {
				if p = a.judge(p); p.Ingress != uint64(c.want.Ingress) || p.Egress != uint64(c.want.Egress) {
					t.Errorf("while its namespace ends it is %+v", p)
				}
			}
		})
	}
}

func TestOnlyWhatOpenedLatelyIsRemembered(t *testing.T) {
	a := &Agent{}
	a.openPolicies()
	a.noteOpened("old", policy.Subject{Ingress: 77}, policy.Subject{})
	a.policies.opened["old"] = opened{was: policy.Subject{Ingress: 77}, at: time.Now().Add(-2 * lagging)}
	a.noteOpened("same", policy.Subject{Ingress: 77}, policy.Subject{Ingress: 78})
	a.noteOpened("web", policy.Subject{Ingress: 77, Egress: 78}, policy.Subject{Egress: 78})
	a.noteOpened("web", policy.Subject{Egress: 78}, policy.Subject{})
	if o := a.policies.opened; len(o) != 1 || o["web"].was != (policy.Subject{Ingress: 77, Egress: 78}) {
		t.Errorf("%+v", o)
	}
}
