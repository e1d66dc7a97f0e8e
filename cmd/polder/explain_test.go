package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// transcript is a file of commands with what they print and their exit status. With UPDATE_TRANSCRIPTS set it is
// written anew, for people to read before they commit it.
func transcript(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for line := range strings.Lines(string(data)) {
		args, ok := strings.CutPrefix(line, "$ polder ")
		if !ok {
			continue
		}
		s := runPolder(nil, strings.Fields(args)...)
		fmt.Fprintf(&got, "$ polder %s%s%s[%d]\n\n", args, s.stderr, s.stdout, s.status)
		for printed := range strings.Lines(s.stdout) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(printed, "\n")); n > width {
				t.Errorf("%s: a line of %d characters: %s", strings.TrimSpace(args), n, printed)
			}
		}
	}
	if os.Getenv("UPDATE_TRANSCRIPTS") != "" {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got.String() != string(data) {
		t.Errorf("%s is not what the commands print now:\n%s", file, &got)
	}
}

func TestExplanationsAreAsPeopleReadThem(t *testing.T) {
	for _, name := range []string{"pods", "services", "places", "pairs", "wrong"} {
		t.Run(name, func(t *testing.T) { transcript(t, filepath.Join("testdata", "explain-"+name+".txt")) })
	}
}

func TestProgramsReadTheWholeExplanation(t *testing.T) {
	s := runPolder(nil, "explain", "shop/web", "db/postgres:pg", "--manifests", "testdata/shop", "-o", "json")
	if s.status != statusFailed || s.stderr != "" {
		t.Fatalf("status %d, %q", s.status, s.stderr)
	}
	var a explainedAnswer
	decoder := json.NewDecoder(strings.NewReader(s.stdout))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&a); err != nil {
		t.Fatal(err)
	}
	if a.Allowed || a.Port != 5432 || a.Service == nil || len(a.Service.Backends) != 2 || len(a.Ways) != 2 || a.Problems == nil || len(a.Problems) > 0 {
		t.Fatalf("the answer is %+v", a)
	}
	in := a.Ways[0].Ingress
	if !a.Ways[0].Allowed || in.Rule != 2 || in.Decided[0] != "NetworkPolicy/db/primary" || in.Policies[2].Where != "policies.yaml:5" {
		t.Errorf("the first way is %+v", a.Ways[0])
	}
	if p := in.Policies[0].Priority; p == nil || *p != 10 || in.Policies[1].Priority != nil {
		t.Errorf("the policies are %+v", in.Policies)
	}
	if a.Ways[1].Allowed || a.Ways[1].Ingress.Reason != "isolated" || a.Ways[1].Ingress.Rule != 0 {
		t.Errorf("the second way is %+v", a.Ways[1])
	}
}

func TestProgramsReadAllPairs(t *testing.T) {
	for _, args := range []string{"--all --manifests testdata/shop", "--diff testdata/shop testdata/shop-next", "--diff testdata/shop testdata/shop"} {
		s := runPolder(nil, strings.Fields("explain -o json "+args)...)
		var all explainedPairs
		if err := json.Unmarshal([]byte(s.stdout), &all); err != nil || all.Pairs == nil || all.Problems == nil {
			t.Errorf("%s: %v: %s%s", args, err, s.stdout, s.stderr)
		}
	}
}
