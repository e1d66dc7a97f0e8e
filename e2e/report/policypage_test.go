package report

import (
	"slices"
	"strings"
	"testing"
)

const goTest = `=== RUN   TestConformance
    conformance_test.go:62: Running
=== RUN   TestConformance/CNPAdminTierEgressTCP
    suite.go:200: Applying base
=== RUN   TestConformance/CNPAdminTierEgressTCP/Should_support_'allow'
=== RUN   TestConformance/CNPAdminTierEgressTCP/Should_support_'deny'
    helper.go:71: FAILED Command was [/agnhost connect]
    helper.go:71: Expected connection to fail from a to 10.244.0.4, but instead it successfully connected.
    helper.go:72: Condition never satisfied
=== RUN   TestConformance/CNPAdminTierIngressTCP
=== RUN   TestConformance/CNPAdminTierIngressTCP/Should_be_skipped
=== NAME  TestConformance
    apply.go:158: Deleting a Namespace
--- FAIL: TestConformance (12.34s)
    --- FAIL: TestConformance/CNPAdminTierEgressTCP (12.00s)
        --- PASS: TestConformance/CNPAdminTierEgressTCP/Should_support_'allow' (0.10s)
        --- FAIL: TestConformance/CNPAdminTierEgressTCP/Should_support_'deny' (10.00s)
    --- PASS: TestConformance/CNPAdminTierIngressTCP (12.00s)
        --- SKIP: TestConformance/CNPAdminTierIngressTCP/Should_be_skipped (0.10s)
FAIL
`

func TestOutcomesAreThoseOfTheInnermostTests(t *testing.T) {
	want := []Outcome{
		{Name: "CNPAdminTierEgressTCP/Should_support_'allow'", State: "pass"},
		{Name: "CNPAdminTierEgressTCP/Should_support_'deny'", State: "fail", Message: "expected connection to fail from a to 10.244.0.4, but instead it successfully connected."},
		{Name: "CNPAdminTierIngressTCP/Should_be_skipped", State: "skip"},
	}
	if got := ParseGoTest(goTest, "TestConformance/"); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestThePolicyPageHasEveryTestThatRan(t *testing.T) {
	runs := []Run{
		{Suite: "cnp", Plan: plan("dual"), Outcomes: ParseGoTest(goTest, "TestConformance/")},
		{Plan: plan("dual"), Outcomes: []Outcome{{Name: "[sig-network] DNS", State: "pass"}}},
	}
	page := PolicyPage(Merge(runs, "cnp", "polder"), "v0.2.0", "v1.37.2")
	for _, want := range []string{
		"| 2 nodes, dual | 2 run: 1 passed, 1 failed |",
		"- CNPAdminTierEgressTCP: Should support 'deny' (2 nodes, dual): expected connection to fail from a to 10.244.0.4",
		"| CNPAdminTierEgressTCP: Should support 'allow' | pass |",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("missing: %s\n%s", want, page)
		}
	}
	if strings.Contains(page, "DNS") {
		t.Error("another suite's tests are on the page")
	}
}

func TestPoliciesAreTriedWhereSomebodyEnforcesThem(t *testing.T) {
	const test = "[sig-network] Netpol NetworkPolicy between server and client should support allow-all policy [Feature:NetworkPolicy]"
	p := plan("dual")
	if reason := Reason(test, p); reason != "" {
		t.Errorf("reason is %q", reason)
	}
	for _, p.Policies = range []string{"off", ""} {
		if reason := Reason(test, p); reason != "nobody enforces policies in this configuration" {
			t.Errorf("policies %q: reason is %q", p.Policies, reason)
		}
	}
}
