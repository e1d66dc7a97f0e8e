package rig

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestAPlanSaysWhatIsWrongWithIt(t *testing.T) {
	good := Plan{Nodes: 2, Family: "dual", Proxy: "kube-proxy", Network: "polder", Sockets: "on", Policies: "on"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, spoil := range []func(*Plan){
		func(p *Plan) { p.Nodes = 0 }, func(p *Plan) { p.Family = "ipv5" }, func(p *Plan) { p.Proxy = "" }, func(p *Plan) { p.Network = "bridge" },
		func(p *Plan) { p.Network, p.Sockets = "ptp", "off" }, func(p *Plan) { p.Policies = "some" },
	} {
		bad := good
		spoil(&bad)
		if bad.Check() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func TestAFamilyDecidesTheAddresses(t *testing.T) {
	for family, want := range map[string]struct {
		url  string
		node []string
		dns  string
	}{
		"dual": {"https://172.30.0.1:6443", []string{"172.30.0.12", "fd30::12"}, "10.96.0.10"},
		"ipv4": {"https://172.30.0.1:6443", []string{"172.30.0.12"}, "10.96.0.10"},
		"ipv6": {"https://[fd30::1]:6443", []string{"fd30::12"}, "fd00:96::a"},
	} {
		plan := Plan{Nodes: 2, Family: family}
		if got := plan.APIServerURL(); got != want.url {
			t.Errorf("%s: API server at %s, want %s", family, got, want.url)
		}
		if got := plan.NodeAddresses(2); !reflect.DeepEqual(got, want.node) {
			t.Errorf("%s: node at %v, want %v", family, got, want.node)
		}
		if got := plan.DNSAddress(); got != want.dns {
			t.Errorf("%s: name server at %s, want %s", family, got, want.dns)
		}
	}
}

func TestPodCIDRsComeInTheOrderOfTheNodes(t *testing.T) {
	plan := Plan{Nodes: 2, Family: "ipv4"}
	const nodes = `{"items": [
		{"metadata": {"name": "node2"}, "spec": {"podCIDRs": ["10.244.0.0/24"]}},
		{"metadata": {"name": "node1"}, "spec": {"podCIDRs": ["10.244.1.0/24"]}}]}`
	got, err := parseNodeCIDRs([]byte(nodes), plan)
	if want := [][]string{{"10.244.1.0/24"}, {"10.244.0.0/24"}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	plan.Nodes = 3
	if _, err := parseNodeCIDRs([]byte(nodes), plan); err == nil {
		t.Error("a node without pod CIDRs is accepted")
	}
}

func TestTheBaselinePluginListHasARangeAndARouteForEachFamily(t *testing.T) {
	content, err := pointToPoint([]string{"10.244.1.0/24", "fd00:244:0:1::/64"}, true)
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Plugins []struct {
			Type string
			IPAM struct {
				Ranges [][]struct{ Subnet string }
				Routes []struct{ Dst string }
			}
		}
	}
	if err := json.Unmarshal(content, &list); err != nil {
		t.Fatal(err)
	}
	ipam := list.Plugins[0].IPAM
	if len(ipam.Ranges) != 2 || ipam.Ranges[1][0].Subnet != "fd00:244:0:1::/64" || ipam.Routes[0].Dst != "0.0.0.0/0" || ipam.Routes[1].Dst != "::/0" {
		t.Errorf("%s", content)
	}
}

func TestATitleSaysWhatPolderIsThereFor(t *testing.T) {
	for _, c := range []struct {
		network, proxy, policies, want string
		polder                         bool
	}{
		{"polder", "kube-proxy", "on", "2 nodes, dual", true},
		{"polder", "kube-proxy", "", "2 nodes, dual", true},
		{"polder", "none", "off", "2 nodes, dual, no kube-proxy, no policies", true},
		{"ptp", "kube-proxy", "off", "2 nodes, dual, baseline ptp", false},
		{"ptp", "kube-proxy", "on", "2 nodes, dual, Polder's policies, pods by ptp", true},
		{"ptp", "none", "on", "2 nodes, dual, no kube-proxy but Polder's Services, pods by ptp", true},
	} {
		p := Plan{Nodes: 2, Family: "dual", Network: c.network, Proxy: c.proxy, Policies: c.policies, Sockets: "on"}
		if got := p.Title(); got != c.want || p.HasPolder() != c.polder {
			t.Errorf("%+v: %q, %v", p, got, p.HasPolder())
		}
	}
}
