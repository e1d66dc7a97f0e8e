package watch

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/polder-net/polder/internal/cluster"
)

// FuzzManifest reads any bytes as a manifest. Whatever they are, what comes out is what the core relies on, twice the
// same, and the good file beside it counts.
func FuzzManifest(f *testing.F) {
	for _, seed := range []string{
		"", "---\n", "...\n---", "%YAML 1.1\n---\na: b\n", node("a", "10.0.0.1", "10.1.0.0/24"),
		node("good", "10.0.0.9", "10.9.0.0/24") + "---\n" + node("b", "fd00::1", "'fd00:1::/64', 10.1.0.3/16"),
		"{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: p}, status: {podIPs: [{ip: 10.0.0.1}, {ip: '::'}]}}]}",
		"{apiVersion: v1, kind: NodeList, items: [{metadata: {name: x}}, 5, null]}", "{apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {a: 1}}}",
		`{"apiVersion":"v1","kind":"Node","metadata":{"name":"a"}}{"apiVersion":"v1"`, "a: &a [*a, *a]\n", "? {a: b}\n: c\n", "\xef\xbb\xbfkind: Node\n", "\x00\xff", "- - - -\n",
		"{apiVersion: v1, kind: Node, metadata: {name: " + strings.Repeat("a", 300) + "}}",
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, json bool) {
		name := "b.yaml"
		if json {
			name = "b.json"
		}
		var snapshots [2]*cluster.Snapshot
		for i := range snapshots {
			c := newContent()
			c.set("a.yaml", []byte(node("good", "10.0.0.9", "10.9.0.0/24")))
			c.set(name, data)
			snapshots[i] = c.snapshot()
		}
		if !reflect.DeepEqual(snapshots[0], snapshots[1]) {
			t.Errorf("read twice:\n%s\n%s", text(snapshots[0]), text(snapshots[1]))
		}
		mustHold(t, snapshots[0])
	})
}

func mustHold(t *testing.T, s *cluster.Snapshot) {
	t.Helper()
	if n, ok := s.Node("good"); !ok || len(n.PodCIDRs) != 1 || n.PodCIDRs[0].String() != "10.9.0.0/24" {
		t.Error("the good node is gone")
	}
	names := map[string]bool{}
	unique := func(kind, namespace, name string) {
		id := objectID(kind, namespace, name)
		if names[id] || len(validation.IsDNS1123Subdomain(name)) > 0 {
			t.Errorf("%s is there twice, or no name", id)
		}
		names[id] = true
	}
	for _, n := range s.Nodes {
		unique("Node", "", n.Name)
		families := map[bool]bool{}
		for _, p := range n.PodCIDRs {
			if !p.IsValid() || p != p.Masked() || families[p.Addr().Is4()] || p.Addr().Is4In6() {
				t.Errorf("pod CIDRs of %s: %v", n.Name, n.PodCIDRs)
			}
			families[p.Addr().Is4()] = true
		}
		for _, a := range n.Addresses {
			if !usable(a) {
				t.Errorf("address of %s: %v", n.Name, a)
			}
		}
	}
	for _, p := range s.Pods {
		unique("Pod", p.Namespace, p.Name)
	}
	for _, n := range s.Namespaces {
		unique("Namespace", "", n.Name)
	}
	for _, p := range s.Problems {
		if p.Object == "" || p.Message == "" || strings.Contains(p.Message, "\n") {
			t.Errorf("problem %q: %q", p.Object, p.Message)
		}
	}
	if !slices.IsSortedFunc(s.Nodes, func(a, b cluster.Node) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("nodes are not sorted")
	}
}
