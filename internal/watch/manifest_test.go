package watch

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/polder-net/polder/internal/cluster"
)

// node writes the manifest of a node.
func node(name, address, cidr string) string {
	return "apiVersion: v1\nkind: Node\nmetadata: {name: " + name + "}\nspec: {podCIDRs: [" + cidr + "]}\n" +
		"status: {addresses: [{type: InternalIP, address: " + address + "}]}\n"
}

func TestManifestsSayWhatTheySay(t *testing.T) {
	for _, tc := range []struct{ name, file, in, want string }{
		{"a node of both families, with what Polder does not read", "a.yaml", `
apiVersion: v1
kind: Node
metadata: {name: w1, labels: {a: b}, annotations: {c: d}}
spec:
  podCIDR: 10.244.1.0/24
  podCIDRs: [10.244.1.0/24, "fd00:244:0:1::/64"]
status:
  addresses:
  - {type: Hostname, address: w1}
  - {type: ExternalIP, address: 203.0.113.1}
  - {type: InternalIP, address: 172.30.0.11}
  - {type: InternalIP, address: "fd30::11"}
  - {type: ExternalIP, address: 172.30.0.11}
  conditions: [{type: Ready, status: "True"}]
`, "node w1 [172.30.0.11 fd30::11 203.0.113.1] [10.244.1.0/24 fd00:244:0:1::/64]\n"},

		{"only the older podCIDR", "a.yaml", "{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDR: 10.0.0.0/24}}",
			"node a [] [10.0.0.0/24]\n"},

		{"several documents, comments, empty ones and both markers", "a.yml", "# first\n---\n" + node("a", "10.0.0.1", "10.1.0.0/24") +
			"---\n# nothing\n---\n\n...\n" + node("b", "10.0.0.2", "10.1.1.0/24") + "--- {apiVersion: v1, kind: Namespace, metadata: {name: ns}}\r\n---\r\n",
			"node a [10.0.0.1] [10.1.0.0/24]\nnode b [10.0.0.2] [10.1.1.0/24]\nnamespace ns map[] terminating=false\n"},

		{"a list as kubectl writes it", "a.yaml", `
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: b, labels: {x: z}}, status: {phase: Terminating}}
- {apiVersion: v1, kind: Pod, metadata: {name: p, uid: u1, labels: {l: v}}, spec: {nodeName: w1, hostNetwork: true, containers: []}, status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}}
`, "pod default/p uid=u1 node=w1 host=true [10.0.0.1 fd00::1] map[l:v]\nnamespace b map[x:z] terminating=true\nnamespace default map[] terminating=false\n"},

		{"a typed list as the API server writes it, in JSON", "a.json",
			`{"apiVersion":"v1","kind":"NodeList","metadata":{},"items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}` + "\n" +
				`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"n"},"status":{"podIP":"10.0.0.9"}}`,
			"node a [] []\nnode b [] []\npod n/p uid= node= host=false [10.0.0.9] map[]\nnamespace n map[] terminating=false\n"},

		{"a pod that has ended holds no address", "a.yaml",
			"{apiVersion: v1, kind: Pod, metadata: {name: p}, status: {phase: Succeeded, podIP: 10.0.0.1}}",
			"pod default/p uid= node= host=false [] map[]\nnamespace default map[] terminating=false\n"},

		{"a field that is not known: the others count", "a.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec: {podCIDRS: [10.0.0.0/24], podCIDR: 10.1.0.0/24}\n",
			"node a [] [10.1.0.0/24]\nproblem Node/a: a.yaml:1: unknown field \"spec.podCIDRS\"\n"},

		{"a field of the wrong type: the object does not count, others do", "a.yaml", "---\napiVersion: v1\nkind: Node\nmetadata: {name: a, labels: {x: 1}}\n---\n" + node("b", "10.0.0.2", "10.1.1.0/24"),
			"node b [10.0.0.2] [10.1.1.0/24]\nproblem Node/a: a.yaml:1: read Node: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string\n"},

		{"kinds that are nobody's, and none", "a.yaml", "{apiVersion: v2, kind: Node, metadata: {name: a}}\n---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: ns}}\n---\n{metadata: {name: x}}\n---\n{kind: 5, apiVersion: v1}\n",
			`problem Deployment/ns/d: a.yaml:2: apiVersion "apps/v1", kind "Deployment" is nothing that Polder reads
problem Node/a: a.yaml:1: apiVersion "v2", kind "Node" is nothing that Polder reads
problem a.yaml: a.yaml:4: apiVersion "", kind "" is nothing that Polder reads
problem a.yaml: a.yaml:6: apiVersion "v1", kind "" is nothing that Polder reads
`},

		{"names that are none", "a.yaml", "{apiVersion: v1, kind: Node, metadata: {name: ../../etc}}\n---\n{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a.b}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: a.b}}\n---\n{apiVersion: v1, kind: Node, metadata: {labels: {}}}\n",
			`problem Namespace/a.b: a.yaml:4: "a.b" is not a DNS-1123 name: lower-case letters, digits, '-' inside
problem Node/../../etc: a.yaml:1: "../../etc" is not a DNS-1123 name: lower-case letters, digits, '-' inside
problem Pod/a.b/p: a.yaml:2: "a.b" is not a DNS-1123 name: lower-case letters, digits, '-' inside
problem a.yaml: a.yaml:6: has no name
`},

		{"addresses that are none", "a.yaml", "{apiVersion: v1, kind: Node, metadata: {name: a}, status: {addresses: [" +
			strings.Join(addresses("010.0.0.1", "10.0.0", "0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "169.254.169.254", "fe80::1%eth0", "::ffff:10.0.0.1", "255.255.255.255", ""), ", ") + "]}}",
			`node a [] []
problem Node/a: a.yaml:1: read InternalIP: "" is not an IP address
problem Node/a: a.yaml:1: read InternalIP: "0.0.0.0" is not an address that a node or a pod can have
problem Node/a: a.yaml:1: read InternalIP: "010.0.0.1" is not an IP address
problem Node/a: a.yaml:1: read InternalIP: "10.0.0" is not an IP address
problem Node/a: a.yaml:1: read InternalIP: "127.0.0.1" is not an address that a node or a pod can have
problem Node/a: a.yaml:1: read InternalIP: "169.254.169.254" is not an address that a node or a pod can have
problem Node/a: a.yaml:1: read InternalIP: "224.0.0.1" is not an address that a node or a pod can have
problem Node/a: a.yaml:1: read InternalIP: "255.255.255.255" is not an address that a node or a pod can have
problem Node/a: a.yaml:1: read InternalIP: "::" is not an address that a node or a pod can have
problem Node/a: a.yaml:1: read InternalIP: "::1" is not an address that a node or a pod can have
problem Node/a: a.yaml:1: read InternalIP: "::ffff:10.0.0.1" is not an address that a node or a pod can have
problem Node/a: a.yaml:1: read InternalIP: "fe80::1%eth0" is not an address that a node or a pod can have
`},

		{"pod CIDRs that are none, twice of a family, or not masked", "a.yaml",
			"{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDRs: [10.0.0.0/024, 10.244.1.7/24, 10.244.2.0/24, '::/0', 'fd00::/64']}}",
			`node a [] [10.244.1.0/24 fd00::/64]
problem Node/a: a.yaml:1: pod CIDR 10.244.1.7/24 has bits beyond its length: write 10.244.1.0/24, which counts
problem Node/a: a.yaml:1: pod CIDR 10.244.2.0/24: there is one of the same family, 10.244.1.0/24, which counts
problem Node/a: a.yaml:1: read pod CIDR: "10.0.0.0/024" is not a CIDR
problem Node/a: a.yaml:1: read pod CIDR: "::/0" is not a CIDR that pods can have addresses of
`},

		{"YAML that does not parse", "a.yaml", node("a", "10.0.0.1", "10.1.0.0/24") + "---\napiVersion: v1\n  kind: Node\n",
			"problem a.yaml: document at line 6: yaml: line 8: mapping values are not allowed in this context\n"},
		{"a key that is there twice", "a.yaml", "kind: Node\nkind: Pod\n",
			"problem a.yaml: document at line 1: yaml: unmarshal errors: line 2: key \"kind\" already set in map\n"},
		{"no object", "a.yaml", "---\n- a\n", "problem a.yaml: line 1: no Kubernetes object but [\"a\"]\n"},
		{"JSON that does not parse", "a.json", "{\n\"a\": 1,\n}\n", "problem a.json: line 3: invalid character '}' looking for beginning of object key string\n"},
		{"JSON that ends too early", "a.json", "{\n\"a\": 1\n", "problem a.json: line 1: unexpected EOF\n"},
		{"a list with more than a list has", "a.yaml", "{apiVersion: v1, kind: List, items: [], extra: 1}",
			"problem a.yaml: a.yaml:1: read List: json: unknown field \"extra\"\n"},
		{"lists in lists without end", "a.yaml", strings.Repeat("{apiVersion: v1, kind: List, items: [", 9) + strings.Repeat("]}", 9),
			"problem a.yaml: a.yaml:1: a list in a list in a list in a list is not read\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newContent()
			c.set(tc.file, []byte(tc.in))
			if diff := cmp.Diff(tc.want, text(c.snapshot())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func addresses(as ...string) []string {
	for i, a := range as {
		as[i] = "{type: InternalIP, address: '" + a + "'}"
	}
	return as
}

func TestTheFirstOfTwoFilesCountsWhateverIsReadFirst(t *testing.T) {
	one, two := node("a", "10.0.0.1", "10.1.0.0/24"), "\n"+node("a", "10.0.0.2", "10.2.0.0/24")
	want := "node a [10.0.0.1] [10.1.0.0/24]\nproblem Node/a: b.yaml:1: there is one of that name at a.yaml:1, which counts\n"
	forth, back := newContent(), newContent()
	forth.set("a.yaml", []byte(one))
	forth.set("b.yaml", []byte(two))
	back.set("b.yaml", []byte(two))
	back.set("a.yaml", []byte(one))
	for _, c := range []*content{forth, back} {
		if got := text(c.snapshot()); got != want {
			t.Errorf("got:\n%swant:\n%s", got, want)
		}
	}
}

func TestAFileThatCannotBeReadCountsAsItLastDid(t *testing.T) {
	good, broken := node("a", "10.0.0.1", "10.1.0.0/24"), "apiVersion: v1\nkind: Node\nmetadata: {na"
	last := "node a [10.0.0.1] [10.1.0.0/24]\n"
	c := newContent()
	set := func(data, want string) {
		t.Helper()
		for range 2 { // reading it again changes nothing
			c.set("a.yaml", []byte(data))
			if got := text(c.snapshot()); !strings.HasPrefix(got, want) || (got == want) != (want == last && data == good) {
				t.Errorf("%q: got:\n%swant:\n%s", data, got, want)
			}
		}
	}
	set(good, last)
	set(broken, last)
	set("", last)
	set(good, last)

	c.set("a.yaml", []byte("# all gone, and meant to be\n"))
	if got := text(c.snapshot()); got != "" {
		t.Errorf("of a file of comments: %s", got)
	}
}

func TestAnObjectThatCannotBeReadCountsAsItLastDid(t *testing.T) {
	c := newContent()
	c.set("a.yaml", []byte(node("a", "10.0.0.1", "10.1.0.0/24")+"---\n"+node("b", "10.0.0.2", "10.2.0.0/24")))
	c.set("a.yaml", []byte("{apiVersion: v1, kind: Node, metadata: {name: a, labels: {x: 1}}}\n---\n"+node("b", "10.0.0.3", "10.2.0.0/24")))
	got := text(c.snapshot())
	if want := "node a [10.0.0.1] [10.1.0.0/24]\nnode b [10.0.0.3] [10.2.0.0/24]\nproblem Node/a: "; !strings.HasPrefix(got, want) {
		t.Errorf("got:\n%swant:\n%s…", got, want)
	}
}

func TestTheOrderOfObjectsDoesNotMatter(t *testing.T) {
	docs := []string{
		node("a", "10.0.0.1", "10.1.0.0/24"), node("b", "10.0.0.2", "10.1.1.0/24"), node("c", "10.0.0.3", "10.1.2.0/24"),
		"{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: z}}\n", "{apiVersion: v1, kind: Pod, metadata: {name: z, namespace: a}}\n",
		"{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: a}}\n", "{apiVersion: v1, kind: Namespace, metadata: {name: z}}\n",
		"{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n",
	}
	ordered := newContent()
	ordered.set("a.yaml", []byte(strings.Join(docs, "---\n")))
	want := ordered.snapshot()
	if !slices.IsSortedFunc(want.Pods, func(a, b cluster.Pod) int { return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name) }) {
		t.Errorf("pods are not sorted:\n%s", text(want))
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		r.Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
		at := r.IntN(len(docs))
		c := newContent()
		c.set("b.yaml", []byte(strings.Join(docs[at:], "---\n")))
		c.set("a.yaml", []byte(strings.Join(docs[:at], "---\n")))
		if got := c.snapshot(); text(got) != text(want) {
			t.Fatalf("seed %d: got:\n%swant:\n%s", seed, text(got), text(want))
		}
	}
}
