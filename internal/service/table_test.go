package service_test

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

// The facts of this test are those of TestEndpointsMapFromESC in pkg/proxy/endpointslicecache_test.go of Kubernetes.
func TestSlicesAreMergedAsKubeProxyMergesThem(t *testing.T) {
	three := []cluster.Endpoint{ready(3), ready(1), ready(2)}
	four := append(slices.Clone(three), ready(4))
	for _, c := range []struct {
		name   string
		slices []*cluster.EndpointSlice
		want   string
	}{
		{"one slice", []*cluster.EndpointSlice{webSlice("a", 80, three...)}, "1 2 3"},
		{"two slices", []*cluster.EndpointSlice{webSlice("a", 80, three...), webSlice("b", 80, ready(9), ready(8))}, "1 2 3 8 9"},
		{"overlapping slices", []*cluster.EndpointSlice{webSlice("a", 80, three...), webSlice("b", 80, four...)}, "1 2 3 4"},
		{"ready in one of two", []*cluster.EndpointSlice{webSlice("a", 80, unready(1), unready(2)), webSlice("b", 80, ready(1), unready(2))}, "1"},
		{"ending in one, ready in the other", []*cluster.EndpointSlice{webSlice("a", 80, ending(1), ready(2)), webSlice("b", 80, ready(1), ending(2))}, "1 2"},
		{"ready in none", []*cluster.EndpointSlice{webSlice("a", 80, unready(1)), webSlice("b", 80, unready(1))}, ""},
		{"a port without a number", []*cluster.EndpointSlice{webSlice("a", 0, three...)}, ""},
		{"one address with two ports", []*cluster.EndpointSlice{webSlice("a", 80, three...), webSlice("b", 8080, ready(1))}, "1 1:8080 2 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 {
				table := service.NewTable(service.Self{Node: "n1"})
				table.SetService(webService().ServiceName, &cluster.ServiceObjects{Service: webService(), Slices: c.slices})
				if got := text(table.Ports()[webPort()].Cluster); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				slices.Reverse(c.slices)
			}
		})
	}
}

// The facts of the following tests are those of pkg/proxy/servicechangetracker_test.go of Kubernetes; that headless
// Services and addresses with ipMode Proxy are left out is the source's business.

func frontendTexts(p *service.Port) string {
	var words []string
	for _, f := range slices.SortedFunc(maps.Keys(p.Frontends), service.Frontend.Compare) {
		words = append(words, p.Frontends[f].String()+"="+f.String())
	}
	return strings.Join(words, " ")
}

func TestEachFamilyHasItsOwnFields(t *testing.T) {
	both := &cluster.Service{ServiceName: cluster.ServiceName{Namespace: "test", Name: "svc"},
		ExternalIPs: addrs("8.8.8.8", "2001:db8::35"), LoadBalancerIPs: addrs("8.8.4.4", "2001:db8::44"),
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("2001:db8::/32")},
		Ports:        []cluster.ServicePort{{Name: "p", Protocol: cluster.TCP, Port: 12345}}}
	want := map[bool]string{
		true:  "LoadBalancer=8.8.4.4:12345/TCP ExternalIP=8.8.8.8:12345/TCP ClusterIP=10.0.0.1:12345/TCP",
		false: "ClusterIP=[2001:db8::34]:12345/TCP ExternalIP=[2001:db8::35]:12345/TCP LoadBalancer=[2001:db8::44]:12345/TCP",
	}
	ranges := map[bool]string{true: "0.0.0.0/1", false: "2001:db8::/32"}
	for _, ips := range [][]netip.Addr{addrs("10.0.0.1"), addrs("2001:db8::34"), addrs("2001:db8::34", "10.0.0.1")} {
		svc := *both
		svc.ClusterIPs = ips
		table := service.NewTable(service.Self{ExternalIPs: true})
		table.SetService(svc.ServiceName, &cluster.ServiceObjects{Service: &svc})
		if len(table.Ports()) != len(ips) {
			t.Errorf("cluster IPs %v: %d ports", ips, len(table.Ports()))
		}
		for name, p := range table.Ports() {
			if got := frontendTexts(p); got != want[name.IPv4] {
				t.Errorf("cluster IPs %v: %s", ips, got)
			}
			if len(p.SourceRanges) != 1 || p.SourceRanges[0].String() != ranges[name.IPv4] {
				t.Errorf("cluster IPs %v: source ranges %v", ips, p.SourceRanges)
			}
		}
	}
}

