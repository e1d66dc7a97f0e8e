package lab_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
)

// forbidden is a port that no policy of isolatedWorld's allows.
const forbidden = 999

// isolate writes policies under which the world's paths stay open and nothing else: pods one, two, native and tunnelled
// are isolated both ways, and ports below 1024 closed.
func (w *world) isolate(t *testing.T) {
	t.Helper()
	block := func(n *lab.Node) (peers string) {
		for _, a := range n.Cluster().Addresses {
			peers += fmt.Sprintf("    - ipBlock: {cidr: %s}\n", netip.PrefixFrom(a, a.BitLen()))
		}
		return peers
	}
	const ports = "    ports:\n    - {protocol: TCP, port: 1024, endPort: 65535}\n    - {protocol: UDP, port: 1024, endPort: 65535}\n"
	apply(t, w.Cluster, "policies", strings.Join([]string{
		`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: isolated, namespace: default}
spec:
  podSelector:
    matchExpressions: [{key: app, operator: In, values: [one, two, native, tunnelled]}]
  policyTypes: [Ingress, Egress]
`,
		`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: one-speaks, namespace: default}
spec:
  podSelector: {matchLabels: {app: one}}
  policyTypes: [Egress]
  egress:
  - to:
    - podSelector:
        matchExpressions: [{key: app, operator: In, values: [two, native, tunnelled]}]
` + block(w.far) + block(w.neighbour) + ports,
		`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: others-listen, namespace: default}
spec:
  podSelector:
    matchExpressions: [{key: app, operator: In, values: [two, native, tunnelled]}]
  policyTypes: [Ingress]
  ingress:
  - from:
    - podSelector: {matchLabels: {app: one}}
` + block(w.near) + ports,
	}, "---\n"))
}

// knocks are packets that the policies of isolate deny, one way or the other.
func (w *world) knocks(stranger *lab.Pod) []denied {
	var all []denied
	for family, i := range families() {
		pod := func(p *lab.Pod) traffic.End { return traffic.End{Place: p.Place, Addr: p.Addresses[i]} }
		for _, to := range []*lab.Pod{w.two, w.native, w.tunnelled} {
			all = append(all,
				denied{"a wrong port of " + to.Name + " " + family, pod(w.one), pod(to), forbidden},
				denied{"a stranger to " + to.Name + " " + family, pod(stranger), pod(to), forbidden + 1025},
				denied{"an isolated pod to a stranger " + family, pod(to), pod(stranger), forbidden + 1025})
		}
		node := traffic.End{Place: w.near.Place, Addr: w.near.Cluster().Addresses[i]}
		all = append(all, denied{"a node to another's pod " + family, node, pod(w.tunnelled), forbidden})
	}
	return all
}

// TestKillingAndUpgradingAgentsLetsThroughWhatPoliciesAllowAndNothingElse is the test of restarts with isolated pods.
func TestKillingAndUpgradingAgentsLetsThroughWhatPoliciesAllowAndNothingElse(t *testing.T) {
	w := newWorld(t)
	others := otherAgents(t)
	seed := restartSeedOf(t)
	stranger := create(t, w.Cluster, lab.PodOptions{Name: "stranger", Node: w.near.Name})
	w.isolate(t)
	w.shut(t, stranger)

	run, err := traffic.Start(w.paths(), traffic.Control(t), restartLoad(len(w.paths())))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { run.Stop() })
	knocking := startKnocking(t, w.knocks(stranger))
	churn := w.churn(t)
	broken := w.disturb(seed, append(others, build{program: w.Bin() + "/polder-agent"}))
	churn.stop()
	for _, through := range knocking.end() {
		t.Error(through)
	}
	report, err := run.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d kills, %d upgrades; %d pods came and went meanwhile; %d knocks at closed doors\n%s",
		*restartKills, *restartUpgrades, churn.pods.Load(), knocking.sent.Load(), report)
	judge(t, report)
	if broken != nil {
		t.Fatal(broken)
	}
	if knocking.sent.Load() == 0 {
		t.Error("nobody knocked")
	}
}

// shut waits until the policies are in force on all nodes: until none of the doors can be reached any more.
func (w *world) shut(t *testing.T, stranger *lab.Pod) {
	t.Helper()
	eventually(t, time.Minute, "the policies are in force", func() error { return knockOnce(t, w.knocks(stranger)) })
}
