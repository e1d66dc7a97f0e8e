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
	if len(before.Pairs(true)) == 0 || len(after.Pairs(true)) == 0 {
		return usagef("explain: %v: both OLD and NEW need them", errNoPods)
	}
	changes, once := explain.Diff(before.Cluster, after.Cluster)
	problems := reportBoth(before, after, oldFolder, newFolder)
	if output == "json" {
		pairs := []explainedPair{}
		for _, c := range changes {
			pairs = append(pairs, reportPair(c.Cell, c.Now))
		}
		err = writeIndented(e.stdout, explainedPairs{pairs, problems})
	} else {
		warn(e, problems)
		writeDiff(e.stdout, changes, once)
	}
	if err == nil && len(changes) > 0 {
		return errFailed
	}
	return err
}

// writeDiff prints changes for people.
func writeDiff(w io.Writer, changes []explain.Change, once []string) {
	for _, c := range mergeFamilies(changes) {
		sign, verdict := "-", "denied"
		if c.Allowed {
			sign, verdict = "+", "allowed"
		}
		family := ""
		if c.Family != "" {
			family = " (" + c.Family + ")"
		}
		writeWrapped(w, fmt.Sprintf("%-7s %s to %s %s%s", verdict, c.From, c.To, c.Port, family), sign+" ", "    ")
		for _, line := range c.Because {
			writeWrapped(w, line, "    ", "    ")
		}
	}
	if len(once) > 0 {
		writeWrapped(w, "Only one of the folders has "+strings.Join(once, ", ")+": nothing is said about them.", "", "  ")
	}
	if len(changes) == 0 {
		fmt.Fprintln(w, "nothing changes")
		return
	}
}

// mergeFamilies makes one line of a pair that changes alike in both families. Else the line says which it is of, if the
// pair has two.
func mergeFamilies(changes []explain.Change) (list []explainedPair) {
	at := map[explainedPairKey]int{}
	for _, c := range changes {
		p := reportPair(c.Cell, c.Now)
		if !c.Dual {
			p.Family = ""
		}
		key := explainedPairKey{p.From, p.To, p.Port, strings.Join(p.Because, "\n")}
		if i, ok := at[key]; ok {
			list[i].Family = ""
			continue
		}
		at[key] = len(list)
		list = append(list, p)
	}
	return list
}

// explainedPairKey is what one line is about.
type explainedPairKey struct{ from, to, port, because string }
