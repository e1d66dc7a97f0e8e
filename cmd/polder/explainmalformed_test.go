package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/oracle/cases"
	"github.com/polder-net/polder/internal/watch"
)

// twoNamespaces are pods a/client and b/server, each on a node.
const twoNamespaces = `
{apiVersion: v1, kind: Namespace, metadata: {name: a}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: b}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: a, labels: {app: client}}, spec: {nodeName: n2}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: server, namespace: b, labels: {app: server}}, spec: {nodeName: n1, containers: [{name: c, ports: [{containerPort: 80, name: http}]}]}, status: {podIP: 10.0.0.2}}
---
`

// malformed are specs of policies that cannot be read in full, or that an API server would refuse, and whether
// a/client reaches b/server at port 80 with each.
var malformed = []struct {
	kind, spec string
	allowed    bool
}{
	{"NetworkPolicy", "{podSelector: {}, ingress: [{form: [{podSelector: {}}]}]}", false},
	{"NetworkPolicy", "{podSelector: [], ingress: [{}]}", false},
	{"NetworkPolicy", "{podSelector: {}, ingress: [{ports: [{port: 80, endPort: '9000'}]}]}", false},
	{"NetworkPolicy", "{podSelector: {matchLabels: {app: 1}}, ingress: [{}]}", false},
	{"NetworkPolicy", "{podSelector: {matchLabels: {app: other}}, ingress: [{form: []}]}", true},
	{"NetworkPolicy", "{podSelector: {}, policyTypes: [Egress], ingress: [{form: []}]}", true},
	{"NetworkPolicy", "{podSelector: {}, policyTypes: [Inwards], ingress: [{}], status: {}}", false},
	{"NetworkPolicy", "{podSelector: {}, ingress: [{ports: [{port: http}, {port: a_b}]}]}", true},
	{"NetworkPolicy", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}]}", false},
	{"NetworkPolicy", "5", false},
	{"NetworkPolicy", "null", false},

	{"ClusterNetworkPolicy", "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], prots: [{tcp: {destinationPort: {number: 1}}}]}]}", false},
	{"ClusterNetworkPolicy", "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}], prots: []}]}", false},
	{"ClusterNetworkPolicy", "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: a}}}, ingress: [{action: Accept, from: [], prots: []}]}", true},
	{"ClusterNetworkPolicy", "{tier: Admin, priority: high, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}", false},
	{"ClusterNetworkPolicy", "{tier: Admin, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}", false},
	{"ClusterNetworkPolicy", "{tier: Baseline, priority: 1, subject: {pods: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}", false},
	{"ClusterNetworkPolicy", "{tier: Baseline, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {matchLabels: {no: ne}}}}]}]}", false},
	{"ClusterNetworkPolicy", "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: ['::ffff:10.9.0.0/112']}]}]}", false},
	{"ClusterNetworkPolicy", "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{destinationNamedPort: a_b}]}]}", false},
	{"ClusterNetworkPolicy", "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 7, end: 7}}}}]}]}", false},
}

// accepted are rules of a ClusterNetworkPolicy that would let a/client in, were they sound. Behind them all is denied.
var accepted = []string{
	"{tier: Admin, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}",
	"{tier: Admin, priority: null, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}",
	"{tier: Admin, priority: 0, subject: {pods: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}",
	"{tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {}}]}]}",
	"{tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{pods: {namespaceSelector: {}, podSelector: null}}]}]}",
	"{tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Pass, from: [{pods: {}}]}]}",
	"{tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {start: 80, end: 80}}}}]}]}",
	"{tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {range: {end: 80}}}}]}]}",
	"{tier: Admin, priority: 0, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}], protocols: [{tcp: {}}]}]}",
}

func manifestOf(kind, spec string) string {
	version, namespace := "networking.k8s.io/v1", "b"
	if kind == "ClusterNetworkPolicy" {
		version, namespace = "policy.networking.k8s.io/v1alpha2", ""
	}
	return fmt.Sprintf("{apiVersion: %s, kind: %s, metadata: {name: p, namespace: '%s'}, spec: %s}\n", version, kind, namespace, spec)
}

