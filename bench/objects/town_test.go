package objects

import (
	"net/http/httptest"
	"testing"

	"github.com/polder-net/polder/bench/apiserver"
)

func TestATownHasWhatItSays(t *testing.T) {
	for _, town := range []Town{
		{Node: "node-1", Pods: 10_000, Namespaces: 1000, Policies: 7500, Local: 110},
		{Node: "node-1", Pods: 1000, Namespaces: 100, Policies: 75},
		{Node: "node-1", Pods: 300, Namespaces: 30, Policies: 225, Local: 7},
	} {
		api := apiserver.New()
		town.Put(api)
		server := httptest.NewServer(api)
		var pods struct{ Items []Pod }
		var policies struct{ Items []Policy }
		var namespaces struct{ Items []apiserver.Meta }
		get(t, server.URL+"/api/v1/pods", &pods)
		get(t, server.URL+"/api/v1/namespaces", &namespaces)
		get(t, server.URL+"/apis/networking.k8s.io/v1/networkpolicies", &policies)
		server.Close()
		if len(pods.Items) != town.Pods || len(policies.Items) != town.Policies || len(namespaces.Items) != town.Namespaces {
			t.Errorf("%+v: %d pods, %d policies, %d namespaces", town, len(pods.Items), len(policies.Items), len(namespaces.Items))
		}
		here, addrs := 0, map[string]bool{}
		for _, p := range pods.Items {
			if addrs[p.Status.IP] = true; p.Spec.Node == town.Node {
				here++
			}
		}
		if here != town.Local || len(addrs) != town.Pods {
			t.Errorf("%+v: %d pods here, %d addresses", town, here, len(addrs))
		}
		for _, p := range policies.Items {
			if len(p.Spec.Types) == 0 {
				t.Errorf("%s isolates nobody", p.Metadata.Name)
			}
		}
	}
}
