package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/polder-net/polder/e2e/report"
	"github.com/polder-net/polder/e2e/rig"
)

func TestTheEnvironmentDecidesTheCluster(t *testing.T) {
	for name, value := range map[string]string{"NODES": "3", "FAMILY": "ipv6", "PROXY": "none", "NETWORK": "", "POLICIES": "off", "KEEP": "1", "XDG_CACHE_HOME": "/cache"} {
		t.Setenv(name, value)
	}
	c, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	if want := (rig.Plan{Nodes: 3, Family: "ipv6", Proxy: "none", Network: "polder", Sockets: "on", Policies: "off"}); c.plan != want {
		t.Errorf("%+v, want %+v", c.plan, want)
	}
	if !c.keep || c.state() != "/cache/polder-e2e/run" {
		t.Errorf("keep %v, state in %s", c.keep, c.state())
	}
	t.Setenv("NODES", "two")
	if _, err := readConfig(); err == nil {
		t.Error("NODES=two is accepted")
	}
}

func TestTheDefaultSelectionHasAllConformanceTests(t *testing.T) {
	for family, want := range map[string]struct{ all, smoke int }{"dual": {57, 8}, "ipv4": {48, 8}, "ipv6": {48, 8}} {
		skip := regexp.MustCompile(report.SkipPattern(rig.Plan{Nodes: 2, Family: family, Proxy: "kube-proxy"}))
		if all, smoke := selected(defaultFocus, skip), selected(smokeFocus, skip); all != want.all || smoke != want.smoke {
			t.Errorf("%s: %d and %d tests, want %v", family, all, smoke, want)
		}
	}
}

func selected(focus string, skip *regexp.Regexp) int {
	pattern, n := regexp.MustCompile(focus), 0
	for _, test := range report.Tests() {
		if pattern.MatchString(test) && !skip.MatchString(test) {
			n++
		}
	}
	return n
}

func TestAnArchiveIsBuiltAgainWhenAProgramInItIsNewer(t *testing.T) {
	folder := t.TempDir()
	program, archive := filepath.Join(folder, "program"), filepath.Join(folder, "archive")
	write := func(file string, at time.Time) {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, want bool) {
		if got, err := newer(archive, program); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", when, got, err, want)
		}
	}
	now := time.Now()
	write(program, now)
	check("without an archive", false)
	write(archive, now.Add(-time.Hour))
	check("with an older archive", false)
	write(archive, now.Add(time.Hour))
	check("with a newer archive", true)
}

func TestPoliciesAreOnWherePolderIs(t *testing.T) {
	for _, c := range []struct{ network, proxy, policies, want string }{
		{"", "", "", "on"}, {"polder", "none", "off", "off"}, {"ptp", "", "", "off"}, {"ptp", "", "on", "on"}, {"ptp", "none", "", "on"},
	} {
		t.Setenv("NETWORK", c.network)
		t.Setenv("PROXY", c.proxy)
		t.Setenv("POLICIES", c.policies)
		got, err := readConfig()
		if err != nil || got.plan.Policies != c.want {
			t.Errorf("%+v: %q, %v", c, got.plan.Policies, err)
		}
	}
}

func TestTheSuiteDecidesWhatRuns(t *testing.T) {
	t.Setenv("SUITE", "cnp")
	if c, err := readConfig(); err != nil || c.suite != policySuite {
		t.Errorf("suite %q, %v", c.suite, err)
	}
	t.Setenv("SUITE", "all")
	if _, err := readConfig(); err == nil {
		t.Error("SUITE=all is accepted")
	}
	want := []string{"-test.v", "-test.timeout=2h", "-test.run=^TestConformance$/TCP$", "-test.skip=^TestConformance$/Baseline", "-all-features"}
	if got := policyArguments("TCP$", "Baseline"); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
