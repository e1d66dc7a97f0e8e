package cases_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