func TestAServiceThatBecomesALoadBalancerKeepsItsPorts(t *testing.T) {
	table, before := service.NewTable(service.Self{}), webService()
	table.SetService(before.ServiceName, &cluster.ServiceObjects{Service: before})
	if n := len(table.Changed()); n != 1 {
		t.Fatalf("%d ports changed, want 1", n)
	}
	after := webService()
	after.LoadBalancerIPs, after.ExternalLocal, after.HealthCheckNodePort = addrs("10.1.2.3"), true, 345
	objects := &cluster.ServiceObjects{Service: after}
	table.SetService(after.ServiceName, objects)
	p := table.Changed()[webPort()]
	if p == nil || frontendTexts(p) != "LoadBalancer=10.1.2.3:80/TCP ClusterIP=10.96.0.10:80/TCP" || p.HealthCheckNodePort != 345 {
		t.Errorf("changed to %+v", p)
	}
	copied := *after
	for _, same := range []*cluster.ServiceObjects{objects, {Service: after}, {Service: &copied}} {
		table.SetService(after.ServiceName, same)
		if changed := table.Changed(); len(changed) != 0 {
			t.Errorf("the same again changed %v", changed)
		}
	}
	table.SetService(after.ServiceName, &cluster.ServiceObjects{Slices: []*cluster.EndpointSlice{webSlice("s", 80, ready(1))}})
	if p, gone := table.Changed()[webPort()]; !gone || p != nil {
		t.Errorf("without its Service the port is %v", p)
	}
}

func TestALoserInheritsWhatTheWinnerGivesUp(t *testing.T) {
	table := service.NewTable(service.Self{})
	old, young := webService(), webService()
	old.LoadBalancerIPs, old.Created = addrs("203.0.113.1"), 1
	young.Name, young.ClusterIPs, young.LoadBalancerIPs, young.Created = "young", addrs("10.96.0.11"), addrs("203.0.113.1"), 2
	table.SetService(young.ServiceName, &cluster.ServiceObjects{Service: young})
	table.SetService(old.ServiceName, &cluster.ServiceObjects{Service: old})
	table.Changed()
	problems := table.Problems()
	if len(problems) != 1 || problems[0].Object != "Service/default/young" || !strings.Contains(problems[0].Message, "default/web") {
		t.Errorf("problems %v", problems)
	}
	table.SetService(old.ServiceName, nil)
	changed := table.Changed()
	name := webPort()
	name.Name = "young"
	if p := changed[name]; len(changed) != 2 || p == nil || frontendTexts(p) != "ClusterIP=10.96.0.11:80/TCP LoadBalancer=203.0.113.1:80/TCP" {
		t.Errorf("changed %v", changed)
	}
	if problems := table.Problems(); len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
}

func TestEqualListsAreOneList(t *testing.T) {
	table, svc := service.NewTable(service.Self{Node: "n1"}), webService()
	svc.InternalLocal = true
	objects := func() *cluster.ServiceObjects {
		return &cluster.ServiceObjects{Service: svc, Slices: []*cluster.EndpointSlice{webSlice("s", 80, here(ready(1)), here(ready(2)))}}
	}
	table.SetService(svc.ServiceName, objects())
	p := table.Ports()[webPort()]
	if &p.Cluster[0] != &p.Local[0] {
		t.Error("the local set is a copy of the cluster's")
	}
	table.SetService(svc.ServiceName, objects())
	if table.Ports()[webPort()] != p {
		t.Error("a port that did not change was replaced")
	}
}
