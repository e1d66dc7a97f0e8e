package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// PolicyPage writes the report about the conformance suite of ClusterNetworkPolicy. The same columns give the same text.
func PolicyPage(columns []Column, api, kubernetes string) string {
	var page strings.Builder
	fmt.Fprintf(&page, "# Conformance to ClusterNetworkPolicy\n\nThe conformance suite of the network policy API %s (`policy.networking.k8s.io/v1alpha2`), all features, run by\n", api)
	fmt.Fprintf(&page, "`make e2e SUITE=cnp` against a real Kubernetes %s on one machine. `e2e/README.md` says how; this page is written by its\n", kubernetes)
	page.WriteString("`report` command. Services are kube-proxy's (nftables mode) unless a configuration says otherwise.\n\n" +
		"A kernel without SCTP gets a stand-in for its ends: it sends the packets that open an association, by raw sockets, and no\n" +
		"more. What policies do to them is tested; what SCTP does afterwards is not.\n\n")
	tests := policyTests(columns)
	if len(tests) == 0 {
		page.WriteString("No run has been recorded yet.\n")
		return page.String()
	}
	page.WriteString("| Configuration | Tests |\n|---|---|\n")
	for _, column := range columns {
		var all counts
		for _, test := range tests {
			all.add(column.Outcomes[test].State)
		}
		fmt.Fprintf(&page, "| %s | %s |\n", column.Plan.Title(), all)
	}
	policyFailures(&page, tests, columns)
	policyDetails(&page, tests, columns)
	return page.String()
}

// policyTests are the tests that ran anywhere, by name: there is no list of them but the suite.
func policyTests(columns []Column) []string {
	all := map[string]bool{}
	for _, column := range columns {
		for name := range column.Outcomes {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

func policyFailures(page *strings.Builder, tests []string, columns []Column) {
	page.WriteString("\n## Failures\n\n")
	none := true
	for _, test := range tests {
		for _, column := range columns {
			if outcome := column.Outcomes[test]; outcome.State == "fail" {
				none = false
				fmt.Fprintf(page, "- %s (%s): %s\n", policyName(test), column.Plan.Title(), short(outcome.Message))
			}
		}
	}
	if none {
		page.WriteString("None.\n")
	}
}

func policyDetails(page *strings.Builder, tests []string, columns []Column) {
	detailsHead(page, columns)
	for _, test := range tests {
		fmt.Fprintf(page, "| %s |", policyName(test))
		for _, column := range columns {
			fmt.Fprintf(page, " %s |", column.stateOf(test, "not run"))
		}
		page.WriteString("\n")
	}
}

// policyName turns what `go test` made of a test's name into words again.
func policyName(test string) string {
	return short(strings.NewReplacer("_", " ", "/", ": ").Replace(test))
}
