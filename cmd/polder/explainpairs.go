package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/explain"
)

// explainedPair is a pair in `polder explain --all -o json`, and in --diff's.
type explainedPair struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	Port    string   `json:"port"`
	Family  string   `json:"family"`
	Allowed bool     `json:"allowed"`
	Because []string `json:"because"`
}

func reportPair(c explain.Cell, r explain.Ruling) explainedPair {
	family := "IPv6"
	if c.IPv4 {
		family = "IPv4"
	}
	return explainedPair{c.From, c.To, c.PortText(), family, r.Allowed, r.Because}
}

var errNoPods = errors.New("there are no pods with addresses: manifests say them in status.podIPs")

func explainAll(e env, x explainFlags) error {
	c, err := x.cluster(context.Background(), e)
	if err != nil {
		return usagef("explain: %v", err)
	}
	pairs := allPairs(c)
	if len(pairs) == 0 {
		return usagef("explain: %v", errNoPods)
	}
	if x.output == "json" {
		return writeIndented(e.stdout, pairs)
	}
	writeAll(e.stdout, pairs)
	return nil
}

func allPairs(c *explain.Cluster) (pairs []explainedPair) {
	all := c.Pairs(false)
	for _, cell := range slices.SortedFunc(maps.Keys(all), explain.Cell.Compare) {
		pairs = append(pairs, reportPair(cell, all[cell]))
	}
	return pairs
}

// explainedCase is a folder in `polder explain --cases -o json`.
type explainedCase struct {
	Case  string          `json:"case"`
	Pairs []explainedPair `json:"pairs"`
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
		c, err := readFolder(e, filepath.Join(x.cases, entry.Name()))
		if err != nil {
			return usagef("explain: %v", err)
		}
		cases = append(cases, explainedCase{entry.Name(), allPairs(c)})
	}
	if len(cases) == 0 {
		return usagef("explain: there are no folders in %s: each is a case", x.cases)
	}
	if x.output == "json" {
		return writeIndented(e.stdout, cases)
	}
	for _, c := range cases {
		fmt.Fprintf(e.stdout, "== %s\n\n", c.Case)
		writeAll(e.stdout, c.Pairs)
		fmt.Fprintln(e.stdout)
	}
	return nil
}

// writeAll prints, for each port of each pod, whom it hears, whom not, and why.
func writeAll(w io.Writer, pairs []explainedPair) {
	allowed, denied := 0, 0
	for start := 0; start < len(pairs); {
		end := start
		for end < len(pairs) && pairs[end].To == pairs[start].To && pairs[end].Port == pairs[start].Port {
			end++
		}
		fmt.Fprintf(w, "%s %s\n", pairs[start].To, pairs[start].Port)
		for _, g := range groupPairs(pairs[start:end]) {
			n := len(g.from)
			if g.allowed {
				allowed += n
			} else {
				denied += n
			}
			writeGroup(w, g)
		}
		start = end
	}
	fmt.Fprintf(w, "\n%s: %d allowed, %d denied.\n", several(allowed+denied, "pair"), allowed, denied)
}

// pairGroup are the senders that a port treats alike, for one reason.
type pairGroup struct {
	from    []string
	allowed bool
	because []string
}

// groupPairs groups senders by what becomes of them. A family is told only where the other fares otherwise.
func groupPairs(pairs []explainedPair) (groups []pairGroup) {
	families := map[string][]explainedPair{}
	for _, p := range pairs {
		families[p.From] = append(families[p.From], p)
	}
	for _, from := range slices.Sorted(maps.Keys(families)) {
		list := families[from]
		alike := !slices.ContainsFunc(list, func(p explainedPair) bool {
			return p.Allowed != list[0].Allowed || !slices.Equal(p.Because, list[0].Because)
		})
		for i, p := range list {
			name := from
			if !alike {
				name += " (" + p.Family + ")"
			} else if i > 0 {
				continue
			}
			groups = addToGroup(groups, name, p)
		}
	}
	slices.SortStableFunc(groups, func(a, b pairGroup) int {
		return cmp.Compare(map[bool]int{true: 0, false: 1}[a.allowed], map[bool]int{true: 0, false: 1}[b.allowed])
	})
	return groups
}

func addToGroup(groups []pairGroup, name string, p explainedPair) []pairGroup {
	i := slices.IndexFunc(groups, func(g pairGroup) bool { return g.allowed == p.Allowed && slices.Equal(g.because, p.Because) })
	if i < 0 {
		return append(groups, pairGroup{[]string{name}, p.Allowed, p.Because})
	}
	groups[i].from = append(groups[i].from, name)
	return groups
}

func writeGroup(w io.Writer, g pairGroup) {
	verdict := "denied"
	if g.allowed {
		verdict = "allowed"
	}
	writeWrapped(w, strings.Join(g.from, ", "), fmt.Sprintf("  %-9s", verdict), strings.Repeat(" ", 11))
	for _, line := range g.because {
		writeWrapped(w, line, strings.Repeat(" ", 11)+"- ", strings.Repeat(" ", 13))
	}
}

func explainDiff(e env, oldFolder, newFolder, output string) error {
	before, err := readFolder(e, oldFolder)
	if err != nil {
		return usagef("explain: %v", err)
	}
	after, err := readFolder(e, newFolder)
	if err != nil {
		return usagef("explain: %v", err)
	}
	if len(before.Pairs(true)) == 0 || len(after.Pairs(true)) == 0 {
		return usagef("explain: %v: both OLD and NEW need them", errNoPods)
	}
	changes, once := explain.Diff(before, after)
	if output == "json" {
		pairs := []explainedPair{}
		for _, c := range changes {
			pairs = append(pairs, reportPair(c.Cell, c.Now))
		}
		err = writeIndented(e.stdout, pairs)
	} else {
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
