package policy_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// size is how big a cluster is. One node has some hundred of the pods.
type size struct{ pods, namespaces, policies, clusterPolicies, blocks int }

func sizes() []size {
	return []size{{100, 10, 75, 2, 10}, {100000, 10000, 75000, 100, 0}, {100000, 10000, 75000, 100, 12500}}
}

func (s size) String() string {
	return fmt.Sprintf("pods=%d/blocks=%d", s.pods, s.blocks)
}

// big is what such a cluster says.
type big struct {
	size
	pods          []*cluster.Pod
	namespaces    []*cluster.Namespace
	networkPolicy []*cluster.NetworkPolicy
	clusterPolicy []*cluster.ClusterPolicy
	nodes         []cluster.Node
}

func newBig(s size) *big {
	b := &big{size: s}
	for i := range s.namespaces {
		n := fmt.Sprint("ns-", i)
		b.namespaces = append(b.namespaces, &cluster.Namespace{Name: n, Labels: cluster.MakeLabels(map[string]string{
			"kubernetes.io/metadata.name": n, "team": fmt.Sprint("team-", i%100)})})
	}
	for i := range s.pods {
		b.pods = append(b.pods, s.pod(i))
	}
	for i := range s.policies {
		b.networkPolicy = append(b.networkPolicy, s.policy(i))
	}
	for i := range s.clusterPolicies {
		b.clusterPolicy = append(b.clusterPolicy, &cluster.ClusterPolicy{Name: fmt.Sprint("cnp-", i), Priority: i,
			Namespaces: sel("*"), Pods: sel("*"), Egress: deny(rule(anywhere("app=app-3", fmt.Sprintf("team=team-%d", i)))),
			Ingress: accept(rule(anywhere(fmt.Sprintf("version=v%d", i), "*")))})
	}
	if s.blocks > 0 {
		b.networkPolicy = append(b.networkPolicy, s.blockPolicy())
	}
	for i := range s.pods / 100 {
		b.nodes = append(b.nodes, cluster.Node{Name: fmt.Sprint("node-", i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)})}})
	}
	return b
}

// pod has two addresses. Every hundredth namespace has a pod on this node for each of its own.
func (s size) pod(i int) *cluster.Pod {
	p := &cluster.Pod{Namespace: fmt.Sprint("ns-", i%s.namespaces), Name: fmt.Sprint("pod-", i), Node: fmt.Sprint("node-", 1+i%999),
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}),
			netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})},
		Labels: cluster.MakeLabels(map[string]string{"app": fmt.Sprint("app-", i/s.namespaces%10), "version": fmt.Sprintf("v%d", i%1000),
			"hash": fmt.Sprint(i % 20000), "part-of": "shop"}),
		Ports: []cluster.PodPort{{Name: "http", Protocol: cluster.TCP, Port: uint16(8000 + i%5)}}}
	if i%(max(s.pods/250, 1)) == 0 {
		p.Node = "node-0"
	}
	return p
}

func (s size) policy(i int) *cluster.NetworkPolicy {
	p := &cluster.NetworkPolicy{Name: cluster.Name{Namespace: fmt.Sprint("ns-", i%s.namespaces), Name: fmt.Sprint("policy-", i)}, Subject: sel("*")}
	app := fmt.Sprintf("app=app-%d", i%7)
	switch i / s.namespaces {
	case 0:
		p.Ingress, p.Egress = rules(), rules()
	case 1:
		p.Ingress, p.Egress = rules(rule(own("*"))), rules(rule(own("*")))
	case 2:
		p.Egress = rules(on(rule(anywhere("k8s-app=dns", "kubernetes.io/metadata.name=kube-system")), udp(53), tcp(53, 53)))
	case 3:
		p.Egress = rules(rule(cidr("0.0.0.0/0", "10.0.0.0/8", "192.168.0.0/16")))
	case 4:
		p.Ingress = rules(on(rule(anywhere(app, fmt.Sprintf("team=team-%d", i%100))), tcp(80, 90), tcp(443, 443)))
	case 5:
		p.Egress = rules(on(rule(anywhere(app, fmt.Sprintf("team=team-%d", i%100))), named(cluster.TCP, "http")))
	default:
		p.Subject, p.Ingress = sel(app), rules(on(rule(), named(0, "http")))
	}
	return p
}

func (s size) blockPolicy() *cluster.NetworkPolicy {
	p := s.policy(0)
	p.Name.Name = "blocks"
	p.Egress = rules()
	for i := range s.blocks {
		if i%25 == 0 {
			p.Egress.Rules = append(p.Egress.Rules, on(cluster.PolicyRule{}, tcp(443, 443)))
		}
		r := &p.Egress.Rules[len(p.Egress.Rules)-1]
		b := cidr(fmt.Sprintf("%d.%d.%d.0/24", 20+i>>16, i>>8&255, i&255))
		if i%3 == 0 {
			b.Except = []netip.Prefix{netip.PrefixFrom(b.Block.Addr(), 28)}
		}
		r.Peers = append(r.Peers, b)
	}
	return p
}

