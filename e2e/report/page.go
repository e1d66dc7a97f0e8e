package report

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:embed tests.txt
var testList string

// Tests lists every network test of the suite, sorted.
func Tests() []string { return strings.Split(strings.TrimSpace(testList), "\n") }

// counts are the sums of one column.
type counts struct{ pass, fail, skip int }

func (c counts) String() string {
	return fmt.Sprintf("%d run: %d passed, %d failed", c.pass+c.fail, c.pass, c.fail)
}

// Page writes the report. The same columns give the same text.
func Page(columns []Column, kubernetes string) string {
	var page strings.Builder
	tests := Tests()
	fmt.Fprintf(&page, "# Conformance\n\nThe network tests of the Kubernetes %s e2e suite (`[sig-network]`, %d tests, %d of them `[Conformance]`), run by\n",
		kubernetes, len(tests), count(tests, "[Conformance]"))
	page.WriteString("`make e2e` against a real Kubernetes on one machine. `e2e/README.md` says how; this page is written by its `report` command.\n" +
		"Services are kube-proxy's (nftables mode) unless a configuration says otherwise. A skipped test has its reason beside it.\n\n")
	if len(columns) == 0 {
		page.WriteString("No run has been recorded yet.\n")
		return page.String()
	}
	summary(&page, tests, columns)
	failures(&page, tests, columns)
	details(&page, tests, columns)
	return page.String()
}

func count(tests []string, tag string) int {
	n := 0
	for _, test := range tests {
		if strings.Contains(test, tag) {
			n++
		}
	}
	return n
}

func summary(page *strings.Builder, tests []string, columns []Column) {
	page.WriteString("| Configuration | Conformance | All network tests | Skipped |\n|---|---|---|---|\n")
	for _, column := range columns {
		var all, conformance counts
		for _, test := range tests {
			state := column.Outcomes[test].State
			all.add(state)
			if strings.Contains(test, "[Conformance]") {
				conformance.add(state)
			}
		}
		fmt.Fprintf(page, "| %s | %s | %s | %d |\n", column.Plan.Title(), conformance, all, all.skip)
	}
}

func (c *counts) add(state string) {
	switch state {
	case "pass":
		c.pass++
	case "fail":
		c.fail++
	default:
		c.skip++
	}
}

func failures(page *strings.Builder, tests []string, columns []Column) {
	page.WriteString("\n## Failures\n\n")
	none := true
	for _, test := range tests {
		var where []string
		for _, column := range columns {
			if column.Outcomes[test].State == "fail" {
				where = append(where, column.Plan.Title())
			}
		}
		if len(where) > 0 {
			none = false
			fmt.Fprintf(page, "- %s (%s)\n", short(test), strings.Join(where, "; "))
		}
	}
	if none {
		page.WriteString("None.\n")
	}
}

func details(page *strings.Builder, tests []string, columns []Column) {
	detailsHead(page, columns, "Why skipped")
	for _, test := range tests {
		fmt.Fprintf(page, "| %s |", short(test))
		var reasons []string
		for _, column := range columns {
			fmt.Fprintf(page, " %s |", column.stateOf(test, "skip"))
			if reason := whySkipped(test, column); reason != "" && !has(reasons, reason) {
				reasons = append(reasons, reason)
			}
		}
		fmt.Fprintf(page, " %s |\n", strings.Join(reasons, "; "))
	}
}

// detailsHead begins the table of all tests: a column for each configuration, and those that follow them.
func detailsHead(page *strings.Builder, columns []Column, more ...string) {
	heads := []string{"Test"}
	for _, column := range columns {
		heads = append(heads, column.Plan.Title())
	}
	heads = append(heads, more...)
	fmt.Fprintf(page, "\n## Every test\n\n| %s |\n|%s\n", strings.Join(heads, " | "), strings.Repeat("---|", len(heads)))
}

// stateOf is what became of a test, or another word for one that did not run.
func (c Column) stateOf(test, notRun string) string {
	switch state := c.Outcomes[test].State; state {
	case "":
		return notRun
	case "fail":
		return "**fail**"
	default:
		return state
	}
}

// whySkipped prefers our own words over the suite's.
func whySkipped(test string, column Column) string {
	outcome, ran := column.Outcomes[test]
	if ran && outcome.State != "skip" {
		return ""
	}
	if reason := Reason(test, column.Plan); reason != "" {
		return reason
	}
	if ran {
		return "the suite says: " + strings.ReplaceAll(outcome.Message, "|", "\\|")
	}
	return "not in the default selection, and not run yet"
}

// short drops what every name begins with and keeps the rest from breaking the table.
func short(test string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;").Replace(strings.TrimPrefix(test, "[sig-network] "))
}

func has(list []string, wanted string) bool {
	for _, have := range list {
		if have == wanted {
			return true
		}
	}
	return false
}
