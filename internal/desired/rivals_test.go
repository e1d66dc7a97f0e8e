package desired_test

import (
	"net/netip"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
)

// Rules that rewrite destinations are asked about whosesoever they are; only another proxy is a problem.
func TestAnotherProxyOnTheNodeIsAProblemWhileServicesAreServed(t *testing.T) {
	kubeProxy := []cluster.Translator{{Who: cluster.KubeProxy, Where: "nftables table ip kube-proxy"},
		{Who: cluster.KubeProxy, Where: "nftables table ip6 kube-proxy"}}
	for _, c := range []struct {
		name    string
		serves  bool
		others  []cluster.Translator
		asks    bool
		problem string
	}{
		{"nobody else", true, nil, false, ""},
		{"no Services, nobody else", false, nil, true, ""},
		{"no Services, and kube-proxy serves them", false, kubeProxy, true, ""},
		{"another plugin", true, []cluster.Translator{{Who: "portmap", Where: "nftables table ip cni_hostport"}}, true, ""},
		{"kube-proxy", true, kubeProxy, true, "kube-proxy's rules are on this node (nftables table ip kube-proxy, " +
			"nftables table ip6 kube-proxy): both serve Services; stop it and run `polder migrate kube-proxy`"},
	} {
		t.Run(c.name, func(t *testing.T) {
			snap := &cluster.Snapshot{Nodes: []cluster.Node{{Name: "a", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}}}}
			tables, problems := desired.Compile(desired.Options{Services: c.serves}, snap, cluster.Local{Node: "a", Translators: c.others})
			if tables.Config.AskConntrack != c.asks {
				t.Errorf("conntrack is asked: %v", tables.Config.AskConntrack)
			}
			var want []cluster.Problem
			if c.problem != "" {
				want = []cluster.Problem{{Object: "Node/a", Message: c.problem}}
			}
			if len(problems) != len(want) || len(want) > 0 && problems[0] != want[0] {
				t.Errorf("problems are %v, want %v", problems, want)
			}
		})
	}
}
