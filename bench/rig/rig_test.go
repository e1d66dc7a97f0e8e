package rig

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

func TestTheProxyTableLoadsWithAllServices(t *testing.T) {
	testnet.RequireRoot(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	w, err := Routed(Options{Nodes: 1, Proxy: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	err = In(w.Nodes[0].NS, func() error {
		out, err := exec.Command("nft", "list", "map", "ip", "kube-proxy", "service-ips").Output()
		if n := strings.Count(string(out), "goto service-"); n != Services {
			t.Errorf("%d services in the table, want %d", n, Services)
		}
		if _, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_max"); err != nil {
			t.Error("connections are not tracked")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheProxyTableGrowsWithServicesAndBackends(t *testing.T) {
	table := proxyTable(2, 3)
	for part, want := range map[string]int{"numgen random": 2, "chain endpoint-": 6, "dnat to": 6, "tcp . 80 : goto": 2} {
		if got := strings.Count(table, part); got != want {
			t.Errorf("%q occurs %d times, want %d", part, got, want)
		}
	}
	seen := map[string]bool{}
	for _, line := range strings.Split(proxyTable(Services, Backends), "\n") {
		if _, backend, ok := strings.Cut(line, "dnat to "); ok {
			if seen[backend] {
				t.Fatalf("backend %s has two endpoints", backend)
			}
			seen[backend] = true
		}
	}
	if len(seen) != Services*Backends {
		t.Errorf("%d backends, want %d", len(seen), Services*Backends)
	}
}
