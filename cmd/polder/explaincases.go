package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// explainedCase is a folder in `polder explain --cases -o json`.
type explainedCase struct {
	Case     string             `json:"case"`
	Pairs    []explainedPair    `json:"pairs"`
	Problems []explainedProblem `json:"problems"`
}

// explainCases answers for all pairs of each folder in a folder.
func explainCases(e env, x explainFlags) error {
	entries, err := os.ReadDir(x.cases)
	if err != nil {
		return usagef("explain: read cases: %v", err)
	}
	cases := []explainedCase{}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		folder := filepath.Join(x.cases, entry.Name())
		c, err := readFolder(folder)
		if err != nil {
			return usagef("explain: %v", err)
		}
		pairs := allPairs(c.Cluster)
		if len(pairs) == 0 {
			return usagef("explain: %s: %v", folder, errNoPods)
		}
		cases = append(cases, explainedCase{entry.Name(), pairs, reportProblems(c.problems)})
	}
	if len(cases) == 0 {
		return usagef("explain: there are no folders in %s: each is a case", x.cases)
	}
	if x.output == "json" {
		return writeIndented(e.stdout, cases)
	}
	for _, c := range cases {
		for _, p := range c.Problems {
			p.Folder = c.Case
			warn(e, []explainedProblem{p})
		}
		fmt.Fprintf(e.stdout, "== %s\n\n", c.Case)
		writeAll(e.stdout, c.Pairs)
		fmt.Fprintln(e.stdout)
	}
	return nil
}
