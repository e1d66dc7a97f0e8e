package report

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/polder-net/polder/e2e/rig"
)

func plan(family string) rig.Plan {
	return rig.Plan{Nodes: 2, Family: family, Proxy: "kube-proxy", Network: "polder", Policies: "on"}
}

const ginkgo = `[{"SpecReports": [
	{"LeafNodeType": "BeforeSuite", "State": "passed"},
	{"ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeType": "It", "LeafNodeText": "work", "State": "passed"},
	{"ContainerHierarchyTexts": ["[sig-network] DNS", "deep"], "LeafNodeType": "It", "LeafNodeText": "fail", "State": "failed", "Failure": {"Message": "no answer\nin 5 s"}},
	{"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It", "LeafNodeText": "filtered", "State": "skipped"},
	{"ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeType": "It", "LeafNodeText": "stopped", "State": "interrupted"},
	{"ContainerHierarchyTexts": ["[sig-network] Topology"], "LeafNodeType": "It", "LeafNodeText": "skip", "State": "skipped", "Failure": {"Message": "needs zones"}}
]}]`

func TestOutcomesLeaveOutWhatDidNotRun(t *testing.T) {
	got, err := ParseGinkgo([]byte(ginkgo))
	if err != nil {
		t.Fatal(err)
	}
	want := []Outcome{
		{"[sig-network] Services work", "pass", ""},
		{"[sig-network] DNS deep fail", "fail", "no answer"},
		{"[sig-network] Topology skip", "skip", "needs zones"},
	}
	if len(got) != len(want) {
		t.Fatalf("%v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%v, want %v", got[i], want[i])
		}
	}
}

func TestALaterRunReplacesOnlyTheTestsThatItRan(t *testing.T) {
	folder := t.TempDir()
	save := func(stamp, family string, outcomes ...Outcome) {
		if err := Save(folder, stamp, Run{Plan: plan(family), Outcomes: outcomes}); err != nil {
			t.Fatal(err)
		}
	}
	save("2", "dual", Outcome{Name: "a", State: "pass"})
	save("1", "dual", Outcome{Name: "a", State: "fail"}, Outcome{Name: "b", State: "fail"})
	save("3", "ipv4", Outcome{Name: "a", State: "fail"})
	runs, err := Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	columns := Merge(runs, "kubernetes", "polder")
	if len(columns) != 2 || columns[0].Outcomes["a"].State != "pass" || columns[0].Outcomes["b"].State != "fail" || columns[1].Outcomes["a"].State != "fail" {
		t.Errorf("%v", columns)
	}
	if len(Merge(runs, "kubernetes", "ptp")) != 0 {
		t.Error("runs of another network are mixed in")
	}
}

func TestABrokenRunIsNamed(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "7.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(folder); err == nil || !strings.Contains(err.Error(), "7.json") {
		t.Errorf("error is %v", err)
	}
}

func TestEveryRuleMatchesATestOfTheList(t *testing.T) {
	for _, rule := range Rules() {
		pattern, found := regexp.MustCompile(rule.Pattern), false
		for _, test := range Tests() {
			found = found || pattern.MatchString(test)
		}
		if !found {
			t.Errorf("rule %q (%s) matches nothing", rule.Pattern, rule.Reason)
		}
	}
}

func TestConformanceTestsAreNeverSkipped(t *testing.T) {
	for _, family := range []string{"dual", "ipv4", "ipv6"} {
		skip := regexp.MustCompile(SkipPattern(plan(family)))
		for _, test := range Tests() {
			if strings.Contains(test, "[Conformance]") && skip.MatchString(test) {
				t.Errorf("%s: %s is skipped: %s", family, test, Reason(test, plan(family)))
			}
		}
	}
}

func TestDualStackTestsAreSkippedInOneFamilyOnly(t *testing.T) {
	const test = "[sig-network] [Feature:IPv6DualStack] should be able to reach pod on ipv4 and ipv6 ip"
	if reason := Reason(test, plan("ipv6")); reason != "needs both address families" {
		t.Errorf("reason is %q", reason)
	}
	if reason := Reason(test, plan("dual")); reason != "" {
		t.Errorf("reason is %q", reason)
	}
}

func TestThePageNamesEveryTestAndIsTheSameTwice(t *testing.T) {
	if n := len(Tests()); n != 249 {
		t.Fatalf("the list has %d tests, want 249", n)
	}
	const passed, failed = "[sig-network] NoSNAT Should be able to send traffic between Pods without SNAT", "[sig-network] DNS should provide DNS for services [Conformance]"
	columns := Merge([]Run{{Plan: plan("dual"), Outcomes: []Outcome{{Name: passed, State: "pass"}, {Name: failed, State: "fail", Message: "x"}}}}, "kubernetes", "polder")
	page := Page(columns, "v1.37.2")
	if page != Page(columns, "v1.37.2") {
		t.Error("the page differs")
	}
	for _, test := range Tests() {
		if !strings.Contains(page, "\n| "+short(test)+" |") {
			t.Errorf("%s is missing", test)
		}
	}
	for _, want := range []string{
		"| 2 nodes, dual | 1 run: 0 passed, 1 failed | 2 run: 1 passed, 1 failed | 247 |",
		"- DNS should provide DNS for services [Conformance] (2 nodes, dual)",
		"| NoSNAT Should be able to send traffic between Pods without SNAT | pass |  |",
		"| skip | SCTP is not in this kernel |",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("missing: %s", want)
		}
	}
}
