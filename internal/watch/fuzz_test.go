package watch

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
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
		service("a", "10.96.0.1") + "---\n" + slice("a-1", "a", "10.0.0.1", "::1") + "---\n" + slice("b-1", "b"),
		"{apiVersion: v1, kind: Service, metadata: {name: a, creationTimestamp: '2026-01-01T00:00:00Z'}, spec: {clusterIPs: ['fd00::1', None], externalIPs: [a], loadBalancerSourceRanges: [' 10.0.0.1/8'], ports: [{port: 70000, nodePort: -1, protocol: X}]}}",
		policy("{podSelector: {matchLabels: {a: b}}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/16]}}], ports: [{port: http}]}], egress: [{form: []}]}"),
		policy("{policyTypes: [Egress], egress: [null, {ports: [{port: 1, endPort: 2}], to: [{namespaceSelector: {}}]}]}"), policy("[]"),
		clusterPolicy(admin("{action: Accept, to: [{pods: {podSelector: {}}}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 2}}}}]}")), clusterPolicy("{subject: 5, ingress: {}}"),
		"{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: a}, spec: {cidrs: ['10.0.0.1/8', '::/0', '::ffff:10.0.0.0/104']}}",
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
		one, two := *snapshots[0], *snapshots[1]
		withoutMaps(&one)
		withoutMaps(&two)
		if !reflect.DeepEqual(one, two) || text(snapshots[0]) != text(snapshots[1]) {
			t.Errorf("read twice:\n%s\n%s", text(snapshots[0]), text(snapshots[1]))
		}
		mustHold(t, snapshots[0])
		mustMean(t, name, data)
	})
}

// mustMean checks that the objects that a parser keeps for explanations mean what an agent acts on.
func mustMean(t *testing.T, name string, data []byte) {
	t.Helper()
	p := newParser()
	p.keep = true
	all, _ := p.parse(name, data)
	for _, m := range all {
		if m.value != nil && m.object == nil {
			t.Errorf("%s counts, and there is no object of it", m.id)
		}
		if m.object == nil || m.value == nil {
			continue
		}
		fillIn(m.object)
		_, namespace, _ := identify(m.object)
		switch now, _ := readObject(m.object, namespace); v := now.(type) {
		case *cluster.NetworkPolicy:
			if want := policyText(m.value.(*cluster.NetworkPolicy)); policyText(v) != want {
				t.Errorf("kept is %s, want %s", policyText(v), want)
			}
		case *cluster.ClusterPolicy:
			if want := clusterPolicyText(m.value.(*cluster.ClusterPolicy)); clusterPolicyText(v) != want {
				t.Errorf("kept is %s, want %s", clusterPolicyText(v), want)
			}
		}
	}
}

