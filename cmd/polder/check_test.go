package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/probe"
	"github.com/polder-net/polder/internal/testnet"
	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

func TestFailuresOfOnePairShareALine(t *testing.T) {
	failure := func(law int, from, to, family, kind, reason string) probe.Failure {
		return probe.Failure{Law: law, From: from, To: to, Family: family, Probe: kind, Reason: reason}
	}
	var got bytes.Buffer
	writeCheck(&got, probe.Report{
		Nodes: 2, Pods: 2, Pairs: 12, Probes: 72, Seconds: 2.04,
		Laws: []probe.Law{{Number: 2, Text: "every pod reaches every pod", Checked: 4, Passed: 2, Failed: 2}, {Number: 6, Text: "full size"}},
		Failures: []probe.Failure{
			failure(0, "node-3", "", "", "", "start prober: no agent's pod runs on the node"),
			failure(2, "ns/a", "ns/b", "IPv4", "tcp", "no answer within 2s"),
			failure(2, "ns/a", "ns/b", "IPv4", "udp", "no answer within 2s"),
			failure(2, "ns/a", "ns/b", "IPv6", "udp", "no answer within 2s"),
			failure(2, "ns/a", "ns/c", "IPv6", "udp", "connection refused"),
		},
		Notes: []string{"something to know"},
	})
	const want = `LAW                               PAIRS  PASSED  FAILED
2    every pod reaches every pod  4      2       2
6    full size                    -      0       0

12 ordered pairs of 2 nodes and 2 pods, 72 probes, 2.0 s.
A pair counts once for each address family; law 5 counts addresses.
Note: something to know.

LAW  FROM    TO    PROBE          REASON
-    node-3                       start prober: no agent's pod runs on the node
2    ns/a    ns/b  IPv4 tcp, udp  no answer within 2s
2    ns/a    ns/b  IPv6 udp       no answer within 2s
2    ns/a    ns/c  IPv6 udp       connection refused

5 failures.
`
	if got.String() != want {
		t.Errorf("the report is\n%s\nwant\n%s", &got, want)
	}
}

func TestManyFailuresAreCutForPeople(t *testing.T) {
	var r probe.Report
	for i := range 1000 {
		r.Failures = append(r.Failures, probe.Failure{Law: 2, From: fmt.Sprintf("ns/%d", i), Reason: "lost"})
	}
	var got bytes.Buffer
	writeCheck(&got, r)
	if lines := strings.Count(got.String(), "lost"); lines != shownFailures || !strings.Contains(got.String(), "1000 failures; -o json lists all.") {
		t.Errorf("%d lines, the end is %q", lines, got.String()[got.Len()-60:])
	}
}

func TestProgressIsALineThatChangesOnATerminalAlone(t *testing.T) {
	for _, terminal := range []bool{true, false} {
		var stderr bytes.Buffer
		p := &progress{env: env{stderr: &stderr, terminal: terminal}, began: time.Now().Add(-time.Minute), lost: "failed"}
		p.show(1, 10, 0)
		p.show(2, 10, 0) // too soon
		p.clear()
		want := "1 of 10 probes, 0 failed\n"
		if terminal {
			want = "\r\x1b[K1 of 10 probes, 0 failed\r\x1b[K"
		}
		if stderr.String() != want {
			t.Errorf("terminal %v: %q", terminal, &stderr)
		}
	}
}

// checked runs the program's check on a lab, and reads its report.
func checked(t *testing.T, c *lab.Cluster, wantStatus int) probe.Report {
	t.Helper()
	cmd := exec.Command(filepath.Join(c.Bin(), "polder"), "check", "--state", c.State(), "-o", "json")
	out, err := cmd.Output()
	status := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		status = exit.ExitCode()
	}
	if status != wantStatus {
		t.Errorf("the exit status is %d, want %d", status, wantStatus)
	}
	var r probe.Report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("read report: %v: %s", err, out)
	}
	return r
}

// What `make lab` does.
func TestADemoIsALabThatHasBeenChecked(t *testing.T) {
	testnet.RequireRoot(t)
	state := filepath.Join(t.TempDir(), "lab")
	program := filepath.Join(programs.Folder(t), "polder")
	t.Cleanup(func() {
		if out, err := exec.Command(program, "lab", "down", "--state", state).CombinedOutput(); err != nil {
			t.Errorf("take it down: %v: %s", err, out)
		}
	})
	out, err := exec.Command(program, "lab", "demo", "--state", state, "--nodes", "2").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "All laws hold.") || !strings.Contains(string(out), "The lab stays up.") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestCheckProvesTheLawsInALab(t *testing.T) {
	for _, racks := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d racks", racks), func(t *testing.T) {
			c := labtest.Up(t, &programs, lab.Options{Nodes: 3, Racks: racks})
			if err := createPods(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			r := checked(t, c, 0)
			for _, f := range r.Failures {
				t.Errorf("%+v", f)
			}
			want := map[int]int{1: 12, 2: 144, 3: 108, 4: 198, 5: 18, 6: 264}
			for _, l := range r.Laws {
				if l.Checked != want[l.Number] || l.Passed != l.Checked {
					t.Errorf("law %d: %d checked, %d passed, want %d", l.Number, l.Checked, l.Passed, want[l.Number])
				}
			}
			spoil(t, c)
		})
	}
}

// spoil takes the way back to one other pod away from a pod, behind the agents' backs and out of their reach, and
// wants the check to name exactly the pairs that this breaks.
func spoil(t *testing.T, c *lab.Cluster) {
	t.Helper()
	one, err := c.Pod("web-1")
	if err != nil {
		t.Fatal(err)
	}
	far, err := c.Pod("web-9")
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Do(func() error { return blackhole(far.Addresses[0]) }); err != nil {
		t.Fatal(err)
	}
	r := checked(t, c, 1)
	var got []string
	for _, f := range r.Failures {
		if !slices.Contains(got, f.From+" > "+f.To+" "+f.Family) {
			got = append(got, f.From+" > "+f.To+" "+f.Family)
		}
	}
	slices.Sort(got)
	want := []string{"default/web-1 > default/web-9 IPv4", "default/web-9 > default/web-1 IPv4"}
	if !slices.Equal(got, want) {
		t.Errorf("there fail %q, want %q", got, want)
	}
}
