package desired_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/scenario"
)

var update = flag.Bool("update", false, "write what is compiled into the scenarios")

func scenarios(t *testing.T) map[string]*scenario.Scenario {
	t.Helper()
	paths, err := filepath.Glob("../../testdata/scenarios/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	all := map[string]*scenario.Scenario{}
	for _, path := range paths {
		s, err := scenario.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = s
	}
	return all
}

func TestScenariosCompileToTheirTables(t *testing.T) {
	for path, s := range scenarios(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			got := scenario.Render(desired.Compile(s.Options, &s.Snapshot, s.Local))
			if *update {
				if err := os.WriteFile(path, s.Rewrite(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(s.Want, got); diff != "" {
				t.Errorf("tables differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheOrderOfObjectsDoesNotMatter(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for path, s := range scenarios(t) {
		want, wantProblems := desired.Compile(s.Options, &s.Snapshot, s.Local)
		for range 10 {
			r.Shuffle(len(s.Snapshot.Nodes), reflect.Swapper(s.Snapshot.Nodes))
			r.Shuffle(len(s.Local.Pods), reflect.Swapper(s.Local.Pods))
			got, problems := desired.Compile(s.Options, &s.Snapshot, s.Local)
			if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(problems, wantProblems) {
				t.Fatalf("%s: other tables after a shuffle", path)
			}
		}
	}
}