func (b *big) load() *policy.Table {
	t := policy.NewTable("node-0")
	for _, ns := range b.namespaces {
		t.SetNamespace(ns.Name, ns)
	}
	for _, p := range b.pods {
		t.SetPod(cluster.Name{Namespace: p.Namespace, Name: p.Name}, p)
	}
	for _, p := range b.networkPolicy {
		t.SetNetworkPolicy(p.Name, p)
	}
	for _, p := range b.clusterPolicy {
		t.SetClusterPolicy(p.Name, p)
	}
	t.SetNodes(b.nodes)
	return t
}

// cpu is the time that this process has had, in ns: what a busy machine does not change.
func cpu() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// heap is how much of it is used by what make returns.
func heap(make func() any) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	kept := make()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(kept)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

func BenchmarkTableFromNothing(b *testing.B) {
	for _, s := range sizes() {
		all := newBig(s)
		b.Run(s.String(), func(b *testing.B) {
			var c policy.Changes
			start, n := cpu(), 0
			for ; b.Loop(); n++ {
				c = all.load().Changes()
			}
			b.ReportMetric(float64(cpu()-start)/1e6/float64(n), "cpu-ms/op")
			b.StopTimer()
			rows := 0
			for _, r := range c.Rulesets {
				rows += len(r.Rows)
			}
			b.ReportMetric(float64(len(c.Subjects)), "subjects")
			b.ReportMetric(float64(len(c.Rulesets)), "rulesets")
			b.ReportMetric(float64(rows), "rows")
			b.ReportMetric(float64(len(c.Addresses)), "addresses")
			b.ReportMetric(float64(len(c.Prefixes)), "prefixes")
			b.ReportMetric(float64(heap(func() any { t := all.load(); t.Changes(); return t }))/1e6, "MB")
		})
	}
}

// What one change costs, and telling what it has changed.
func BenchmarkTableOneChange(b *testing.B) {
	for _, s := range sizes() {
		all := newBig(s)
		t := all.load()
		t.Changes()
		for _, c := range all.changes(t) {
			b.Run(s.String()+"/"+c.name, func(b *testing.B) {
				start, n := cpu(), 0
				for ; b.Loop(); n++ {
					c.do(n%2 == 0)
					t.Changes()
				}
				b.ReportMetric(float64(cpu()-start)/1e3/float64(n), "cpu-us/op")
			})
		}
	}
}

type change struct {
	name string
	do   func(there bool)
}

func (b *big) changes(t *policy.Table) []change {
	remote, local := *b.pods[len(b.pods)/2+1], *b.pods[0]
	pod := func(p *cluster.Pod) func(bool) {
		other := *p
		other.Labels = labelsOf("app=app-3,version=v7")
		return func(there bool) {
			now := p
			if there {
				now = &other
			}
			t.SetPod(cluster.Name{Namespace: p.Namespace, Name: p.Name}, now)
		}
	}
	policies := func(p *cluster.NetworkPolicy) func(bool) {
		p.Name = cluster.Name{Namespace: "ns-0", Name: "more"}
		p.Subject = sel("*")
		return func(there bool) {
			if there {
				t.SetNetworkPolicy(p.Name, p)
			} else {
				t.SetNetworkPolicy(p.Name, nil)
			}
		}
	}
	elsewhere := func(there bool) {
		p := *b.networkPolicy[5]
		t.SetNetworkPolicy(p.Name, &p)
	}
	ingress := func(peer cluster.PolicyPeer) *cluster.NetworkPolicy {
		return &cluster.NetworkPolicy{Ingress: rules(rule(peer))}
	}
	ns := *b.namespaces[0]
	return []change{
		{"a pod of another node", pod(&remote)}, {"a pod of this node", pod(&local)},
		{"a policy of no pod here", elsewhere},
		{"one selector of 100 pods", policies(ingress(anywhere("version=v7", "app!=x,team")))},
		{"one selector of a tenth of all pods", policies(ingress(anywhere("app=app-7", "*")))},
		{"one selector of all pods", policies(ingress(anywhere("*", "team")))},
		{"one block", policies(ingress(cidr("10.0.0.0/24")))},
		{"a namespace", func(there bool) {
			other := ns
			if there {
				other.Labels = labelsOf("team=other")
			}
			t.SetNamespace(ns.Name, &other)
		}},
	}
}
