package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/explain"
	"github.com/polder-net/polder/internal/probe"
	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// shopParties are the nodes and pods of testdata/shop as probers find them.
func shopParties() []probe.Party {
	party := func(name, node string, pod bool, addresses ...string) probe.Party {
		p := probe.Party{Name: name, Node: node, Pod: pod, TCP: map[netip.Addr]uint16{}, UDP: map[netip.Addr]uint16{}}
		for _, text := range addresses {
			a := netip.MustParseAddr(text)
			p.Addresses = append(p.Addresses, a)
			p.TCP[a], p.UDP[a] = 40001, 40002
		}
		return p
	}
	return []probe.Party{
		party("node-1", "node-1", false, "172.18.0.1", "fd00:172:18::1"),
		party("node-2", "node-2", false, "172.18.0.2", "fd00:172:18::2"),
		party("shop/web", "node-1", true, "10.244.1.2", "fd00:10:244:1::2"),
		party("shop/probe", "node-1", true, "10.244.1.3"),
		party("db/postgres-0", "node-1", true, "10.244.1.9", "fd00:10:244:1::9"),
		party("db/postgres-1", "node-2", true, "10.244.2.9", "fd00:10:244:2::9"),
		party("node-2/pdr1", "node-2", true, "10.244.2.70"), // of which there is no object
	}
}

func shopCheck(probes int) *policyCheck {
	return &policyCheck{
		read:   func() (*explain.Cluster, error) { o, err := readFolder("testdata/shop"); return o.Cluster, err },
		probes: probes, random: rand.New(rand.NewPCG(1, 0)), report: policyReport{Seed: 1, Mismatches: []policyMismatch{}},
	}
}

// obey answers attempts as the policies would have it, but for some.
func obey(c *policyCheck, attempts []probe.Attempt, wrong func(probe.Attempt) bool) (done []probe.Attempted) {
	for _, a := range attempts {
		d := probe.Attempted{Attempt: a, Reached: c.judge(a).Allowed != wrong(a), Said: "answered"}
		if !d.Reached {
			d.Said = "no answer within 2s"
		}
		done = append(done, d)
	}
	return done
}

func TestPacketsThatObeyAgreeWithPolicies(t *testing.T) {
	c := shopCheck(100)
	attempts := c.next(shopParties(), nil)
	// 3 declared ports of databases in 2 families and 1 of web, from 5 others that have the family: 2 nodes and 3 pods.
	declared := 3*(5+4) + (5 + 4)
	if len(attempts) != declared+100 {
		t.Errorf("%d attempts, want %d and 100", len(attempts), declared)
	}
	for _, a := range attempts {
		if a.From == 6 || a.To == 6 || a.From == a.To || a.From < 2 && a.To < 2 || a.Port == 0 {
			t.Errorf("%+v is tried", a)
		}
	}
	if again := c.next(shopParties(), obey(c, attempts, func(probe.Attempt) bool { return false })); len(again) > 0 {
		t.Errorf("%d are tried again", len(again))
	}
	if r := c.report; !r.ok() || r.Probes != declared+100 || r.Denied == 0 || r.Denied == r.Probes || r.Nodes != 2 || r.Pods != 5 {
		t.Errorf("the report is %+v", r)
	}
}

func TestPacketsThatDisobeyAreLookedAtTwiceAndNamed(t *testing.T) {
	c := shopCheck(0)
	attempts := c.next(shopParties(), nil)
	wrong := func(a probe.Attempt) bool { return a.From == 3 && a.Address.Is4() } // probe, of which policies allow web alone
	doubts := c.next(shopParties(), obey(c, attempts, wrong))
	if len(doubts) != 4 {
		t.Fatalf("%d are tried again", len(doubts))
	}
	if c.next(shopParties(), obey(c, doubts, wrong)) != nil {
		t.Error("they are tried a third time")
	}
	var got bytes.Buffer
	writePolicyReport(&got, c.report)
	for line := range strings.Lines(got.String()) {
		if len(line) > width+1 {
			t.Errorf("a line of %d characters: %s", len(line), line)
		}
	}
	for _, want := range []string{
		"shop/probe to shop/web, 10.244.1.2:8080 TCP: policies allow it, but packets do\n    not get through: no answer within 2s\n  - no policy isolates either end or denies it\n",
		"shop/probe to db/postgres-1, 10.244.2.9:5432 TCP: policies deny it, but packets\n    get through: answered\n  - ingress to db/postgres-1 is denied: NetworkPolicy/db/closed\n",
		"Packets and policies disagree in 4 cases.\n",
	} {
		if !strings.Contains(got.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, &got)
		}
	}
}

func TestADatagramThatNobodyNeedAnswerProvesNothing(t *testing.T) {
	for _, c := range []struct {
		port    uint16
		unclear int
	}{{5432, 1}, {40002, 0}} {
		check := shopCheck(0)
		check.next(shopParties(), nil)
		node := probe.Attempt{From: 0, To: 4, Address: netip.MustParseAddr("10.244.1.9"), Port: c.port, UDP: true}
		silent := []probe.Attempted{{Attempt: node, Said: "no answer within 2s"}}
		check.next(shopParties(), silent)
		check.next(shopParties(), silent)
		if r := check.report; r.Unclear != c.unclear || len(r.Mismatches) != 1-c.unclear {
			t.Errorf("port %d: the report is %+v", c.port, r)
		}
	}
}

func TestObjectsThatCannotBeReadEndACheck(t *testing.T) {
	c := shopCheck(1)
	c.read = func() (*explain.Cluster, error) { return nil, fmt.Errorf("read manifests: gone") }
	if c.next(shopParties(), nil) != nil || c.err == nil {
		t.Errorf("the error is %v", c.err)
	}
}

func TestPacketsThatALabLosesDisagreeWithPolicies(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 2})
	var pods []*lab.Pod
	for i, node := range c.Nodes() {
		p, err := c.CreatePod(t.Context(), lab.PodOptions{Name: fmt.Sprintf("pod-%d", i), Node: node.Name, Serve: []uint16{80}})
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, p)
	}
	for _, lost := range []bool{false, true} {
		if lost { // the way back to the other pod, behind the agents' backs
			if err := pods[0].Do(func() error { return blackhole(pods[1].Addresses[0]) }); err != nil {
				t.Fatal(err)
			}
		}
		s := runPolder(nil, "check", "--policies", "--probes", "20", "--state", c.State(), "-o", "json")
		var r policyReport
		if err := json.Unmarshal([]byte(s.stdout), &r); err != nil {
			t.Fatalf("%v: %s%s", err, s.stdout, s.stderr)
		}
		if r.Nodes != 2 || r.Pods != 2 || r.Probes != 24+20 || len(r.Failures) > 0 || (s.status != 0) != lost || (len(r.Mismatches) > 0) != lost {
			t.Errorf("lost %t: status %d, %s", lost, s.status, s.stdout)
		}
		for _, m := range r.Mismatches {
			if !strings.HasPrefix(m.From+m.To, "default/pod-") || !m.Address.Addr().Is4() || !m.Allowed {
				t.Errorf("there disagrees %+v", m)
			}
		}
	}
}
