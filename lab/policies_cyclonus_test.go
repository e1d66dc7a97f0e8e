package lab_test

import (
	"encoding/json"
	"flag"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/polder-net/polder/internal/oracle/cases"
	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

var (
	policiesFull = flag.Bool("policies.full", false, "try all of cyclonus' cases, not one of twenty")
	policiesCase = flag.String("policies.case", "", "try those of cyclonus' cases whose names match this `expression`")
)

// TestTheNetworkDoesWhatCyclonusAsks makes a real cluster of each of cyclonus' cases: nine pods on three nodes, and more in
// some. Every connection between them, to two ports by TCP and UDP, by both families, comes about or not as the oracle says.
func TestTheNetworkDoesWhatCyclonusAsks(t *testing.T) {
	all, err := cases.Cyclonus()
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := regexp.Compile(*policiesCase)
	if err != nil {
		t.Fatal(err)
	}
	knowsPolicies(t)
	r := newPoliciesRig(t, labtest.Up(t, &programs, lab.Options{}))
	began, tried, states := time.Now(), 0, 0
	for i, one := range all {
		if !chosen.MatchString(one.Name) || *policiesCase == "" && !*policiesFull && i%20 != 0 && len(one.States) == 1 {
			continue
		}
		t.Run(one.Name, func(t *testing.T) {
			r.t = t
			for _, state := range one.States {
				policies := blocksOfTheLab(t, state.NetworkPolicies)
				state.NetworkPolicies = policies
				r.become(state)
				tried += r.check(policies)
				states++
			}
		})
	}
	t.Logf("%d states, %d connections in %s", states, tried, time.Since(began).Round(time.Second))
}

// knowsPolicies skips the test where the agent has no policies yet.
func knowsPolicies(t *testing.T) {
	t.Helper()
	usage, _ := exec.Command(filepath.Join(programs.Folder(t), "polder-agent"), "--help").CombinedOutput()
	if !strings.Contains(string(usage), "-policies ") {
		t.Skip("this agent enforces no policies")
	}
}

// blocksOfTheLab returns the policies with the addresses of cyclonus' namespace z replaced by those of the third node.
func blocksOfTheLab(t *testing.T, policies []*networkingv1.NetworkPolicy) (here []*networkingv1.NetworkPolicy) {
	t.Helper()
	text, err := json.Marshal(policies)
	if err == nil {
		err = json.Unmarshal([]byte(strings.ReplaceAll(string(text), `"10.0.3.`, `"10.244.3.`)), &here)
	}
	if err != nil {
		t.Fatal(err)
	}
	return here
}
