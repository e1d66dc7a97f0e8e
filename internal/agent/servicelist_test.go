package agent

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
	"github.com/polder-net/polder/internal/testnet"
)

// aService has two endpoints that serve, one of them here, and one that does not.
func aService(n int) *cluster.ServiceObjects {
	number := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(n >> 8), byte(n) + byte(i)}) }
	pod := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, byte(i), byte(n)}) }
	return &cluster.ServiceObjects{
		Service: &cluster.Service{ServiceName: cluster.ServiceName{Namespace: "default", Name: fmt.Sprintf("web-%d", n)}, UID: fmt.Sprint(n),
			ClusterIPs: []netip.Addr{number(0)}, Ports: []cluster.ServicePort{{Protocol: cluster.TCP, Port: 80, NodePort: uint16(30000 + n%2000)}}},
		Slices: []*cluster.EndpointSlice{{Name: "x", IPv4: true, Ports: []cluster.EndpointPort{{Protocol: cluster.TCP, Port: 8080}},
			Endpoints: []cluster.Endpoint{
				{Addr: pod(2), Node: "node-2", Ready: true, Serving: true}, {Addr: pod(1), Node: "node-1", Ready: true, Serving: true},
				{Addr: pod(3), Node: "node-3"}}}},
	}
}

func listOf(n int, req api.ServicesRequest) *serviceList {
	table, changes := service.NewTable(service.Self{Node: "node-1"}), map[cluster.ServiceName]*cluster.ServiceObjects{}
	for i := range n {
		o := aService(i)
		changes[o.Service.ServiceName] = o
		table.SetService(o.Service.ServiceName, o)
	}
	l := &serviceList{req: req, self: table.Self(), objects: (*cluster.Services)(nil).With(changes), problems: table.Problems()}
	for name, p := range table.Ports() {
		if l.asked(name.ServiceName) {
			l.ports = append(l.ports, p)
		}
	}
	return l
}

func reported(t testing.TB, resp api.Response) (r api.ServicesReport) {
	t.Helper()
	if resp.Error != nil {
		t.Fatal(resp.Error)
	}
	if err := json.Unmarshal(resp.Report, &r); err != nil {
		t.Fatalf("%v: %s", err, resp.Report)
	}
	return r
}

func TestOneServiceIsReportedWithWhatIsLeftOut(t *testing.T) {
	at := netip.MustParseAddrPort
	got := reported(t, listOf(3, api.ServicesRequest{Namespace: "default", Name: "web-1"}).respond())
	want := api.ServicesReport{Node: "node-1", Total: 1, Services: []api.Service{{
		Namespace: "default", Name: "web-1", InternalTrafficPolicy: "Cluster", ExternalTrafficPolicy: "Cluster",
		Ports: []api.ServicePort{{Protocol: "TCP", Family: "IPv4",
			Frontends: []api.Frontend{{Address: at("10.96.0.1:80"), Kind: "ClusterIP"}, {Address: at("0.0.0.0:30001"), Kind: "NodePort"}},
			Backends: []api.Backend{{Address: at("10.244.1.1:8080"), Node: "node-1", Local: true, Policies: []string{"Cluster"}},
				{Address: at("10.244.2.1:8080"), Node: "node-2", Policies: []string{"Cluster"}}},
			BackendCount: 2,
			LeftOut:      []api.LeftOut{{Address: at("10.244.3.1:8080"), Reason: "not ready"}},
		}},
	}}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("report differs (-want +got):\n%s", diff)
	}
}

func TestServicesAreCountedWhetherListedOrNot(t *testing.T) {
	if r := reported(t, listOf(30, api.ServicesRequest{Most: 10}).respond()); r.Total != 30 || len(r.Services) != 10 || r.Services[1].Name != "web-1" {
		t.Errorf("%d of %d", len(r.Services), r.Total)
	}
	if r := reported(t, listOf(30, api.ServicesRequest{Namespace: "other"}).respond()); r.Total != 0 || r.Services == nil {
		t.Errorf("%+v", r)
	}
	if resp := listOf(3, api.ServicesRequest{Namespace: "default", Name: "none"}).respond(); resp.Error == nil || resp.Error.Code != api.CodeNoSuch {
		t.Errorf("%+v", resp.Error)
	}
}

// What the loop does for it is to go through the ports once; the rest is done outside.
func BenchmarkListServices(b *testing.B) {
	const n = 44_000
	for name, req := range map[string]api.ServicesRequest{"all": {}, "one": {Namespace: "default", Name: "web-7"}} {
		l := listOf(n, req)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(float64(len(l.respond().Report)), "bytes")
			}
		})
	}
}

func TestServicesAndTracesAreAskedOverTheSocket(t *testing.T) {
	snap := oneNode("10.244.1.0/24")
	n := newNode(t, snap)
	n.refused(api.CodeUnsupported, api.Request{Verb: api.Services}, nil)
	n.stop()
	n.cfg.Options.Services = true
	o := aService(1)
	n.source.say(&cluster.Snapshot{Nodes: snap.Nodes, Services: (*cluster.Services)(nil).With(
		map[cluster.ServiceName]*cluster.ServiceObjects{o.Service.ServiceName: o})})
	n.start()
	pod := testnet.New(t)
	given := n.add("client", pod.File())
	if r := reported(t, n.must(api.Request{Verb: api.Services}, nil)); r.Total != 1 || len(r.Services[0].Ports) != 1 {
		t.Errorf("%+v", r)
	}
	client := api.Party{Namespace: "default", Name: "client"}
	trace := func(from, to api.Party, port string) (r api.TraceReport) {
		resp := n.must(api.Request{Verb: api.Trace, Trace: &api.TraceRequest{From: from, To: to, Port: port}}, nil)
		if err := json.Unmarshal(resp.Report, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := trace(client, api.Party{Namespace: "default", Name: "web-1"}, "80")
	if r.Program != "from_pod" || !r.Delivered || r.Service == nil || len(r.Service.Backends) != 2 || r.Backend.Port() != 8080 {
		t.Errorf("%+v", r)
	}
	if r := trace(api.Party{Node: true}, api.Party{Address: netip.MustParseAddr("10.96.0.1")}, "80"); !r.Delivered || r.Program != "" {
		t.Errorf("%+v", r)
	}
	if r := trace(client, api.Party{Address: given.Addresses[0].Prefix.Addr()}, ""); r.Outcome != "to pod" || r.Destination.Pod != "default/client" {
		t.Errorf("%+v", r)
	}
	for _, wrong := range []api.TraceRequest{
		{From: client, To: api.Party{Address: netip.MustParseAddr("10.96.0.1")}},
		{From: client, To: api.Party{Namespace: "default", Name: "web-1"}, Port: "http"},
		{From: client, To: api.Party{Namespace: "default", Name: "nobody"}},
		{From: api.Party{Namespace: "default", Name: "nobody"}, To: client},
		{From: api.Party{Address: netip.MustParseAddr("10.244.1.99")}, To: client},
		{From: client, To: api.Party{Address: netip.MustParseAddr("fd00::1")}},
	} {
		n.refused(api.CodeNoSuch, api.Request{Verb: api.Trace, Trace: &wrong}, nil)
	}
}
