package cases_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/oracle/cases"
)

const tables = "../../../testdata/cyclonus.txt"

// A line is a state of a case: how many of the connections are allowed, by protocol and port, and its name.
func TestCyclonusCasesHaveTheirTables(t *testing.T) {
	all, err := cases.Cyclonus()
	if err != nil || len(all) != 230 {
		t.Fatal(len(all), err)
	}
	var out strings.Builder
	asked := 0
	for _, c := range all {
		for i, o := range c.States {
			allowed := [6]int{}
			for n, p := range cases.Tried(o) {
				asked++
				if o.Judge(p).Allowed {
					allowed[n%6]++
				}
			}
			fmt.Fprintf(&out, "%v of %d: %s %d\n", allowed, len(o.Pods)*len(o.Pods), c.Name, i)
		}
	}
	if *update {
		if err := os.WriteFile(tables, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(tables)
	if err != nil || string(want) != out.String() {
		t.Errorf("%v; -update writes\n%s", err, out.String())
	}
	t.Logf("%d cases, %d states, %d connections", len(all), strings.Count(out.String(), "\n"), asked)
}
