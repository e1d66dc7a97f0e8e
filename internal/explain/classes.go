package explain

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/oracle"
)

// class are sites that no policy of either cluster can tell apart.
type class struct {
	same            bool        // the clusters say the same of it
	egress, ingress [2]policies // those that select it, of each cluster
	sameEgress      bool        // and they are the same
	sameIngress     bool
}

// both is two clusters, and what the policies of either name.
type both struct {
	clusters [2]*Cluster
	named    *named
	regions  []region
	owners   [2]map[netip.Addr]*corev1.Pod
	nodes    [2]map[netip.Addr][]*corev1.Node
	classes  map[[2]string]*class
}

func newBoth(old, now *Cluster) *both {
	b := &both{clusters: [2]*Cluster{old, now}, named: newNamed(), classes: map[[2]string]*class{}}
	taken := map[netip.Addr]bool{}
	for i, c := range b.clusters {
		of := allPolicies(c.objects)
		b.named.subjects(of)
		b.named.egress(of)
		b.named.ingress(of)
		b.owners[i], b.nodes[i] = map[netip.Addr]*corev1.Pod{}, map[netip.Addr][]*corev1.Node{}
		for _, p := range c.objects.Pods {
			for _, a := range oracle.PodAddresses(p) {
				if owner := c.objects.Pod(a); owner != nil {
					b.owners[i][a], taken[a] = owner, true
				}
			}
		}
		for _, n := range c.objects.Nodes {
			for _, a := range oracle.NodeAddresses(n) {
				b.nodes[i][a], taken[a] = append(b.nodes[i][a], n), true
			}
		}
	}
	b.regions = regionsOf(b.named.blocks, taken)
	return b
}

// classOf finds the class of a site: it is all that a rule may ask of it in either cluster.
func (b *both) classOf(s *site) *class {
	says := [2]string{b.says(0, s), b.says(1, s)}
	c := b.classes[says]
	if c != nil {
		return c
	}
	c = &class{same: says[0] == says[1]}
	for i := range b.clusters {
		if s.pods[i] != nil {
			c.egress[i], c.ingress[i] = b.selecting(i, s)
		}
	}
	c.sameEgress, c.sameIngress = samePolicies(c.egress), samePolicies(c.ingress)
	b.classes[says] = c
	return c
}

// says puts into words what a cluster's rules may ask of a site: as a pod its namespace, its labels and its ports' names; the
// labels of nodes with its address; and the smallest block around it. Keys and names that no policy has are left out.
func (b *both) says(i int, s *site) string {
	var text strings.Builder
	if p := s.pods[i]; p != nil {
		fmt.Fprintf(&text, "pod in %q", p.Namespace)
		for _, ns := range b.clusters[i].objects.Namespaces {
			if ns.Name == p.Namespace {
				text.WriteString(b.labelsText(ns.Labels))
			}
		}
		text.WriteString(" is" + b.labelsText(p.Labels) + " has")
		for _, port := range b.portsOf(p) {
			fmt.Fprintf(&text, " %q %s", port.name, port.Ports)
		}
	}
	var nodes []string
	for _, n := range b.nodes[i][s.at[i]] {
		nodes = append(nodes, "; node"+b.labelsText(n.Labels))
	}
	slices.Sort(nodes)
	text.WriteString(strings.Join(slices.Compact(nodes), ""))
	fmt.Fprintf(&text, "; in %s", b.regions[b.regionAt(s.at[i])].block)
	return text.String()
}

func (b *both) labelsText(labels map[string]string) string {
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if b.named.labels[key] {
			fmt.Fprintf(&text, " %q=%q", key, labels[key])
		}
	}
	return text.String()
}

// namedPort is a pod's port of a name that a policy has.
type namedPort struct {
	name string
	Ports
}

func (b *both) portsOf(p *corev1.Pod) (list []namedPort) {
	for _, declared := range oracle.PodPorts(p) {
		protocol, ok := protocolOf(declared.Protocol)
		if n := declared.ContainerPort; ok && b.named.portNames[declared.Name] && 0 < n && n < 1<<16 {
			list = append(list, namedPort{declared.Name, Ports{protocol, uint16(n), uint16(n)}})
		}
	}
	slices.SortFunc(list, func(a, b namedPort) int { return strings.Compare(a.name+a.String(), b.name+b.String()) })
	return slices.Compact(list)
}

// regionAt is the position of the region that holds an address: that of the smallest block.
func (b *both) regionAt(a netip.Addr) (at int) {
	for i, r := range b.regions {
		if r.block.Contains(a) {
			at = i // those inside come behind those around them
		}
	}
	return at
}

// selecting asks the oracle for the policies that select a site's pod.
func (b *both) selecting(i int, s *site) (egress, ingress policies) {
	o := b.clusters[i].objects
	o.Pods = []*corev1.Pod{s.pods[i]}
	nobody := unspecified(s.at[i])
	sent := o.Judge(oracle.Packet{Src: s.at[i], Dst: nobody})
	got := o.Judge(oracle.Packet{Src: nobody, Dst: s.at[i]})
	return those(o, sent.Egress), those(o, got.Ingress)
}

// those are the policies that were asked.
func those(o oracle.Objects, j *oracle.Judgement) (of policies) {
	asked := map[oracle.Policy]bool{}
	for _, a := range j.Asked {
		asked[a.Policy] = true
	}
	for _, np := range o.NetworkPolicies {
		if asked[oracle.Policy{Kind: "NetworkPolicy", Namespace: np.Namespace, Name: np.Name}] {
			of.network = append(of.network, np)
		}
	}
	for _, cnp := range o.ClusterPolicies {
		if asked[oracle.Policy{Kind: "ClusterNetworkPolicy", Name: cnp.Name}] {
			of.cluster = append(of.cluster, cnp)
		}
	}
	return of
}

// samePolicies says whether two lists hold the same policies in the same order.
func samePolicies(of [2]policies) bool {
	network := func(a, b *networkingv1.NetworkPolicy) bool {
		return a.Namespace == b.Namespace && a.Name == b.Name && reflect.DeepEqual(a.Spec, b.Spec)
	}
	cluster := func(a, b *v1alpha2.ClusterNetworkPolicy) bool {
		return a.Name == b.Name && reflect.DeepEqual(a.Spec, b.Spec)
	}
	return slices.EqualFunc(of[0].network, of[1].network, network) && slices.EqualFunc(of[0].cluster, of[1].cluster, cluster)
}
