package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/polder-net/polder/internal/probe"
)

// progress shows how far a check is: in one line that changes on a terminal, else in a line every few seconds.
type progress struct {
	env         env
	began, last time.Time
	lost        string // what those are that did not get through: "failed"
	shown       bool
}

func (p *progress) show(done, total, failed int) {
	every := 3 * time.Second
	if p.env.terminal {
		every = 100 * time.Millisecond
	}
	now := time.Now()
	if p.last.IsZero() && !p.env.terminal {
		p.last = p.began
	}
	if now.Sub(p.last) < every {
		return
	}
	p.last, p.shown = now, true
	line := fmt.Sprintf("%d of %d probes, %d %s", done, total, failed, p.lost)
	if p.env.terminal {
		fmt.Fprintf(p.env.stderr, "\r\x1b[K%s", line)
	} else {
		fmt.Fprintln(p.env.stderr, line)
	}
}

// clear takes the changing line away.
func (p *progress) clear() {
	if p.shown && p.env.terminal {
		fmt.Fprint(p.env.stderr, "\r\x1b[K")
	}
}

// shownFailures is how many failures are listed for people. Programs get all.
const shownFailures = 60

// writeCheck prints a report for people.
func writeCheck(w io.Writer, r probe.Report) {
	var t textTable
	t.add("LAW", "", "PAIRS", "PASSED", "FAILED")
	for _, l := range r.Laws {
		checked := fmt.Sprint(l.Checked)
		if l.Checked == 0 {
			checked = "-"
		}
		t.add(fmt.Sprint(l.Number), l.Text, checked, fmt.Sprint(l.Passed), fmt.Sprint(l.Failed))
	}
	t.write(w)
	fmt.Fprintf(w, "\n%s of %s and %s, %s, %.1f s.\n", several(r.Pairs, "ordered pair"), several(r.Nodes, "node"),
		several(r.Pods, "pod"), several(r.Probes, "probe"), r.Seconds)
	fmt.Fprintln(w, "A pair counts once for each address family; law 5 counts addresses.")
	if r.Denied > 0 {
		fmt.Fprintf(w, "Left out, since policies deny them: %d of these. --policies looks at those, too.\n", r.Denied)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "Note: %s.\n", note)
	}
	if r.OK() {
		fmt.Fprintln(w, "All laws hold.")
		return
	}
	writeFailures(w, r.Failures)
}

// writeFailures lists failures. Those of one pair that have one reason share a line.
func writeFailures(w io.Writer, failures []probe.Failure) {
	var t textTable
	t.add("", "")
	t.add("LAW", "FROM", "TO", "PROBE", "REASON")
	var last probe.Failure
	for _, f := range failures {
		probes := strings.TrimSpace(f.Family + " " + f.Probe)
		row := &t.rows[len(t.rows)-1]
		same := last == probe.Failure{Law: f.Law, From: f.From, To: f.To, Family: f.Family, Probe: last.Probe, Reason: f.Reason}
		if same {
			(*row)[3] += ", " + f.Probe
			last = f
			continue
		}
		if len(t.rows)-2 == shownFailures {
			break
		}
		law := fmt.Sprint(f.Law)
		if f.Law == 0 {
			law = "-"
		}
		t.add(law, f.From, f.To, probes, f.Reason)
		last = f
	}
	t.write(w)
	fmt.Fprintf(w, "\n%s", several(len(failures), "failure"))
	if len(t.rows)-2 == shownFailures {
		fmt.Fprint(w, "; -o json lists all")
	}
	fmt.Fprintln(w, ".")
}
