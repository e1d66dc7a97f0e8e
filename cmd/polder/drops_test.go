package main

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/api"
)

func aDrop() api.Drop {
	return api.Drop{Time: time.Date(2026, 5, 4, 12, 0, 1, 5e6, time.Local), Direction: "ingress", Protocol: "TCP",
		From:   api.DropEnd{Pod: "default/web", Address: netip.MustParseAddr("10.244.1.2"), Port: 40000},
		To:     api.DropEnd{Pod: "db/postgres-0", Address: netip.MustParseAddr("10.244.2.3"), Port: 5432},
		Reason: "isolated by NetworkPolicy/db/postgres", Policies: []string{"NetworkPolicy/db/postgres"}}
}

func TestDropsAreShownAsTheyCome(t *testing.T) {
	var asked []api.DropsRequest
	answer := func(r api.Request) (any, error) {
		asked = append(asked, *r.Drops)
		if len(asked) == 3 {
			return nil, errors.New("the agent stops")
		}
		report := api.DropsReport{Node: "node-1", Last: uint64(40 + len(asked))}
		if r.Drops.After != 0 {
			report.Drops, report.Missed = []api.Drop{aDrop()}, 7
		}
		return report, nil
	}
	s := runAsking(answer, "drops", "--follow")
	const line = "12:00:01.005 ingress TCP from default/web (10.244.1.2) to db/postgres-0 (10.244.2.3) port 5432: isolated by NetworkPolicy/db/postgres\n"
	if s.status != 1 || s.stdout != line || s.stderr != "7 more are not shown\npolder: the agent stops\n" {
		t.Errorf("status %d, output %q, error %q", s.status, s.stdout, s.stderr)
	}
	if len(asked) != 3 || asked[1].After != 41 || asked[2].After != 42 || !asked[0].Follow {
		t.Errorf("asked was %+v", asked)
	}
	asked = nil
	s = runAsking(answer, "drops", "--follow", "-o", "json")
	var d api.Drop
	if err := json.Unmarshal([]byte(s.stdout), &d); err != nil || d.To.Pod != "db/postgres-0" || strings.Count(s.stdout, "\n") != 1 {
		t.Errorf("%v: %q", err, s.stdout)
	}
}

func TestDropsAreCountedByPodAndPolicy(t *testing.T) {
	report := api.DropsReport{Counts: []api.DropCount{
		{Pod: "db/postgres-0", Direction: "egress", Reason: `denied by ClusterNetworkPolicy/lock, rule 2 "no-internet"`, Packets: 1},
		{Pod: "db/postgres-0", Direction: "ingress", Reason: "isolated by NetworkPolicy/db/postgres, NetworkPolicy/db/everything-else-is-denied", Packets: 12345},
		{Pod: "default/web", Reason: "isolated by policies that have changed since", Packets: 2},
	}}
	s := runAsking(func(api.Request) (any, error) { return report, nil }, "drops")
	const want = `db/postgres-0
  egress: 1 packet: denied by ClusterNetworkPolicy/lock, rule 2 "no-internet"
  ingress: 12,345 packets: isolated by NetworkPolicy/db/postgres,
    NetworkPolicy/db/everything-else-is-denied

default/web
  earlier: 2 packets: isolated by policies that have changed since
`
	if s.status != 0 || s.stdout != want {
		t.Errorf("status %d, output\n%s%s", s.status, s.stdout, s.stderr)
	}
	if s := runAsking(func(api.Request) (any, error) { return api.DropsReport{}, nil }, "drops"); s.stdout != "no packet of a pod of this node was denied\n" {
		t.Errorf("output %q", s.stdout)
	}
}

func TestPodsSayWhatPoliciesMakeOfThem(t *testing.T) {
	r := aReport()
	states := []*api.PodPolicies{{Ingress: api.Isolated, Egress: api.Open}, {Ingress: api.Closed, Egress: api.Closed, Why: "its policies are not known yet"}}
	for i := range r.Pods {
		r.Pods[i].Policies = states[i]
	}
	s := runPolder(r, "pods")
	for _, want := range []string{"CONTAINER     POLICIES\n", "8114c5666c93  isolated: ingress\n", "abc           closed: its policies are not known yet\n"} {
		if !strings.Contains(s.stdout, want) {
			t.Errorf("output lacks %q:\n%s", want, s.stdout)
		}
	}
	if s := runPolder(r, "status"); !strings.Contains(s.stdout, "policies  0 open, 1 isolated, 1 closed: see polder pods\n") {
		t.Errorf("output\n%s", s.stdout)
	}
}
