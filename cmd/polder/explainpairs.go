package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/explain"
)

// explainedPairs is what `polder explain --all -o json` prints: all pairs. With --diff, it is those that change.
type explainedPairs struct {
	Pairs    []explainedPair    `json:"pairs"`
	Problems []explainedProblem `json:"problems"`
}

// explainedPair is one of them.
type explainedPair struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	Port    string   `json:"port"`
	Family  string   `json:"family"`
	Allowed bool     `json:"allowed"`
	Because []string `json:"because"`
}

func reportPair(c explain.Cell, r explain.Ruling) explainedPair {
	return explainedPair{c.From, c.To, c.PortText(), familyName(c.IPv4), r.Allowed, r.Because}
}

func familyName(ipv4 bool) string {
	if ipv4 {
		return "IPv4"
	}
	return "IPv6"
}

var errNoPods = errors.New("there are no pods with addresses: manifests say them in status.podIPs")

func explainAll(e env, x explainFlags) error {
	c, err := x.read(context.Background(), e)
	if err != nil {
		return usagef("explain: %v", err)
	}
	pairs := allPairs(c.Cluster)
	if len(pairs) == 0 {
		warn(e, reportProblems(c.absent()))
		return usagef("explain: %v", errNoPods)
	}
	problems := reportProblems(c.problems)
	if x.output == "json" {
		return writeIndented(e.stdout, explainedPairs{pairs, problems})
	}
	warn(e, problems)
	writeAll(e.stdout, pairs)
	return nil
}

func allPairs(c *explain.Cluster) (pairs []explainedPair) {
	all := c.Pairs()
	for _, cell := range slices.SortedFunc(maps.Keys(all), explain.Cell.Compare) {
		pairs = append(pairs, reportPair(cell, all[cell]))
	}
	return pairs
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
