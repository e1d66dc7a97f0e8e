package agent

import (
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/route"
)

// policies is the loop's half of policies. Its order is the datapath's: rules and classes first, then the endpoints that
// name them, then the word that all of them do.
type policies struct {
	table    *policy.Table // nil: no packet is judged
	told     told          // what table has been told
	subjects map[cluster.Name]policy.Subject

	read    time.Time        // when the maps were last read back
	retired time.Time        // when retirePolicies last did something
	again   <-chan time.Time // for it to do more; nil: nothing waits
	failed  string           // what could not be written; empty: nothing
	swapped bool             // every endpoint has the rulesets that it should have, and the datapath knows

	shut    map[string]string        // why a direction of a pod is closed, by link
	waiting map[string][]chan<- bool // for a pod's policies, by link
	opened  map[string]opened        // lately, by link

	metrics *policyMetrics
	drops   drops
}

// The maps of policies are read back as a whole every minute, unless there is too much of them to do it while pods wait.
// What nobody wants any more goes at most so often.
const (
	rereadPolicies = time.Minute
	retireEvery    = time.Second
	rereadPlaces   = 20_000
)

func (a *Agent) openPolicies() {
	p := &a.policies
	p.shut, p.waiting, p.subjects = map[string]string{}, map[string][]chan<- bool{}, map[cluster.Name]policy.Subject{}
	p.opened = map[string]opened{}
	if !a.cfg.Options.Policies {
		return
	}
	p.table = policy.NewTable(a.cfg.Node)
	p.metrics = newPolicyMetrics()
}

// syncPolicies brings the datapath's rules and classes to what the snapshot says, before any endpoint names them. What
// could not be written is no fault of the node's: the pods that need it are closed.
func (a *Agent) syncPolicies() (repaired []change) {
	p := &a.policies
	if p.table == nil {
		return nil
	}
	begun := time.Now()
	a.tellPolicies()
	repaired, wrote, err := a.writePolicies(begun)
	p.swapped = p.swapped && !wrote
	if wrote {
		p.metrics.observe(time.Since(begun))
	}
	a.notePolicyFault(err)
	return repaired
}

// writePolicies says what it had to repair, and whether there was anything to do.
func (a *Agent) writePolicies(now time.Time) (repaired []change, wrote bool, err error) {
	p := &a.policies
	changed := p.table.Changes()
	for name, s := range changed.Subjects {
		if s == nil {
			delete(p.subjects, name)
		} else {
			p.subjects[name] = *s
		}
	}
	p.drops.noteRulesets(changed.Rulesets)
	nothing := len(changed.Subjects)+len(changed.Addresses)+len(changed.Prefixes)+len(changed.Rulesets) == 0
	switch {
	case !a.datapath.PoliciesKnown() || now.Sub(p.read) >= rereadPolicies && a.datapath.PolicySizes().Places <= rereadPlaces:
		first := p.read.IsZero()
		p.read = now
		var found []datapath.Change
		found, err = a.datapath.ResyncPolicies(p.table.All())
		if !first && nothing && p.failed == "" {
			for _, c := range found {
				repaired = append(repaired, change{c.Table, c.Row, c.Verb})
			}
		}
		return repaired, true, err
	case !nothing:
		return nil, true, a.datapath.SyncPolicies(changed)
	}
	return nil, false, nil
}

// verifyPolicies looks for rows that somebody else's hands took away, and puts them back.
func (a *Agent) verifyPolicies() (repaired []change) {
	if a.policies.table == nil {
		return nil
	}
	found, err := a.datapath.VerifyPolicies(verifyRows)
	if err != nil {
		a.log.Error("rows of policies cannot be verified", "err", err)
	}
	for _, c := range found {
		repaired = append(repaired, change{c.Table, c.Row, c.Verb})
	}
	return repaired
}

func (a *Agent) notePolicyFault(err error) {
	failed := ""
	if err != nil {
		failed = err.Error()
	}
	if failed != "" && failed != a.policies.failed {
		a.log.Error("policies are not all in force: pods that need what is missing are closed", "err", err)
	}
	a.policies.failed = failed
}

