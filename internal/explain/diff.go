package explain

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/polder-net/polder/internal/oracle"
)

// Change is what one cluster allows between two places and the other denies.
type Change struct {
	From, To Place
	Ports    Ports
	IPv4     bool
	Dual     bool   // the two have the other family in common, too
	Now      Way    // what the later cluster says; of the two sides, those that say something else than before
	Reason   string // the same of changes for the same reason, whichever pods they are about
}

// Because says why it is as it is now, of senders and receivers as they are called.
func (c Change) Because(from, to string) []string { return c.Now.because(from, to) }

func (w Way) because(from, to string) (lines []string) {
	for _, s := range w.called(from, to).sides() {
		lines = append(lines, s.title()+" "+few(s.Pods)+" "+s.Because(s.direction))
	}
	return lines
}

func (w Way) called(from, to string) Way {
	if w.Egress != nil {
		s := *w.Egress
		s.Pods, w.Egress = []string{from}, &s
	}
	if w.Ingress != nil {
		s := *w.Ingress
		s.Pods, w.Ingress = []string{to}, &s
	}
	return w
}

// Difference is what changes from one cluster to another.
type Difference struct {
	Changes []Change // by receiver, sender and port
	Left    []string // pods and nodes that only one of the clusters has, or that have no address: nothing is said about them

	regions []region
	pods    map[string]int // how many places in a namespace are pods, and how many in all: ""
	nodes   []Place
}

// Diff finds every connection that one cluster allows and the other denies, between pods, nodes and what is outside. It
// leaves out none: policies tell addresses and ports apart by what they name alone, so that one of each class of ends and
// one of each class of ports answer for all that are like them.
//
// With E ends, which are of C classes, it looks E² pairs up, and asks the oracle about the ports of at most C² of them: those whose
// policies differ, or of which the clusters say different things.
func Diff(old, now *Cluster) *Difference {
	b := newBoth(old, now)
	sites, left := b.sites()
	slices.SortFunc(sites, func(a, b *site) int { return cmp.Or(cmp.Compare(a.Name, b.Name), a.at[1].Compare(b.at[1])) })
	d := &Difference{Left: left, regions: b.regions, pods: map[string]int{}}
	families := map[string]int{}
	for _, s := range sites {
		s.class = b.classOf(s)
		if families[s.Name]++; families[s.Name] == 1 {
			d.count(s.Place)
		}
	}
	outcomes := map[pairClass][]outcome{}
	for _, to := range sites {
		for _, from := range sites {
			if from.ipv4() != to.ipv4() || from.pod() == to.pod() {
				continue // a pod always reaches itself, and policies are about pods
			}
			key := b.pairClass(from, to)
			found, known := outcomes[key]
			if !known {
				found = b.judge(from, to, key)
				outcomes[key] = found
			}
			dual := families[from.Name] > 1 && families[to.Name] > 1
			for _, o := range found {
				d.Changes = append(d.Changes, Change{from.Place, to.Place, o.ports, to.ipv4(), dual, o.now, o.reason})
			}
		}
	}
	return d
}

// pairClass are pairs that fare alike: those of the same classes, one of which is or is not the other's own node.
type pairClass struct {
	from, to *class
	own      [2][2]bool // in each cluster: the receiver is the sender's own node, and the other way round
}

func (b *both) pairClass(from, to *site) pairClass {
	key := pairClass{from: from.class, to: to.class}
	for i := range key.own {
		key.own[i] = [2]bool{b.isNodeOf(i, from, to), b.isNodeOf(i, to, from)}
	}
	return key
}

// isNodeOf says whether another site has an address of a pod's node.
func (b *both) isNodeOf(i int, s, other *site) bool {
	return s.pods[i] != nil && slices.ContainsFunc(b.nodes[i][other.at[i]], func(n *corev1.Node) bool { return n.Name == s.pods[i].Spec.NodeName })
}

// outcome is how the ports of a pair change.
type outcome struct {
	ports  Ports
	now    Way
	reason string
}

// judge asks both clusters about one port of each class between two sites.
func (b *both) judge(from, to *site, key pairClass) (list []outcome) {
	unchanged := key.from.same && key.to.same && key.from.sameEgress && key.to.sameIngress && key.own[0] == key.own[1]
	if unchanged {
		return nil
	}
	asked := [2]*Cluster{b.only(0, from, to), b.only(1, from, to)}
	for _, ports := range b.portsBetween(from, to) {
		before := asked[0].objects.Judge(packet(from.at[0], to.at[0], ports.Protocol, ports.First))
		after := asked[1].objects.Judge(packet(from.at[1], to.at[1], ports.Protocol, ports.First))
		if before.Allowed == after.Allowed {
			continue
		}
		now := Way{Allowed: after.Allowed}
		if differ(before.Egress, after.Egress) {
			now.Egress = b.clusters[1].side(after.Egress)
		}
		if differ(before.Ingress, after.Ingress) {
			now.Ingress = b.clusters[1].side(after.Ingress)
		}
		o := outcome{ports, now, strings.Join(now.because("", ""), "\n")}
		if n := len(list) - 1; n >= 0 && list[n].isFollowedBy(o) {
			list[n].ports.Last = ports.Last
			continue
		}
		list = append(list, o)
	}
	return list
}

func differ(before, after *oracle.Judgement) bool {
	return before != nil && after != nil && before.Allowed != after.Allowed
}

// isFollowedBy says whether the next ports are changed in the same way, for the same reason.
func (o outcome) isFollowedBy(next outcome) bool {
	return o.ports.Protocol == next.ports.Protocol && int(o.ports.Last)+1 == int(next.ports.First) &&
		o.now.Allowed == next.now.Allowed && o.reason == next.reason
}

// only is what a cluster's answers about two sites depend on.
func (b *both) only(i int, from, to *site) *Cluster {
	all := b.clusters[i].objects
	o := oracle.Objects{Namespaces: all.Namespaces, Nodes: slices.Concat(b.nodes[i][from.at[i]], b.nodes[i][to.at[i]])}
	for _, s := range []*site{from, to} {
		if s.pods[i] != nil {
			o.Pods = append(o.Pods, s.pods[i])
		}
	}
	egress, ingress := from.class.egress[i], to.class.ingress[i]
	o.NetworkPolicies = union(slices.Clone(egress.network), ingress.network)
	o.ClusterPolicies = union(slices.Clone(egress.cluster), ingress.cluster)
	return &Cluster{objects: o}
}

// portsBetween are the classes of the receiver's ports that the sender's policies and its own may tell apart.
func (b *both) portsBetween(from, to *site) []Ports {
	n := newNamed()
	for i := range b.clusters {
		n.egress(from.class.egress[i])
		n.ingress(to.class.ingress[i])
	}
	for i := range b.clusters {
		if to.pods[i] == nil {
			continue
		}
		for _, p := range b.portsOf(to.pods[i]) {
			if n.portNames[p.name] {
				n.ports = append(n.ports, p.Ports)
			}
		}
	}
	return portClasses(n.ports)
}
