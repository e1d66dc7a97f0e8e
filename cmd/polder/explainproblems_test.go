package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// shopWith is a copy of testdata/shop with one more file.
func shopWith(t *testing.T, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/shop")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "more.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAFileThatDoesNotParseIsNoVerdict(t *testing.T) {
	dir := shopWith(t, "apiVersion: [")
	want := "polder: explain: read manifests: " + filepath.Join(dir, "more.yaml") + ": document at line 1: "
	for _, args := range []string{"shop/web shop/probe:80 --manifests " + dir, "--all --manifests " + dir, "--diff testdata/shop " + dir, "--diff " + dir + " testdata/shop", "--cases " + filepath.Dir(dir)} {
		s := runPolder(nil, strings.Fields("explain "+args)...)
		if s.status != statusUsage || s.stdout != "" || !strings.HasPrefix(s.stderr, want) || strings.Count(s.stderr, "\n") != 1 {
			t.Errorf("%s: status %d, %s%s", args, s.status, s.stdout, s.stderr)
		}
	}
}

// troubles are a policy of pods of db and one of pods of shop that are read in part, one of another software, a pod that
// is left out, and a policy in a namespace that is not there.
const troubles = `
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: in-db, namespace: db}, spec: {podSelector: {}, ingress: [{from: [{}]}]}}
---
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: in-shop}, spec: {tier: Baseline, priority: 1,
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}, egress: [{action: Accept, to: [{domainNames: [example.org]}]}]}}
---
{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: foreign, namespace: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {name: bad, namespace: shop}, spec: 5}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: lost, namespace: shpo}, spec: {podSelector: {}}}
`

func TestProblemsAreThoseThatMayMatter(t *testing.T) {
	dir := shopWith(t, troubles)
	always := []string{"CiliumNetworkPolicy/shop/foreign", "Namespace/shpo", "Pod/shop/bad"}
	inShop, inDB := append(slices.Clone(always), "ClusterNetworkPolicy/in-shop"), append(slices.Clone(always), "NetworkPolicy/db/in-db")
	all := append(slices.Clone(inShop), "NetworkPolicy/db/in-db")
	for _, tc := range []struct {
		args string
		want []string
	}{
		{"shop/web shop/probe:80", inShop}, {"db/postgres-1 db/postgres-0:pg", inDB}, {"shop/probe db/postgres-0:pg", all},
		{"shop/probe svc/db/postgres", all}, {"203.0.113.1 db/postgres-0:pg", inDB}, {"node/node-1 203.0.113.1:1", always}, {"--all", all},
	} {
		args := append(strings.Fields("explain "+tc.args), "--manifests", dir)
		var got struct{ Problems []explainedProblem }
		s := runPolder(nil, append(args, "-o", "json")...)
		if err := json.Unmarshal([]byte(s.stdout), &got); err != nil || s.stderr != "" {
			t.Fatalf("%s: %v, %s", tc.args, err, s.stderr)
		}
		var objects []string
		for _, p := range got.Problems {
			objects = append(objects, p.Object)
		}
		if !slices.Equal(objects, slices.Sorted(slices.Values(tc.want))) {
			t.Errorf("%s: problems are of %q, want %q", tc.args, objects, tc.want)
		}
		s = runPolder(nil, args...)
		for line := range strings.Lines(s.stderr) {
			if len([]rune(strings.TrimSpace(line))) > width {
				t.Errorf("%s: a line of %d characters: %s", tc.args, len(line), line)
			}
		}
		if n := strings.Count(s.stderr, "polder: left out or read in part: "); n != len(tc.want) {
			t.Errorf("%s: %d warnings, want %d: %s", tc.args, n, len(tc.want), s.stderr)
		}
	}
}

func TestProblemsOfTwoFoldersAreSaidOnce(t *testing.T) {
	one, two := shopWith(t, troubles), shopWith(t, strings.Replace(troubles, "foreign", "other", 1))
	s := runPolder(nil, "explain", "--diff", one, two, "-o", "json")
	var got explainedPairs
	if err := json.Unmarshal([]byte(s.stdout), &got); err != nil || s.status != 0 || len(got.Problems) != 6 {
		t.Fatalf("status %d, %v: %s%s", s.status, err, s.stdout, s.stderr)
	}
	for _, p := range got.Problems {
		want := map[string]string{"CiliumNetworkPolicy/shop/foreign": one, "CiliumNetworkPolicy/shop/other": two}[p.Object]
		if p.Folder != want {
			t.Errorf("%s: folder %q, want %q", p.Object, p.Folder, want)
		}
	}
	if s := runPolder(nil, "explain", "--diff", one, two); strings.Count(s.stderr, "polder: left out or read in part:") != 6 {
		t.Error(s.stderr)
	}
}

func TestFoldersWithoutPodsAreAnError(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"--all --manifests " + empty, "--cases " + dir, "--cases " + dir + " -o json"} {
		s := runPolder(nil, strings.Fields("explain "+args)...)
		if s.status != statusUsage || s.stdout != "" || !strings.HasSuffix(s.stderr, errNoPods.Error()+"\n") || strings.Count(s.stderr, "\n") != 1 {
			t.Errorf("%s: status %d, %s%s", args, s.status, s.stdout, s.stderr)
		}
	}
}

func TestAPodThatIsLeftOutIsSaidWhereItIsMissed(t *testing.T) {
	s := runPolder(nil, "explain", "shop/bad", "shop/web:1", "--manifests", shopWith(t, troubles))
	if s.status != statusUsage || !strings.Contains(s.stderr, "read in part: Pod/shop/bad: ") || !strings.HasSuffix(s.stderr, "there is no pod shop/bad\n") {
		t.Errorf("status %d, %s", s.status, s.stderr)
	}
}
