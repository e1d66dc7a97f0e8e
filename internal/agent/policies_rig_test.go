package agent

import (
	"net/netip"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/route"
)

// town is a cluster of one node, whose objects a test changes.
type town struct {
	*cluster.Snapshot
}

func judged(c *Config)    { c.Options.Policies = true }
func chainedTo(c *Config) { c.Options.Policies, c.Options.Routing = true, route.ModeOff }

// newTown has the namespace default, and nothing in it.
func newTown(podCIDRs ...string) town {
	t := town{oneNode(podCIDRs...)}
	return t.namespace("default", false)
}

func (t town) with(change func(*cluster.Snapshot)) town {
	next := *t.Snapshot
	change(&next)
	return town{&next}
}

func (t town) namespace(name string, terminating bool) town {
	return t.with(func(s *cluster.Snapshot) {
		s.AllNamespaces = s.AllNamespaces.With(map[cluster.Name]*cluster.Namespace{{Name: name}: {Name: name, Terminating: terminating,
			Labels: cluster.MakeLabels(map[string]string{"kubernetes.io/metadata.name": name})}})
	})
}

// pod is one of this node, with a label app of its own name.
func (t town) pod(name string, addrs ...string) town {
	p := cluster.Pod{Namespace: "default", Name: name, UID: name, Node: "node-1", Labels: cluster.MakeLabels(map[string]string{"app": name})}
	for _, a := range addrs {
		p.Addresses = append(p.Addresses, netip.MustParseAddr(a))
	}
	return t.with(func(s *cluster.Snapshot) {
		s.AllPods = s.AllPods.With(map[cluster.Name]*cluster.Pod{{Namespace: "default", Name: name}: &p})
		s.Pods = append(s.Pods[:len(s.Pods):len(s.Pods)], p)
	})
}

func (t town) withoutPod(name string) town {
	return t.with(func(s *cluster.Snapshot) {
		s.AllPods = s.AllPods.With(map[cluster.Name]*cluster.Pod{{Namespace: "default", Name: name}: nil})
	})
}

// isolate has a policy let in to the pods of one app what those of another send to port 80; nothing comes from an empty one.
func (t town) isolate(app, from string) town {
	p := &cluster.NetworkPolicy{Name: cluster.Name{Namespace: "default", Name: "to-" + app}, Ingress: &cluster.PolicyRules{},
		Subject: labels.SelectorFromSet(labels.Set{"app": app})}
	if from != "" {
		p.Ingress.Rules = []cluster.PolicyRule{{Peers: []cluster.PolicyPeer{{Pods: labels.SelectorFromSet(labels.Set{"app": from})}},
			Ports: []cluster.PolicyPort{{Protocol: cluster.TCP, First: 80, Last: 80}}}}
	}
	return t.with(func(s *cluster.Snapshot) {
		s.NetworkPolicies = s.NetworkPolicies.With(map[cluster.Name]*cluster.NetworkPolicy{p.Name: p})
	})
}

// admit has a policy let in to the pods of one app what comes from a block.
func (t town) admit(app, block string) town {
	p := &cluster.NetworkPolicy{Name: cluster.Name{Namespace: "default", Name: "into-" + app}, Subject: labels.SelectorFromSet(labels.Set{"app": app}),
		Ingress: &cluster.PolicyRules{Rules: []cluster.PolicyRule{{Peers: []cluster.PolicyPeer{{Block: netip.MustParsePrefix(block)}}}}}}
	return t.with(func(s *cluster.Snapshot) {
		s.NetworkPolicies = s.NetworkPolicies.With(map[cluster.Name]*cluster.NetworkPolicy{p.Name: p})
	})
}

func (t town) release(app string) town {
	return t.with(func(s *cluster.Snapshot) {
		s.NetworkPolicies = s.NetworkPolicies.With(map[cluster.Name]*cluster.NetworkPolicy{{Namespace: "default", Name: "to-" + app}: nil})
	})
}

// endpoint reads an address's row back from the kernel.
func (n *node) endpoint(addr netip.Addr) (e route.Endpoint, ok bool) {
	n.t.Helper()
	n.withDatapath(func(d *datapath.Datapath) {
		var err error
		if e, ok, err = d.Endpoint(addr); err != nil {
			n.t.Fatal(err)
		}
	})
	return e, ok
}

// states are those of a pod, as the agent reports them.
func (n *node) states(name string) api.PodPolicies {
	n.t.Helper()
	for _, p := range n.report().Pods {
		if p.Name == name && p.Policies != nil {
			return *p.Policies
		}
	}
	return api.PodPolicies{}
}

func isIsolated(id uint64) bool {
	return policy.ID(id) != policy.Open && policy.ID(id) != policy.Closed
}

func first(r api.Response) netip.Addr { return r.Addresses[0].Prefix.Addr() }

func podName(namespace, name string) cluster.Name {
	return cluster.Name{Namespace: namespace, Name: name}
}

// localPod is one that has just come.
func localPod(name string) cluster.LocalPod {
	return cluster.LocalPod{Link: "pdr-" + name, Index: 7, Up: true, Namespace: "default", Name: name,
		Ingress: uint64(policy.Closed), Egress: uint64(policy.Closed)}
}

func podsOf(list ...cluster.LocalPod) map[string]cluster.LocalPod {
	pods := map[string]cluster.LocalPod{}
	for _, p := range list {
		pods[p.Link] = p
	}
	return pods
}
