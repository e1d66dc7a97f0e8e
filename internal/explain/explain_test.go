package explain

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// street is a cluster of two nodes with a pod each, a host-network pod, and a Service that is there in every way.
func street(change func(*cluster.Service)) *Cluster {
	pod := func(name, node, ip string, ports ...corev1.ContainerPort) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
			Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Ports: ports}}},
			Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: ip}}},
		}
	}
	host := pod("host", "node-2", "")
	host.Spec.HostNetwork, host.Status.PodIPs = true, nil
	nodes := []cluster.Node{
		{Name: "node-1", Addresses: []netip.Addr{addr("172.18.0.1")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}},
		{Name: "node-2", Addresses: []netip.Addr{addr("172.18.0.2"), addr("203.0.113.2")}, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/24")}},
	}
	o := oracle.Objects{
		Pods: []*corev1.Pod{
			pod("near", "node-1", "10.1.0.2", corev1.ContainerPort{Name: "http", ContainerPort: 8080, HostPort: 9090}, corev1.ContainerPort{Name: "http", ContainerPort: 8081}),
			pod("far", "node-2", "10.2.0.2", corev1.ContainerPort{ContainerPort: 8080}), host, pod("lost", "node-9", "10.9.0.2"),
		},
	}
	for _, n := range nodes {
		raw := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
		for _, a := range n.Addresses {
			raw.Status.Addresses = append(raw.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
		}
		o.Nodes = append(o.Nodes, raw)
	}
	s := &cluster.Service{
		ServiceName: cluster.ServiceName{Namespace: "ns", Name: "web"}, ClusterIPs: []netip.Addr{addr("10.96.0.1")},
		LoadBalancerIPs: []netip.Addr{addr("192.0.2.10")}, Ports: []cluster.ServicePort{{Protocol: cluster.TCP, Port: 80, NodePort: 30080}},
	}
	change(s)
	slice := &cluster.EndpointSlice{Name: "web", IPv4: true, Ports: []cluster.EndpointPort{{Protocol: cluster.TCP, Port: 8080}},
		Endpoints: []cluster.Endpoint{{Addr: addr("10.2.0.2"), Node: "node-2", Ready: true}}}
	return New(o, nodes, []*cluster.ServiceObjects{{Service: s, Slices: []*cluster.EndpointSlice{slice}}}, nil)
}

func TestAnAnswerFollowsServices(t *testing.T) {
	asIs := func(*cluster.Service) {}
	internal := func(s *cluster.Service) { s.InternalLocal = true }
	external := func(s *cluster.Service) { s.ExternalLocal = true }
	for _, c := range []struct {
		change   func(*cluster.Service)
		from, to string
		port     string
		want     string // the backends, the refusals and the verdict
	}{
		{asIs, "ns/near", "svc/ns/web", "", "[10.2.0.2:8080] [] allowed"},
		{internal, "ns/near", "svc/ns/web", "80", "[] [dropped at node-1: no endpoint there, and the policy is Local] dropped at node-1: no endpoint there, and the policy is Local"},
		{internal, "node/node-2", "svc/ns/web", "80", "[10.2.0.2:8080] [] allowed"},
		{external, "ns/near", "192.0.2.10", "80", "[10.2.0.2:8080] [] allowed"},
		{external, "198.51.100.1", "192.0.2.10", "80", "[10.2.0.2:8080] [dropped at node-1: no endpoint there, and the policy is Local] allowed for some packets only: dropped at node-1: no endpoint there, and the policy is Local"},
		{external, "198.51.100.1", "node/node-1", "30080", "[] [dropped at node-1: no endpoint there, and the policy is Local] dropped at node-1: no endpoint there, and the policy is Local"},
		{external, "198.51.100.1", "203.0.113.2", "30080", "[10.2.0.2:8080] [] allowed"},
		{external, "ns/far", "node/node-1", "30080", "[] [dropped at node-1: no endpoint there, and the policy is Local] dropped at node-1: no endpoint there, and the policy is Local"},
		{external, "ns/near", "node/node-1", "30080", "[10.2.0.2:8080] [] allowed"},
		{asIs, "ns/far", "node/node-1", "30080", "[10.2.0.2:8080] [] allowed"},
		{asIs, "ns/near", "10.96.0.1", "81", "[] [refused: it has no port 81/TCP] refused: it has no port 81/TCP"},
	} {
		a, err := street(c.change).Ask(Question{From: c.from, To: c.to, Port: c.port, Protocol: cluster.TCP})
		if err != nil || a.Service == nil {
			t.Errorf("%s to %s: %v, %+v", c.from, c.to, err, a)
			continue
		}
		var backends []netip.AddrPort
		for _, b := range a.Service.Backends {
			backends = append(backends, b.Address)
		}
		if got := fmt.Sprint(backends, a.Service.Refusals, " ", a.Verdict); got != c.want {
			t.Errorf("%s to %s: %s, want %s", c.from, c.to, got, c.want)
		}
	}
}

func TestAnAnswerFollowsHostPorts(t *testing.T) {
	a, err := street(func(*cluster.Service) {}).Ask(Question{From: "198.51.100.1", To: "node/node-1", Port: "9090", Protocol: cluster.TCP})
	if err != nil || len(a.Ways) != 1 || a.Ways[0].Pairs[0].To.String() != "10.1.0.2:8080" || !a.Allowed {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestAnAnswerSaysTheWay(t *testing.T) {
	c := street(func(*cluster.Service) {})
	for _, q := range []struct{ from, to, want string }{
		{"ns/near", "ns/near", "back to the sender itself"},
		{"ns/near", "node/node-1", "to its own node, node-1"},
		{"ns/host", "ns/far", "on the same node, node-2"},
		{"ns/near", "ns/far", "from node-1 to node-2: natively if they are neighbours, else by the tunnel"},
		{"ns/near", "ns/host", "from node-1 to node-2: natively if they are neighbours, else by the tunnel"},
		{"ns/host", "node/node-1", "from node-2 to node-1, as the node's own routes lead"},
		{"ns/near", "198.51.100.1", "out of the cluster, masqueraded as 172.18.0.1 (node-1)"},
		{"ns/host", "198.51.100.1", "out of the cluster from node-2"},
		{"ns/near", "10.2.0.77", "to node-2, where no pod has the address: unreachable"},
		{"198.51.100.1", "ns/near", "from outside the cluster to node-1"},
		{"10.2.0.77", "ns/near", "from node-2, where no pod has the address: nobody sends from it"},
		{"198.51.100.1", "198.51.100.2", "outside the cluster from end to end"},
		{"ns/lost", "ns/near", `from node "node-9", of which there is no object`},
		{"ns/near", "ns/lost", `to node "node-9", of which there is no object`},
	} {
		a, err := c.Ask(Question{From: q.from, To: q.to, Port: "1", Protocol: cluster.TCP})
		if err != nil || !slices.Equal(a.Ways[0].Routes, []string{q.want}) {
			t.Errorf("%s to %s: %v, %+v, want %s", q.from, q.to, err, a.Ways, q.want)
		}
	}
}

func TestANameOfSeveralPortsIsAskedBack(t *testing.T) {
	_, err := street(func(*cluster.Service) {}).Ask(Question{From: "ns/far", To: "ns/near", Port: "http", Protocol: cluster.TCP})
	if err == nil || err.Error() != "pod ns/near has several TCP ports of the name http: say a number" {
		t.Error(err)
	}
}

// Whatever is asked for, all pairs say of a pair of pods what the answer about it says.
func TestAllPairsSayWhatEachAnswerSays(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	c := street(func(*cluster.Service) {})
	for range 100 {
		c.objects.NetworkPolicies = randomPolicies(random)
		for cell, ruling := range c.Pairs() {
			a, err := c.Ask(Question{From: cell.From, To: cell.To, Port: fmt.Sprint(cell.Port), Protocol: cell.Protocol})
			if err != nil || a.Allowed != ruling.Allowed || !slices.Equal(a.Ways[0].Because(), ruling.Because) {
				t.Fatalf("seed %d: %+v: %+v, but the answer is %+v, %v", seed, cell, ruling, a, err)
			}
		}
	}
}

func randomPolicies(random *rand.Rand) (all []*networkingv1.NetworkPolicy) {
	for i := range random.IntN(3) {
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint(i)}}
		np.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}[random.IntN(2):]
		peer := networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("10.%d.0.0/16", random.IntN(3))}}
		if random.IntN(2) == 0 {
			np.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}}}
		}
		if random.IntN(2) == 0 {
			np.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{peer}}}
		}
		all = append(all, np)
	}
	return all
}

// No text makes Ask fail but by an error of one line.
func FuzzAsk(f *testing.F) {
	for _, s := range []string{"ns/near", "node/node-1", "svc/ns/web", "10.96.0.1", "//", "::1", "svc//", "a/b/c/d", "\n"} {
		f.Add(s, s, "80", uint8(6))
	}
	c := street(func(*cluster.Service) {})
	f.Fuzz(func(t *testing.T, from, to, port string, protocol uint8) {
		a, err := c.Ask(Question{From: from, To: to, Port: port, Protocol: cluster.Protocol(protocol)})
		if err == nil && a.Verdict == "" || err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Errorf("%+v, %v", a, err)
		}
	})
}
