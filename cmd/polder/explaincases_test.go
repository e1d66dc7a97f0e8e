package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/oracle/cases"
)

// writeCases writes cyclonus' cases, a folder each state, as many as wanted, and returns the lines of testdata/cyclonus.txt that are
// about them.
func writeCases(t *testing.T, most int) (dir string, lines []string) {
	t.Helper()
	all, err := cases.Cyclonus()
	if err != nil || len(all) != 230 {
		t.Fatal(len(all), err)
	}
	dir = t.TempDir()
	n := 0
	for _, c := range all {
		for _, o := range c.States {
			if n == most {
				break
			}
			folder := filepath.Join(dir, fmt.Sprintf("%03d", n))
			n++
			if err := os.Mkdir(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(folder, "case.json"), cases.Manifests(o), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	data, err := os.ReadFile("../../testdata/cyclonus.txt")
	if err != nil {
		t.Fatal(err)
	}
	lines = strings.Split(strings.TrimSpace(string(data)), "\n")
	return dir, lines[:n]
}

func TestCyclonusCasesAreExplainedInOneCommand(t *testing.T) {
	dir, lines := writeCases(t, 1000)
	s := runPolder(nil, "explain", "--cases", dir, "-o", "json")
	var explained []explainedCase
	if err := json.Unmarshal([]byte(s.stdout), &explained); err != nil || s.status != 0 || s.stderr != "" {
		t.Fatalf("status %d, %q: %v", s.status, s.stderr, err)
	}
	ports := []string{"80/TCP", "81/TCP", "80/UDP", "81/UDP", "80/SCTP", "81/SCTP"}
	for i, c := range explained {
		allowed, senders := map[string]int{}, map[string]bool{}
		for _, p := range c.Pairs {
			senders[p.From] = true
			if len(p.Because) == 0 {
				t.Errorf("%s: %s to %s: no reason", lines[i], p.From, p.To)
			}
			if p.Allowed {
				allowed[p.Port]++
			}
		}
		var counts [6]int
		for n, port := range ports {
			counts[n] = allowed[port] + len(senders) // a pod reaches itself, which is no pair
		}
		if got := fmt.Sprintf("%v of %d: ", counts, len(senders)*len(senders)); !strings.HasPrefix(lines[i], got) {
			t.Errorf("case %s: %q, want %s", c.Case, got, lines[i])
		}
	}
	if len(explained) != len(lines) || len(lines) < 230 {
		t.Errorf("%d states are explained, of %d", len(explained), len(lines))
	}
}

func TestExplainedCasesFitAScreen(t *testing.T) {
	dir, _ := writeCases(t, 20)
	s := runPolder(nil, "explain", "--cases", dir)
	for line := range strings.Lines(s.stdout) {
		if len(line) > width+1 {
			t.Fatalf("a line of %d characters: %s", len(line), line)
		}
	}
	if !strings.HasPrefix(s.stdout, "== 000\n\nx/a 80/SCTP\n") && !strings.HasPrefix(s.stdout, "== 000\n\nx/a 80/TCP\n") {
		t.Errorf("it begins %.100s", s.stdout)
	}
}
