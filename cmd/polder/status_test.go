package main

import (
	"bytes"
	"encoding/json"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/api"
)

func now() time.Time { return time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC) }

func addresses(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func aReport() *api.NodeReport {
	return &api.NodeReport{
		Node: "node-1", Version: "v0.1.0", Ready: true, Synced: now().Add(-3 * time.Second),
		Addresses: []api.Pool{
			{CIDR: prefixes("10.244.1.0/24")[0], Used: 2, Free: 250, Cooling: 1},
			{CIDR: prefixes("fd00:244:0:1::/64")[0], Used: 2, Free: math.MaxUint64, Cooling: 1},
		},
		Peers: []api.Peer{
			{Node: "node-2", Addresses: addresses("172.30.0.12", "fd30::12"), PodCIDRs: prefixes("10.244.2.0/24", "fd00:244:0:2::/64"),
				IPv4: &api.PeerPath{Kind: "native", MTU: 1450}, IPv6: &api.PeerPath{Kind: "tunnel", MTU: 1450}},
			{Node: "node-3", Addresses: addresses("172.30.0.13")},
		},
		Pods: []api.LocalPod{
			{Namespace: "default", Name: "web-1", Addresses: addresses("10.244.1.2", "fd00:244:0:1::2"), Link: "pdr0123456789a",
				MTU: 1450, Network: "polder", ContainerID: "8114c5666c93d0f1e2", Ifname: "eth0"},
			{Addresses: addresses("10.244.1.3"), Link: "pdr0123456789b", Network: "test", ContainerID: "abc", Ifname: "net1"},
		},
		Programs: []api.Hook{
			{Link: "eth0", Program: "from_network", How: "tcx"},
			{Link: "pdr0123456789a", Program: "from_pod", How: "tcx"}, {Link: "pdr0123456789b", Program: "from_pod", How: "tcx"},
			{Link: "pdr0123456789c", Program: "from_pod", How: "tcx"}, {Link: "pdr0123456789d", Program: "from_pod", How: "missing"},
		},
		Counters: map[string]uint64{"to pod": 12, "drop spoofed source": 1, "drop too big": 0},
		Problems: []api.Problem{{Object: "Node/node-3", Message: "has no pod CIDR"}},
		Repairs:  []api.Repair{{Time: now().Add(-5 * time.Minute), Table: "routes", Row: "10.244.2.0/24", Verb: "put back"}},
	}
}

func TestStatusIsATable(t *testing.T) {
	const want = `node    node-1
agent   v0.1.0
ready   yes
synced  3 s ago
pods    2

ADDRESSES          USED  FREE    COOLING
10.244.1.0/24      2     250     1
fd00:244:0:1::/64  2     plenty  1

PEER    ADDRESSES    POD CIDRS          ROUTING
node-2  172.30.0.12  10.244.2.0/24      IPv4 native, MTU 1450
        fd30::12     fd00:244:0:2::/64  IPv6 tunnel, MTU 1450
node-3  172.30.0.13                     none

PROGRAM       ATTACHED BY  LINKS
from_network  tcx          eth0
from_pod      missing      pdr0123456789d
from_pod      tcx          pdr0123456789a pdr0123456789b and 1 more

PACKETS
drop spoofed source  1
to pod               12

PROBLEMS
Node/node-3: has no pod CIDR

REPAIRED   TABLE   WHAT FOREIGN HANDS HAD CHANGED
5 min ago  routes  put back 10.244.2.0/24
`
	var got bytes.Buffer
	writeStatus(&got, *aReport(), now())
	if got.String() != want {
		t.Errorf("status is\n%s\nwant\n%s", &got, want)
	}
}

func TestStatusOfAFreshNodeIsShort(t *testing.T) {
	var got bytes.Buffer
	writeStatus(&got, api.NodeReport{Node: "node-1", Version: "v0.1.0"}, now())
	const want = "node   node-1\nagent  v0.1.0\nready  no\npods   0\n"
	if got.String() != want {
		t.Errorf("status is %q", &got)
	}
}

func TestPodsAreATable(t *testing.T) {
	const want = `POD           ADDRESSES        LINK            CONTAINER
default/web-1  10.244.1.2       pdr0123456789a  8114c5666c93
               fd00:244:0:1::2
- (test)       10.244.1.3       pdr0123456789b  abc
`
	if s := runPolder(aReport(), "pods"); s.status != 0 || s.stdout != strings.Replace(want, "POD  ", "POD   ", 1) {
		t.Errorf("pods are\n%s", s.stdout)
	}
	if s := runPolder(&api.NodeReport{}, "pods"); s.stdout != "no pods on this node\n" {
		t.Errorf("no pods are %q", s.stdout)
	}
}

func TestReportsForProgramsAreTheAgentsOwn(t *testing.T) {
	s := runPolder(aReport(), "status", "-o", "json")
	var got api.NodeReport
	if err := json.Unmarshal([]byte(s.stdout), &got); err != nil || !reflect.DeepEqual(&got, aReport()) {
		t.Errorf("%v, report is %s", err, s.stdout)
	}
	var pods []api.LocalPod
	s = runPolder(aReport(), "pods", "-o", "json")
	if err := json.Unmarshal([]byte(s.stdout), &pods); err != nil || !reflect.DeepEqual(pods, aReport().Pods) {
		t.Errorf("%v, pods are %s", err, s.stdout)
	}
	if s := runPolder(&api.NodeReport{}, "pods", "-o", "json"); strings.TrimSpace(s.stdout) != "[]" {
		t.Errorf("no pods are %q", s.stdout)
	}
}

func TestTimesAreSaidInTheUnitThatMatters(t *testing.T) {
	for _, c := range []struct {
		ago  time.Duration
		want string
	}{
		{0, "just now"}, {-time.Hour, "just now"}, {time.Second, "1 s ago"}, {59 * time.Second, "59 s ago"},
		{time.Minute, "1 min ago"}, {time.Hour, "1 h ago"}, {47 * time.Hour, "47 h ago"}, {72 * time.Hour, "3 days ago"},
	} {
		if got := ago(now(), now().Add(-c.ago)); got != c.want {
			t.Errorf("%s is %q, want %q", c.ago, got, c.want)
		}
	}
}
