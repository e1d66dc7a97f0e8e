package main

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
)

func aTrace() *api.TraceReport {
	return &api.TraceReport{
		From: addrPort("10.244.1.9:40000"), FromPod: "default/client", Inside: true, To: addrPort("10.96.0.10:80"), Protocol: "TCP",
		Service: &api.TracedService{Namespace: "default", Name: "web", Port: "http", Kind: "ClusterIP", Policy: "Cluster", Affinity: 60,
			Backends: []api.Backend{{Address: addrPort("10.244.1.2:8080"), Node: "node-1", Local: true, Policies: []string{"Cluster"}},
				{Address: addrPort("10.244.2.2:8080"), Node: "node-2", Policies: []string{"Cluster"}}}},
		Program: "from_pod", Outcome: "to tunnel", Backend: addrPort("10.244.2.2:8080"),
		Destination: api.Destination{Address: netip.MustParseAddr("10.244.2.2"), Way: "tunnel", Pod: "default/web-2", Node: "node-2"},
		Delivered:   true, Verdict: "delivered",
	}
}

func TestATraceIsAWalk(t *testing.T) {
	refused := aTrace()
	refused.From, refused.FromPod, refused.Inside, refused.To = addrPort("198.51.100.7:40000"), "", false, addrPort("[2001:db8::1]:30080")
	refused.Service.Kind, refused.Service.Policy, refused.Service.Backends, refused.Service.Affinity = "NodePort", "Local", nil, 0
	refused.Program, refused.Outcome, refused.Backend, refused.Destination = "from_network", "drop no local backend", netip.AddrPort{}, api.Destination{}
	refused.Delivered, refused.Verdict = false, "dropped: no local backend"
	elsewhere := &api.TraceReport{Inside: true, To: addrPort("192.0.2.1:0"), Protocol: "UDP", Delivered: true, Verdict: "delivered",
		Destination: api.Destination{Address: netip.MustParseAddr("192.0.2.1"), Way: "outside"}}
	for _, c := range []struct {
		report *api.TraceReport
		status int
		want   string
	}{
		{aTrace(), 0, `from      pod default/client
          10.244.1.9:40000, inside the cluster
to        10.96.0.10:80/TCP
service   default/web, port http, ClusterIP
policy    Cluster, by the internal traffic policy
          a client keeps its backend for 60 s
backends  10.244.1.2:8080  node-1, here
          10.244.2.2:8080  node-2
program   from_pod: to tunnel
chosen    10.244.2.2:8080
way       pod default/web-2 of node-2, through the tunnel

delivered.
`},
		{refused, 1, `from      198.51.100.7:40000, outside
to        [2001:db8::1]:30080/TCP
service   default/web, port http, NodePort
policy    Local, by the external traffic policy
backends  none
program   from_network: drop no local backend

dropped: no local backend.
`},
		{elsewhere, 0, `from     this node, inside the cluster
to       192.0.2.1 by UDP
service  none: no Service has this address and port
way      outside the cluster, as the node's routes lead

delivered.
`},
	} {
		s := runAsking(func(api.Request) (any, error) { return c.report, nil }, "trace", "client", "default/web:http")
		if s.status != c.status || s.stdout != c.want || s.stderr != "" {
			t.Errorf("status %d, %q, trace is\n%s\nwant\n%s", s.status, s.stderr, s.stdout, c.want)
		}
	}
}

func TestTheEndsOfATraceAreReadAsTheyAreWritten(t *testing.T) {
	a := netip.MustParseAddr
	for args, want := range map[string]api.TraceRequest{
		"node 10.96.0.1:443":           {From: api.Party{Node: true}, To: api.Party{Address: a("10.96.0.1")}, Port: "443"},
		"client default/web":           {From: api.Party{Namespace: "default", Name: "client"}, To: api.Party{Namespace: "default", Name: "web"}},
		"a/b web:http --udp":           {From: api.Party{Namespace: "a", Name: "b"}, To: api.Party{Namespace: "default", Name: "web"}, Port: "http", UDP: true},
		"2001:db8::7 fd00:10:96::a":    {From: api.Party{Address: a("2001:db8::7")}, To: api.Party{Address: a("fd00:10:96::a")}},
		"::1:2 [fd00:10:96::a]:80":     {From: api.Party{Address: a("::1:2")}, To: api.Party{Address: a("fd00:10:96::a")}, Port: "80"},
		"198.51.100.7 [fd00:10:96::a]": {From: api.Party{Address: a("198.51.100.7")}, To: api.Party{Address: a("fd00:10:96::a")}},
	} {
		var asked api.TraceRequest
		s := runAsking(func(r api.Request) (any, error) { asked = *r.Trace; return aTrace(), nil },
			append([]string{"trace"}, strings.Fields(args)...)...)
		if s.status != 0 || !reflect.DeepEqual(asked, want) {
			t.Errorf("%s: status %d %s, asked for %+v", args, s.status, s.stderr, asked)
		}
	}
}

func TestATraceOfWhatIsNotThereIsWrongUse(t *testing.T) {
	s := runAsking(func(api.Request) (any, error) {
		return nil, &api.Error{Code: api.CodeNoSuch, Msg: "there is no pod default/x on this node"}
	}, "trace", "x", "web:80")
	if s.status != statusUsage || s.stderr != "polder: trace: there is no pod default/x on this node\n" {
		t.Errorf("status %d, %q", s.status, s.stderr)
	}
	s = runAsking(func(api.Request) (any, error) { return nil, errors.New("busy") }, "trace", "x", "web:80")
	if s.status != statusFailed {
		t.Errorf("status %d, %q", s.status, s.stderr)
	}
}
