package cases_test

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/oracle/cases"
)

var update = flag.Bool("update", false, "write what the oracle says into the scenarios")

const corpus = "../../../testdata/policies"

func scenarios(t *testing.T) (all []*cases.Scenario) {
	t.Helper()
	files, err := cases.Files(corpus)
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios: ", err)
	}
	for _, file := range files {
		s, err := cases.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func TestTheOracleAnswersEveryScenario(t *testing.T) {
	connections := 0
	for _, s := range scenarios(t) {
		answer := func(p oracle.Packet) string { return s.Objects.Judge(p).String() }
		if *update {
			if err := os.WriteFile(s.Path, s.Rewrite(answer), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range s.Connections {
			connections++
			if got := answer(c.Packet); got != c.Want && !*update {
				t.Errorf("%s: %s\ngot  %s\nwant %s", filepath.Base(s.Path), c.Text, got, c.Want)
			}
		}
		if len(s.Connections) == 0 {
			t.Errorf("%s: has no connections", s.Path)
		}
	}
	t.Logf("%d scenarios, %d connections", len(scenarios(t)), connections)
}

// What docs/decisions.md decides is shown by something that is there.
func TestDecisionsNameWhatThereIs(t *testing.T) {
	data, err := os.ReadFile("../../../docs/decisions.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.FieldsFunc(string(data), func(r rune) bool { return strings.ContainsRune("` ,|()\n", r) }) {
		if strings.HasSuffix(word, ".txtar") && word != ".txtar" {
			if _, err := os.Stat(filepath.Join(corpus, word)); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestTheOracleDoesNotMindTheOrderOfObjects(t *testing.T) {
	first := seed(t)
	for i := range uint64(50) {
		d := cases.NewDice(first + i)
		o := d.Cluster()
		shuffled := &oracle.Objects{Pods: shuffle(d, o.Pods), Namespaces: shuffle(d, o.Namespaces), Nodes: shuffle(d, o.Nodes),
			NetworkPolicies: shuffle(d, o.NetworkPolicies), ClusterPolicies: shuffle(d, o.ClusterPolicies)}
		for range packetsOfOne {
			p := d.Packet(o)
			if diff := cmp.Diff(o.Judge(p), shuffled.Judge(p)); diff != "" {
				t.Fatalf("-seed=%d: %v: %s", first+i, p, diff)
			}
		}
	}
}

func shuffle[T any](d *cases.Dice, all []T) []T {
	all = slices.Clone(all)
	d.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// What is compared must not have come by its answers in the same way.
func TestTheOracleOfPoliciesKnowsNothingOfPolder(t *testing.T) {
	files, err := filepath.Glob("../policies*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no oracle: ", err)
	}
	for _, file := range files {
		if data, err := os.ReadFile(file); err != nil || strings.Contains(string(data), `"github.com/polder-net/`) {
			t.Errorf("%s imports something of ours: %v", file, err)
		}
	}
}
