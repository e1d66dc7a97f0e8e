package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/watch"
)

// serveShop serves the objects of testdata/shop as an API server lists them, and returns a kubeconfig that leads there.
func serveShop(t *testing.T) (kubeconfig string) {
	t.Helper()
	return serve(t, "testdata/shop")
}

// serve serves the objects of a folder.
func serve(t *testing.T, dir string) (kubeconfig string) {
	t.Helper()
	o, _, err := watch.ReadObjects(dir)
	if err != nil {
		t.Fatal(err)
	}
	lists := map[string]any{
		"nodes": o.Nodes, "namespaces": o.Namespaces, "pods": o.Pods, "services": o.Services, "endpointslices": o.Slices,
		"networkpolicies": o.Policies, "clusternetworkpolicies": o.ClusterPolicies,
	}
	kinds := map[string]string{
		"nodes": "NodeList", "namespaces": "NamespaceList", "pods": "PodList", "services": "ServiceList", "endpointslices": "EndpointSliceList",
		"networkpolicies": "NetworkPolicyList", "clusternetworkpolicies": "ClusterNetworkPolicyList",
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resource := path.Base(r.URL.Path)
		version := strings.TrimPrefix(strings.TrimPrefix(path.Dir(r.URL.Path), "/apis/"), "/api/")
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(map[string]any{"apiVersion": version, "kind": kinds[resource], "items": lists[resource]}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: %q}}]}`, s.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig
}

// loopback sees to it that there is one: this program's tests are alone in a network namespace, if they may be.
func loopback() {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		_ = netlink.LinkSetUp(lo)
	}
}

func TestAClustersProblemsAreSaid(t *testing.T) {
	loopback()
	kubeconfig := serve(t, shopWith(t, `
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: names}, spec: {tier: Baseline, priority: 1,
  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}, egress: [{action: Accept, to: [{domainNames: [example.org]}]}]}}
`))
	const want = "polder: left out or read in part: ClusterNetworkPolicy/names: egress rule 1: peer 1: domainNames are not supported: it matches nothing"
	for args, warned := range map[string]bool{"shop/web shop/probe:80": true, "--all": true, "db/postgres-1 db/postgres-0:pg": false} {
		s := runPolder(nil, append(strings.Fields("explain "+args), "--kubeconfig", kubeconfig)...)
		if got := strings.Join(strings.Fields(s.stderr), " "); strings.Contains(got, want) != warned || !warned && got != "" {
			t.Errorf("%s: %s", args, s.stderr)
		}
		s = runPolder(nil, append(strings.Fields("explain -o json "+args), "--kubeconfig", kubeconfig)...)
		if strings.Contains(s.stdout, "domainNames are not supported") != warned || s.stderr != "" {
			t.Errorf("%s: %s%s", args, s.stdout, s.stderr)
		}
	}
}

func TestAClusterIsExplainedAsItsManifestsAre(t *testing.T) {
	loopback()
	kubeconfig := serveShop(t)
	places := regexp.MustCompile(`\s*\([a-z]+\.yaml:\d+\)`)
	for _, args := range []string{"shop/web db/postgres-0:pg", "shop/web svc/db/postgres", "shop/web db/postgres-0 --udp -o json"} {
		live := runPolder(nil, append(strings.Fields("explain "+args), "--kubeconfig", kubeconfig)...)
		folder := runPolder(nil, append(strings.Fields("explain "+args), "--manifests", "testdata/shop")...)
		words := func(s string) string { // lines break elsewhere
			s = regexp.MustCompile(`"where": "[^"]*",`).ReplaceAllString(s, "")
			return strings.Join(strings.Fields(places.ReplaceAllString(s, "")), " ")
		}
		if live.status != folder.status || live.stderr != "" || words(live.stdout) != words(folder.stdout) {
			t.Errorf("%s: status %d, %s%s\nwant status %d, %s", args, live.status, live.stderr, live.stdout, folder.status, folder.stdout)
		}
	}
}
