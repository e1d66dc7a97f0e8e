package main

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/explain"
)

// village is what the folders have in common: two nodes, and pods that declare one port, several, and none.
const village = `
{apiVersion: v1, kind: List, items: [
{apiVersion: v1, kind: Node, metadata: {name: node-1}, status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}},
{apiVersion: v1, kind: Node, metadata: {name: node-2}, status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}},
{apiVersion: v1, kind: Namespace, metadata: {name: a}},
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: a, labels: {app: db}},
 spec: {nodeName: node-1, containers: [{name: c, image: i, ports: [{name: pg, containerPort: 5432}]}]}, status: {podIPs: [{ip: 10.1.0.2}]}},
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: a, labels: {app: web}},
 spec: {nodeName: node-2, containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.2.0.2}]}}
]}
---
`

// policyOf writes a NetworkPolicy of a pod.
func policyOf(app, spec string) string {
	return `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: a}, ` +
		`spec: {podSelector: {matchLabels: {app: ` + app + `}}, ` + spec + `}}`
}

func TestDifferencesThatPoliciesDoNotNameAreTold(t *testing.T) {
	const cluster = `{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: nodes}, ` +
		`spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {}}]}]}}`
	egress := func(rules string) string { return policyOf("web", "policyTypes: [Egress], egress: ["+rules+"]") }
	ingress := func(rules string) string { return policyOf("db", "ingress: ["+rules+"]") }
	for _, c := range []struct{ name, old, now, want string }{
		{"all ports outside become one", egress(`{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 192.168.0.0/16]}}]}`),
			egress(`{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 192.168.0.0/16]}}], ports: [{port: 443}]}`),
			"- denied a/web to all IPv4 outside but 10.0.0.0/8 and 192.168.0.0/16: all TCP but 443, all UDP, all SCTP, ICMP"},
		{"ports that nobody declares", "", ingress(`{ports: [{port: 5432}]}`),
			"- denied a/web, node/node-2, all outside to a/db: all TCP but 5432, all UDP, all SCTP, ICMP"},
		{"a block that begins with its exception", egress(`{to: [{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.0/28]}}]}`), egress(""),
			"- denied a/web to 203.0.113.0/24 but 203.0.113.0/28: everything"},
		{"the middle of a range", ingress(`{from: [{podSelector: {}}], ports: [{port: 2000, endPort: 2999}]}`),
			ingress(`{from: [{podSelector: {}}], ports: [{port: 2000}, {port: 2999}]}`), "- denied a/web to a/db: 2001-2998/TCP"},
		{"nodes as peers", "", cluster, "- denied a/db, a/web to node/node-1, node/node-2: everything"},
		{"a node's address", ingress(`{from: [{ipBlock: {cidr: 192.168.0.2/32}}]}`), ingress(""), "- denied node/node-2 to a/db: everything"},
		{"protocols that nobody names", ingress(`{ports: [{protocol: TCP}]}`), ingress(`{}`),
			"+ allowed a/web, node/node-2, all outside to a/db: all UDP, all SCTP, ICMP"},
		{"a named port", ingress(`{ports: [{port: pg}]}`), ingress(`{ports: [{port: 5433}]}`),
			"- denied a/web, node/node-2, all outside to a/db: 5432/TCP\n+ allowed a/web, node/node-2, all outside to a/db: 5433/TCP"},
		{"another way to say the same", ingress(`{ports: [{port: pg}]}`), ingress(`{ports: [{port: 5432, endPort: 5432}]}`), "nothing changes"},
		{"halves of everything", egress(`{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}`),
			egress(`{to: [{ipBlock: {cidr: 0.0.0.0/1}}, {ipBlock: {cidr: 128.0.0.0/1}}]}`), "nothing changes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var dirs []string
			for _, policies := range []string{c.old, c.now} {
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(village+policies), 0o644); err != nil {
					t.Fatal(err)
				}
				dirs = append(dirs, dir)
			}
			s := runPolder(nil, "explain", "--diff", dirs[0], dirs[1])
			status := statusFailed
			if c.want == "nothing changes" {
				status = 0
			}
			if got := changesBetween(t, dirs[0], dirs[1]); got != c.want || s.status != status || s.stderr != "" {
				t.Errorf("%s\nwant %s\nstatus %d, %s%s", got, c.want, s.status, s.stdout, s.stderr)
			}
		})
	}
}

// changesBetween are the lines that say what changes, without reasons and as long as they are.
func changesBetween(t *testing.T, oldFolder, newFolder string) string {
	t.Helper()
	old, err := readFolder(oldFolder)
	if err != nil {
		t.Fatal(err)
	}
	now, err := readFolder(newFolder)
	if err != nil {
		t.Fatal(err)
	}
	d := explain.Diff(old.Cluster, now.Cluster)
	lines := []string{}
	for _, g := range groupChanges(d) {
		lines = append(lines, g.sign()+" "+g.text(d))
	}
	return cmp.Or(strings.Join(lines, "\n"), "nothing changes")
}
