package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/table"
)

func status(e env, args []string) error {
	f := newFlags("status", "[-o json]", `
Asks the agent of this node how it is: its addresses, how it reaches the other nodes, the programs it attached,
the problems it sees and the repairs it made.`)
	output := f.String("o", "", "print `json`, for programs, or text")
	socket := f.String("socket", api.Socket, "ask the agent that listens at this `path`")
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	if err := checkOutput("status", *output); err != nil {
		return err
	}
	raw, report, err := askAgent(e, *socket)
	if err != nil {
		return err
	}
	if *output == "json" {
		return writeIndented(e.stdout, raw)
	}
	writeStatus(e.stdout, report, time.Now())
	return nil
}

// checkOutput takes text for what is printed without -o.
func checkOutput(command, output string) error {
	if output != "" && output != "json" && output != "text" {
		return usagef("%s: -o %s: want json or text", command, output)
	}
	return nil
}

func writeIndented(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// writeStatus prints a report for people. Sections that have nothing to say are left out.
func writeStatus(w io.Writer, r api.NodeReport, now time.Time) {
	var head textTable
	head.add("node", r.Node)
	head.add("agent", r.Version)
	head.add("ready", yesNo(r.Ready))
	if !r.Synced.IsZero() {
		head.add("synced", ago(now, r.Synced))
	}
	head.add("pods", strconv.Itoa(len(r.Pods)))
	if text := policySummary(r.Pods); text != "" {
		head.add("policies", text)
	}
	head.write(w)
	writePools(w, r.Addresses)
	writePeers(w, r.Peers)
	writePrograms(w, r.Programs)
	writeCounters(w, r.Counters)
	writeProblems(w, r.Problems)
	writeRepairs(w, r.Repairs, now)
}

// policySummary counts what policies make of the pods; empty: none are judged.
func policySummary(pods []api.LocalPod) string {
	var open, isolated, closed int
	for _, p := range pods {
		switch {
		case p.Policies == nil:
			return ""
		case p.Policies.Why != "" || p.Policies.Ingress == api.Closed || p.Policies.Egress == api.Closed:
			closed++
		case p.Policies.Ingress == api.Isolated || p.Policies.Egress == api.Isolated:
			isolated++
		default:
			open++
		}
	}
	if open+isolated+closed == 0 {
		return ""
	}
	return fmt.Sprintf("%d open, %d isolated, %d closed: see polder pods", open, isolated, closed)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func writePools(w io.Writer, pools []api.Pool) {
	if len(pools) == 0 {
		return
	}
	t := titled("ADDRESSES", "USED", "FREE", "COOLING")
	for _, p := range pools {
		t.add(p.CIDR.String(), count(p.Used), count(p.Free), count(p.Cooling))
	}
	t.write(w)
}

// count prints a number, but not one beyond what anyone counts: the free addresses of an IPv6 prefix.
func count(n uint64) string {
	if n > 1e15 {
		return "plenty"
	}
	return strconv.FormatUint(n, 10)
}

func writePeers(w io.Writer, peers []api.Peer) {
	if len(peers) == 0 {
		return
	}
	t := titled("PEER", "ADDRESSES", "POD CIDRS", "ROUTING")
	for _, p := range peers {
		var ways []string
		for _, way := range []struct {
			family string
			path   *api.PeerPath
		}{{"IPv4", p.IPv4}, {"IPv6", p.IPv6}} {
			if way.path != nil {
				ways = append(ways, fmt.Sprintf("%s %s, MTU %d", way.family, way.path.Kind, way.path.MTU))
			}
		}
		if len(ways) == 0 {
			ways = []string{"none"}
		}
		t.add(p.Node, stacked(p.Addresses), stacked(p.PodCIDRs), strings.Join(ways, "\n"))
	}
	t.write(w)
}

// writePrograms prints one line for each program, not for each of its links: there is a link a pod.
func writePrograms(w io.Writer, hooks []api.Hook) {
	if len(hooks) == 0 {
		return
	}
	type kind struct{ program, how string }
	links := map[kind][]string{}
	var kinds []kind
	for _, h := range hooks {
		k := kind{h.Program, h.How}
		if links[k] == nil {
			kinds = append(kinds, k)
		}
		links[k] = append(links[k], h.Link)
	}
	slices.SortFunc(kinds, func(a, b kind) int { return strings.Compare(a.program+a.how, b.program+b.how) })
	t := titled("PROGRAM", "ATTACHED BY", "LINKS")
	for _, k := range kinds {
		shown := links[k]
		if len(shown) > 2 {
			shown = append(slices.Clone(shown[:2]), fmt.Sprintf("and %d more", len(shown)-2))
		}
		t.add(k.program, k.how, strings.Join(shown, " "))
	}
	t.write(w)
}

func writeCounters(w io.Writer, counters map[string]uint64) {
	t := titled("PACKETS", "")
	for _, name := range table.Keys(counters) {
		if counters[name] > 0 {
			t.add(name, count(counters[name]))
		}
	}
	if len(t.rows) > 2 {
		t.write(w)
	}
}

func writeProblems(w io.Writer, problems []api.Problem) {
	if len(problems) == 0 {
		return
	}
	fmt.Fprintln(w, "\nPROBLEMS")
	for _, p := range problems {
		fmt.Fprintf(w, "%s: %s\n", p.Object, p.Message)
	}
}

// writeRepairs says what foreign hands did, and when.
func writeRepairs(w io.Writer, repairs []api.Repair, now time.Time) {
	if len(repairs) == 0 {
		return
	}
	t := titled("REPAIRED", "TABLE", "WHAT FOREIGN HANDS HAD CHANGED")
	for _, r := range repairs {
		t.add(ago(now, r.Time), r.Table, r.Verb+" "+r.Row)
	}
	t.write(w)
}

// ago says how long ago something was, in the one unit that matters.
func ago(now, then time.Time) string {
	d := now.Sub(then)
	switch {
	case d < time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// titled starts a table below others, with a line of titles.
func titled(titles ...string) textTable {
	var t textTable
	t.add("")
	t.add(titles...)
	return t
}