func TestPoliciesThatCannotBeReadAreExplainedAsAgentsActOnThem(t *testing.T) {
	const denyAll = "---\n{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: z}, " +
		"spec: {tier: Baseline, priority: 9, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}}\n"
	ask := func(manifest, spec string, allowed bool) {
		dir := t.TempDir()
		all := twoNamespaces + manifest
		if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(all), 0o644); err != nil {
			t.Fatal(err)
		}
		bothSay(t, "all.yaml", []byte(all))
		s := runPolder(nil, "explain", "a/client", "b/server:80", "--manifests", dir)
		want := map[bool]int{true: 0, false: statusFailed}[allowed]
		if s.status != want || !strings.Contains(s.stderr, "polder: left out or read in part: ") && !strings.Contains(spec, "null") && !strings.Contains(manifest, "app: other") {
			t.Errorf("%s: status %d, want %d: %s%s", spec, s.status, want, s.stderr, s.stdout)
		}
	}
	for _, tc := range malformed {
		ask(manifestOf(tc.kind, tc.spec), tc.spec, tc.allowed)
	}
	for _, spec := range accepted {
		ask(manifestOf("ClusterNetworkPolicy", spec)+denyAll, spec, false)
	}
}

// bothSay compares what agents would do with what explanations say, of many packets.
func bothSay(t *testing.T, name string, manifests []byte) (asked int) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), manifests, 0o644); err != nil {
		t.Fatal(err)
	}
	o, _, err := watch.ReadObjects(dir)
	if err != nil {
		t.Fatal(err)
	}
	objects := oracleObjects(o)
	model := cases.NewModel(watch.Once(name, manifests))
	for _, p := range packetsBetween(&objects) {
		if different := model.Differs(p, objects.Judge(p)); different != "" {
			t.Fatalf("%+v: %s\n%s", p, different, manifests)
		}
		asked++
	}
	return asked
}

// packetsBetween are packets between all pods, a node and somebody outside.
func packetsBetween(o *oracle.Objects) (all []oracle.Packet) {
	addresses := []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("192.0.2.1")}
	for _, pod := range o.Pods {
		addresses = append(addresses, oracle.PodAddresses(pod)...)
	}
	for _, src := range addresses {
		for _, dst := range addresses {
			if src.Is4() == dst.Is4() {
				for _, port := range []uint16{80, 81} {
					all = append(all, oracle.Packet{Src: src, Dst: dst, Protocol: uint8(cluster.TCP), Port: port})
				}
			}
		}
	}
	return all
}

// Random clusters, with a slip of the pen in some of their policies and namespaces.
func TestSlipsOfThePenAreExplainedAsAgentsActOnThem(t *testing.T) {
	seed := rand.Uint64()
	dice := cases.NewDice(seed)
	asked := 0
	for range 300 {
		var list map[string]any
		if err := json.Unmarshal(cases.Manifests(dice.Cluster()), &list); err != nil {
			t.Fatal(err)
		}
		for _, item := range list["items"].([]any) {
			of := item.(map[string]any)
			if of["kind"] == "Namespace" && dice.IntN(8) == 0 {
				of["spec"] = 5
			}
			if strings.HasSuffix(of["kind"].(string), "Policy") && dice.IntN(2) == 0 {
				of["spec"] = slip(dice.Rand, of["spec"])
			}
		}
		text, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("seed %d", seed)
		asked += bothSay(t, "all.json", text)
	}
	t.Logf("%d packets", asked)
}

// slip spoils one thing in a value.
func slip(r *rand.Rand, v any) any {
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for key := range v {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		if len(keys) == 0 {
			break
		}
		key := keys[r.IntN(len(keys))]
		switch inside := v[key]; r.IntN(8) {
		case 0:
			delete(v, key)
		case 1:
			delete(v, key)
			v[key+"s"] = inside
		case 2:
			v[key] = nil
		default:
			v[key] = slip(r, inside)
		}
		return v
	case []any:
		if len(v) > 0 && r.IntN(8) > 0 {
			i := r.IntN(len(v))
			v[i] = slip(r, v[i])
			return v
		}
	}
	return []any{nil, 5, -1, 70000, "", "a_b", "10.0.0.0/33", "::ffff:10.0.0.0/104", []any{}, map[string]any{}, true}[r.IntN(11)]
}
