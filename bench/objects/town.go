package objects

import (
	"fmt"
	"net/netip"

	"github.com/polder-net/polder/bench/apiserver"
)

// Town is a cluster of many pods, namespaces and policies. It is for the agent of one node, Node, which has some of the
// pods; the other nodes have the same number each.
type Town struct {
	Node                       string
	Pods, Namespaces, Policies int
	Local                      int // of the pods, those of Node
}

// Put tells an API server of everything but nodes.
func (t Town) Put(s *apiserver.Server) {
	for i := range t.Namespaces {
		s.Put(apiserver.Namespaces, t.namespace(i))
	}
	for i := range t.Pods {
		s.Put(apiserver.Pods, t.pod(i))
	}
	for i := range t.Policies {
		s.Put(apiserver.NetworkPolicies, t.policy(i))
	}
}

func (t Town) namespace(i int) *apiserver.Meta {
	m := apiserver.NewMeta("v1", "Namespace", "", fmt.Sprint("ns-", i))
	m.Metadata.Labels = map[string]string{"kubernetes.io/metadata.name": m.Metadata.Name, "team": fmt.Sprint("team-", i%100)}
	return &m
}

// pod is one of ten apps of its namespace. The pods of Node are spread over the namespaces.
func (t Town) pod(i int) *Pod {
	node := fmt.Sprint("node-", 2+i%max(1, t.Pods/max(1, t.Local)-1))
	if every := t.Pods / max(1, t.Local); i%every == 0 && i/every < t.Local {
		node = t.Node
	}
	return NewPod(fmt.Sprint("ns-", i%t.Namespaces), fmt.Sprint("pod-", i), node, map[string]string{
		"app": fmt.Sprint("app-", i/t.Namespaces%10), "version": fmt.Sprint("v", i%1000), "pod-template-hash": fmt.Sprint(i % 20000),
	}, nth([4]byte{10, 0, 0, 0}, i))
}

// policy is one of the kinds that people write; each namespace has one after the other.
func (t Town) policy(i int) *Policy {
	p := NewPolicy(fmt.Sprint("ns-", i%t.Namespaces), fmt.Sprint("policy-", i))
	app, team := map[string]string{"app": fmt.Sprint("app-", i%7)}, map[string]string{"team": fmt.Sprint("team-", i%100)}
	switch i / t.Namespaces {
	case 0:
		p.Isolate(true, true)
	case 1:
		p.LetIn(Peer{Pods: &Selector{}}).LetOut(Peer{Pods: &Selector{}})
	case 2:
		p.LetOut(Peer{Pods: &Selector{map[string]string{"k8s-app": "dns"}}, Namespaces: &Selector{map[string]string{"kubernetes.io/metadata.name": "kube-system"}}},
			Port{Protocol: "UDP", Port: 53}, Port{Protocol: "TCP", Port: 53})
	case 3:
		p.LetOut(Peer{Block: &Block{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8", "192.168.0.0/16"}}})
	case 4:
		p.LetIn(Peer{Pods: &Selector{app}, Namespaces: &Selector{team}}, Port{Protocol: "TCP", Port: 80, End: 90}, Port{Protocol: "TCP", Port: 443})
	case 5:
		p.LetOut(Peer{Pods: &Selector{app}, Namespaces: &Selector{team}}, Port{Protocol: "TCP", Port: 8080})
	default:
		p.Spec.Subject = Selector{app}
		p.LetIn(Peer{Pods: &Selector{}, Namespaces: &Selector{team}}, Port{Protocol: "TCP", Port: 8080})
	}
	return p
}

// PodAddr is that of a pod.
func (t Town) PodAddr(i int) netip.Addr { return nth([4]byte{10, 0, 0, 0}, i) }
