package report

import (
	"regexp"
	"strings"

	"github.com/polder-net/polder/e2e/rig"
)

// Rule says why tests are not run. The reasons are written for readers who do not know this rig.
type Rule struct {
	Pattern string // over a test's full name
	Reason  string
	When    func(rig.Plan) bool // nil means always
}

// Rules is the table of tests that cannot pass here or are no business of a pod network. The first that matches counts.
func Rules() []Rule {
	return []Rule{
		{Pattern: `SCTPConnectivity|creating a Pod with an SCTP HostPort|basic SCTP service`, Reason: "SCTP is not in this kernel"},
		{Pattern: `Feature:LoadBalancer\]|on Type LoadBalancer`, Reason: "needs a cloud load balancer"},
		{Pattern: `Feature:Networking-IPv4|Feature:Networking-IPv6|Feature:Networking-DNS`, Reason: "needs the internet"},
		{Pattern: `Provider:`, Reason: "needs a cloud provider or SSH to the nodes"},
		{Pattern: `Feature:NetworkPolicy\]`, Reason: "nobody enforces policies in this configuration", When: withoutPolicies},
		{Pattern: `LocalhostNodePorts`, Reason: "needs a feature gate of kube-proxy that is off by default"},
		{Pattern: `KubeProxyNFAcct`, Reason: "reads counters of kube-proxy's iptables mode"},
		{Pattern: `CLOSE_WAIT timeout`, Reason: "reads a connection timeout that only the host's own network namespace may set"},
		{Pattern: `after restarting kube-proxy|after restarting apiserver`, Reason: "restarts a component that runs as a pod; here they are processes"},
		{Pattern: `rejected for evicted pods`, Reason: "needs local storage isolation, which this rig's kubelets leave off"},
		{Pattern: `run iperf2`, Reason: "reads an output format of iperf that Debian's version does not print"},
		{Pattern: `PerformanceDNS`, Reason: "creates thousands of services; a load test"},
		{Pattern: `DNS configMap nameserver`, Reason: "changes the name server's configuration; tests CoreDNS, not the network"},
		{Pattern: `IPv6DualStack`, Reason: "needs both address families", When: singleFamily},
	}
}

// withoutPolicies holds for a run from before there were any, too.
func withoutPolicies(plan rig.Plan) bool { return plan.Policies != "on" }

func singleFamily(plan rig.Plan) bool { return plan.Family != "dual" }

// SkipPattern is the expression that keeps a runner from the tests that the rules exclude.
func SkipPattern(plan rig.Plan) string {
	var patterns []string
	for _, rule := range Rules() {
		if rule.When == nil || rule.When(plan) {
			patterns = append(patterns, rule.Pattern)
		}
	}
	return strings.Join(patterns, "|")
}

// Reason says why a test is not run on a cluster, or nothing.
func Reason(test string, plan rig.Plan) string {
	for _, rule := range Rules() {
		if (rule.When == nil || rule.When(plan)) && regexp.MustCompile(rule.Pattern).MatchString(test) {
			return rule.Reason
		}
	}
	return ""
}
