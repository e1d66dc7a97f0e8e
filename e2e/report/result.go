// Package report turns the runs of the upstream suite into one page that names every network test, what became of it in
// each configuration, and why it was skipped. It runs nothing.
package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/polder-net/polder/e2e/rig"
)

// Outcome is what became of a test in one run.
type Outcome struct {
	Name    string
	State   string // pass, fail or skip
	Message string `json:",omitempty"` // the first line of why
}

// Run is one run of the suite on one cluster.
type Run struct {
	Suite      string `json:",omitempty"` // empty: Kubernetes' own
	Plan       rig.Plan
	Kubernetes string // version
	Outcomes   []Outcome
}

// ginkgoReport is the part of ginkgo's JSON report that we read.
type ginkgoReport struct {
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		Failure                 struct{ Message string }
	}
}

// ParseGinkgo reads a JSON report. Tests that were filtered out are left out; so are those that an interrupt ended.
func ParseGinkgo(content []byte) ([]Outcome, error) {
	var suites []ginkgoReport
	if err := json.Unmarshal(content, &suites); err != nil {
		return nil, fmt.Errorf("read ginkgo report: %w", err)
	}
	states := map[string]string{"passed": "pass", "failed": "fail", "panicked": "fail", "timedout": "fail", "skipped": "skip"}
	var outcomes []Outcome
	for _, suite := range suites {
		for _, spec := range suite.SpecReports {
			state, known := states[spec.State]
			message, _, _ := strings.Cut(strings.TrimSpace(spec.Failure.Message), "\n")
			if !known || spec.LeafNodeType != "It" || (state == "skip" && message == "") {
				continue
			}
			name := strings.Join(append(spec.ContainerHierarchyTexts, spec.LeafNodeText), " ")
			outcomes = append(outcomes, Outcome{Name: name, State: state, Message: message})
		}
	}
	return outcomes, nil
}

// Save keeps a run in a folder. The stamp orders runs; a later one counts more.
func Save(folder, stamp string, run Run) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("save run: %w", err)
	}
	content, err := json.MarshalIndent(run, "", " ")
	if err != nil {
		return fmt.Errorf("save run: %w", err)
	}
	if err := os.WriteFile(filepath.Join(folder, stamp+".json"), content, 0o644); err != nil {
		return fmt.Errorf("save run: %w", err)
	}
	return nil
}

// Load reads all runs of a folder, the oldest first. No folder is no runs.
func Load(folder string) ([]Run, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("load runs: %w", err)
	}
	sort.Strings(files)
	var runs []Run
	for _, file := range files {
		content, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("load runs: %w", err)
		}
		var run Run
		if err := json.Unmarshal(content, &run); err != nil {
			return nil, fmt.Errorf("load run %s: %w", filepath.Base(file), err)
		}
		runs = append(runs, run)
	}
	return runs, nil
}

// Column is a configuration and the last outcome of every test that ran in it.
type Column struct {
	Plan     rig.Plan
	Outcomes map[string]Outcome
}

// Merge puts the runs of one suite on one network together, one column for each configuration, in the order of the
// columns' titles.
func Merge(runs []Run, suite, network string) []Column {
	byTitle := map[string]Column{}
	var titles []string
	for _, run := range runs {
		if run.Plan.Network != network || cmp.Or(run.Suite, "kubernetes") != suite {
			continue
		}
		title := run.Plan.Title()
		column, known := byTitle[title]
		if !known {
			column.Outcomes = map[string]Outcome{}
			titles = append(titles, title)
		}
		column.Plan = run.Plan // the last one says best what there is
		byTitle[title] = column
		for _, outcome := range run.Outcomes {
			column.Outcomes[outcome.Name] = outcome
		}
	}
	sort.Strings(titles)
	var columns []Column
	for _, title := range titles {
		columns = append(columns, byTitle[title])
	}
	return columns
}
