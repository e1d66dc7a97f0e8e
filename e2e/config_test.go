package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/polder-net/polder/e2e/report"
	"github.com/polder-net/polder/e2e/rig"
)

func TestTheEnvironmentDecidesTheCluster(t *testing.T) {
	for name, value := range map[string]string{"NODES": "3", "FAMILY": "ipv6", "PROXY": "none", "NETWORK": "", "KEEP": "1", "XDG_CACHE_HOME": "/cache"} {
		t.Setenv(name, value)
	}
	c, err := readConfig()
	if err != nil {
		t.Fatal(err)
	}
	if want := (rig.Plan{Nodes: 3, Family: "ipv6", Proxy: "none", Network: "polder", Sockets: "on"}); c.plan != want {
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