// swapPolicies says that all endpoints are written.
func (a *Agent) swapPolicies() error {
	p, now := &a.policies, time.Now()
	if p.table == nil {
		return a.clearPolicies(now)
	}
	if !p.swapped {
		if err := a.datapath.SwappedPolicies(now); err != nil {
			return err
		}
		p.swapped = true
	}
	return a.retirePolicies(now)
}

// retirePolicies lets pass what had to wait until all endpoints were written, and takes away what nobody has wanted for a
// while. As long as something waits, the loop is to call it again.
func (a *Agent) retirePolicies(now time.Time) error {
	p := &a.policies
	if now.Sub(p.retired) >= retireEvery && a.datapath.RetiredPolicies() {
		p.retired = now
		if err := a.datapath.RetirePolicies(now); err != nil {
			return err
		}
	}
	if p.again == nil && a.datapath.RetiredPolicies() {
		p.again = time.After(retireEvery)
	}
	return nil
}

// clearPolicies takes away what an earlier agent wrote, where this one judges no packets.
func (a *Agent) clearPolicies(now time.Time) error {
	if a.datapath.PoliciesKnown() {
		return a.datapath.RetirePolicies(now)
	}
	if _, err := a.datapath.ResyncPolicies(policy.Changes{}); err != nil {
		return err
	}
	return a.datapath.SwappedPolicies(now)
}

// refreshPolicies takes a change of the cluster that concerns policies alone. It returns false if there is more to it: a
// whole sync is to follow.
func (a *Agent) refreshPolicies() bool {
	p := &a.policies
	if p.table == nil {
		return true
	}
	if !a.datapath.PoliciesKnown() {
		return false
	}
	a.syncPolicies()
	return a.swapPods() == nil && p.failed == ""
}

// swapPods gives the local pods the rulesets that they should have.
func (a *Agent) swapPods() error {
	var errs []error
	for link, had := range maps.Clone(a.pods) {
		p := a.judge(had)
		if p.Ingress == had.Ingress && p.Egress == had.Egress && p.Late == had.Late {
			continue
		}
		rows := route.CompilePod(a.self, p)
		if !p.Up && !p.Behind {
			a.pods[link] = p
			continue
		}
		if err := a.putEndpoints(rows); err != nil {
			errs = append(errs, err)
			continue
		}
		a.remember(p, rows)
		a.policies.swapped = false
	}
	if len(errs) == 0 {
		errs = append(errs, a.swapPolicies())
	}
	a.showPolicies()
	return errors.Join(errs...)
}

// showPolicies tells who waits, reads metrics or names packets what is in force now.
func (a *Agent) showPolicies() {
	p := &a.policies
	if p.table == nil {
		return
	}
	maps.DeleteFunc(p.shut, func(link, _ string) bool { _, stays := a.pods[link]; return !stays })
	a.wake()
	a.showPods()
	p.metrics.set(a.datapath.PolicySizes(), len(p.subjects), len(p.shut))
}

func (a *Agent) putEndpoints(rows route.PodRows) error {
	for addr, e := range rows.Endpoints {
		if err := a.datapath.PutEndpoint(addr, e); err != nil {
			return err
		}
	}
	return nil
}

// endpointsChanged makes what was judged a moment ago worthless, where a pod has come or gone.
func (a *Agent) endpointsChanged() error {
	if a.policies.table == nil {
		return nil
	}
	return a.datapath.BumpEpoch()
}

func (a *Agent) policyProblems() (problems []cluster.Problem) {
	p := &a.policies
	if p.table == nil {
		return nil
	}
	problems = append(problems, p.table.Problems()...)
	if p.failed != "" {
		problems = append(problems, cluster.Problem{Object: "Node/" + a.cfg.Node, Message: "not all policies could be written: " + p.failed})
	}
	for link, why := range p.shut {
		if pod, ok := a.pods[link]; ok && why == unfit {
			problems = append(problems, cluster.Problem{Object: fmt.Sprintf("Pod/%s/%s", pod.Namespace, pod.Name), Message: why})
		}
	}
	return problems
}
