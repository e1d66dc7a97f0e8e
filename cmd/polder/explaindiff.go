package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/polder-net/polder/internal/explain"
)

func explainDiff(e env, oldFolder, newFolder, output string) error {
	before, err := readFolder(oldFolder)
	if err != nil {
		return usagef("explain: %v", err)
	}
	after, err := readFolder(newFolder)
	if err != nil {
		return usagef("explain: %v", err)
	}
	if !before.HasPods() || !after.HasPods() {
		return usagef("explain: %v: both OLD and NEW need them", errNoPods)
	}
	d := explain.Diff(before.Cluster, after.Cluster)
	problems := reportBoth(before, after, oldFolder, newFolder)
	if output == "json" {
		err = writeIndented(e.stdout, explainedPairs{reportChanges(d), problems})
	} else {
		warn(e, problems)
		writeDiff(e.stdout, d)
	}
	if err == nil && len(d.Changes) > 0 {
		return errFailed
	}
	return err
}

// reportChanges makes a pair of each change, for programs. Its port may be a range.
func reportChanges(d *explain.Difference) []explainedPair {
	pairs := []explainedPair{}
	for _, c := range d.Changes {
		pairs = append(pairs, explainedPair{
			c.From.Name, c.To.Name, c.Ports.String(), familyName(c.IPv4), c.Now.Allowed, c.Because(c.From.Name, c.To.Name),
		})
	}
	return pairs
}

// writeDiff prints changes for people.
func writeDiff(w io.Writer, d *explain.Difference) {
	for _, g := range groupChanges(d) {
		writeWrapped(w, g.text(d), g.sign()+" ", "    ")
		for _, line := range g.sample.Because(nameOfEach(g.from), nameOfEach(g.to)) {
			writeWrapped(w, line, "    ", "    ")
		}
	}
	if len(d.Left) > 0 {
		writeWrapped(w, "Nothing is said about "+strings.Join(d.Left, ", ")+": not in both folders with an address.", "", "  ")
	}
	if len(d.Changes) == 0 {
		fmt.Fprintln(w, "nothing changes")
	}
}

func nameOfEach(places []explain.Place) string {
	if len(places) == 1 {
		return places[0].Name
	}
	return "each of them"
}
