package service_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/polder-net/polder/internal/scenario"
	"github.com/polder-net/polder/internal/service"
)

func TestScenariosHaveTheirServices(t *testing.T) {
	paths, err := filepath.Glob("../../testdata/scenarios/services/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			s, err := scenario.Read(path)
			if err != nil {
				t.Fatal(err)
			}
			got := run(s)
			if *update {
				if err := os.WriteFile(path, s.RewriteServices(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(s.WantServices, got); diff != "" {
				t.Errorf("services differ (-want +got):\n%s", diff)
			}
		})
	}
}

func run(s *scenario.Scenario) string {
	self := selfOf(s)
	table := service.NewTable(self)
	var excluded []service.Excluded
	for _, name := range s.Snapshot.Services.ChangedSince(nil) { // all, sorted
		table.SetService(name, s.Snapshot.Services.Get(name))
		excluded = append(excluded, service.LeftOut(self, s.Snapshot.Services.Get(name))...)
	}
	node, _ := s.Snapshot.Node(s.Local.Node)
	ports, unopened := service.PodPorts(s.Local.Pods, node.Addresses, nil)
	table.SetPodPorts(ports)
	return scenario.RenderServices(table.Ports(), excluded, append(table.Problems(), unopened...))
}

func selfOf(s *scenario.Scenario) service.Self {
	node, _ := s.Snapshot.Node(s.Local.Node)
	self := service.Self{Node: s.Local.Node, Zone: node.Zone, ExternalIPs: s.ExternalIPs, Reserved: map[netip.Addr]string{}}
	for _, n := range s.Snapshot.Nodes {
		for _, a := range n.Addresses {
			self.Reserved[a] = "Node/" + n.Name
		}
	}
	for _, p := range s.Local.Pods {
		for _, a := range p.Addresses {
			self.Reserved[a] = "Pod/" + p.Namespace + "/" + p.Name
		}
	}
	return self
}