// withoutMaps leaves out what has parts that are numbered anew each time.
func withoutMaps(s *cluster.Snapshot) {
	s.Services, s.AllPods, s.AllNamespaces, s.NetworkPolicies, s.ClusterPolicies = nil, nil, nil, nil, nil
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
	for name := range s.AllNamespaces.All() {
		unique("Namespace", "", name.Name)
	}
	for name, o := range s.Services.All() {
		if o.Service != nil {
			unique("Service", name.Namespace, name.Name)
		}
		mustServe(t, name, o)
		for _, l := range o.Slices {
			unique("EndpointSlice", name.Namespace, l.Name)
		}
	}
	mustJudge(t, s)
	for _, p := range s.ServiceCIDRs {
		if p != p.Masked() || !usable(p.Addr()) {
			t.Errorf("service CIDR %v", p)
		}
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

// mustServe checks what the core relies on in a Service's objects.
func mustServe(t *testing.T, name cluster.ServiceName, o *cluster.ServiceObjects) {
	t.Helper()
	if v := o.Service; v != nil {
		families := map[bool]bool{}
		for _, a := range v.ClusterIPs {
			if families[a.Is4()] {
				t.Errorf("cluster IPs of %s: %v", name, v.ClusterIPs)
			}
			families[a.Is4()] = true
		}
		for _, a := range slices.Concat(v.ClusterIPs, v.ExternalIPs, v.LoadBalancerIPs) {
			if !usable(a) {
				t.Errorf("address of %s: %v", name, a)
			}
		}
		ports := map[cluster.ServicePort]bool{}
		for _, p := range v.Ports {
			key := cluster.ServicePort{Protocol: p.Protocol, Port: p.Port}
			if p.Port == 0 || p.Protocol.String() == "unknown" || ports[key] {
				t.Errorf("ports of %s: %v", name, v.Ports)
			}
			ports[key] = true
		}
		for _, p := range v.SourceRanges {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
				t.Errorf("source ranges of %s: %v", name, v.SourceRanges)
			}
		}
		if v.ServiceName != name || v.Affinity < 0 || v.Affinity > 86400 {
			t.Errorf("%s: %+v", name, v)
		}
	}
	mustSlice(t, name, o)
}

func mustSlice(t *testing.T, name cluster.ServiceName, o *cluster.ServiceObjects) {
	t.Helper()
	if o.Service == nil && len(o.Slices) == 0 || !slices.IsSortedFunc(o.Slices, func(a, b *cluster.EndpointSlice) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("slices of %s: %v", name, o.Slices)
	}
	for _, l := range o.Slices {
		for _, p := range l.Ports {
			if p.Port == 0 || p.Protocol.String() == "unknown" {
				t.Errorf("ports of %s: %v", l.Name, l.Ports)
			}
		}
		for _, e := range l.Endpoints {
			if !usable(e.Addr) || e.Addr.Is4() != l.IPv4 {
				t.Errorf("endpoint of %s: %v", l.Name, e.Addr)
			}
		}
	}
}

// FuzzService reads Services and slices with any values in their fields, which random bytes seldom have as manifests.
func FuzzService(f *testing.F) {
	f.Add("10.96.0.1", "fd00::1", "10.0.0.0/8", "TCP", int32(80), int32(30080), "10.1.0.1", "IPv4", "z1", uint8(0))
	f.Add("None", "", " ::/0 ", "SCTP", int32(0), int32(-1), "fd00::1", "IPv6", "", uint8(0xff))
	f.Add("::ffff:10.0.0.1", "010.0.0.1", "::ffff:0.0.0.0/96", "tcp", int32(65536), int32(70000), "fe80::1%x", "FQDN", "", uint8(0x55))
	f.Fuzz(func(t *testing.T, ip, other, source, protocol string, port, nodePort int32, address, family, zone string, bits uint8) {
		v := kubeService("ns", "a", ip)
		v.Spec.ClusterIPs = append(v.Spec.ClusterIPs, other)
		v.Spec.ExternalIPs, v.Spec.LoadBalancerSourceRanges = []string{other, ip}, []string{source}
		v.Spec.Ports = append(v.Spec.Ports, corev1.ServicePort{Protocol: corev1.Protocol(protocol), Port: port, NodePort: nodePort})
		v.Spec.HealthCheckNodePort, v.Spec.SessionAffinity = nodePort, corev1.ServiceAffinityClientIP
		v.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &port}}
		v.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: other}}
		l := kubeSlice("ns", "a-1", "a", address, "10.1.0.1", "fd00::1")
		l.AddressType, l.Ports[0].Port, l.Ports[0].Protocol = discoveryv1.AddressType(family), &port, &v.Spec.Ports[1].Protocol
		yes := bits&1 != 0
		l.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: &yes}
		l.Endpoints[1].Hints.ForNodes = []discoveryv1.ForNode{{Name: zone}}
		b := newByService()
		read, problems := readService(v, texts{})
		b.service(nil, read)
		sliced, more := readSlice(l, texts{})
		b.slice(nil, sliced)
		for name, o := range b.take() {
			mustServe(t, name, o)
		}
		if read != nil && len(read.SourceRanges) == 0 {
			t.Errorf("source range %q admits everybody", source)
		}
		for _, p := range append(problems, more...) {
			if p == "" || strings.Contains(p, "\n") {
				t.Errorf("problem %q", p)
			}
		}
	})
}
