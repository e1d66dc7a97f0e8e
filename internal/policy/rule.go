package policy

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
)

// digest is a hash of all that something says.
type digest [sha256.Size]byte

// rule is one rule of an object, compiled for the pods that the object selects.
type rule struct {
	decider  Decider
	action   cluster.PolicyAction
	allPeers bool
	peers    []spec // those that can match anything
	allPorts bool
	ports    []cluster.PolicyPort // sorted, without doubles
	named    bool                 // some port is a name
	peerText string
	digest   digest
}

// compileRules compiles one direction of an object. own is its namespace, empty if it is in none.
func compileRules(object, own string, list []cluster.PolicyRule) []*rule {
	rules := make([]*rule, len(list))
	for i, r := range list {
		c := &rule{decider: Decider{Objects: []string{object}, Rule: i, Name: r.Name}, action: r.Action, allPeers: r.AllPeers,
			allPorts: r.AllPorts}
		if !r.AllPeers {
			c.setPeers(r.Peers, own)
		}
		if !r.AllPorts {
			c.setPorts(slices.Clone(r.Ports))
		}
		c.seal()
		rules[i] = c
	}
	return rules
}

// ownNode is what NetworkPolicies say of packets to the node that a pod is on: whatever their rules, they pass. A
// ClusterNetworkPolicy may forbid them.
func ownNode() *rule {
	r := &rule{decider: Decider{Rule: -1}, action: cluster.Accept, allPorts: true, peerText: "own node\n",
		peers: []spec{{kind: nodes, own: true, text: "own node"}}}
	r.seal()
	return r
}

func (r *rule) setPeers(peers []cluster.PolicyPeer, own string) {
	for _, p := range peers {
		if s, possible := specOf(p, own); possible {
			r.peers = append(r.peers, s)
		}
	}
	if s, some := blocksSpec(peers); some {
		r.peers = append(r.peers, s)
	}
	slices.SortFunc(r.peers, func(a, b spec) int { return cmp.Compare(a.text, b.text) })
	r.peers = slices.CompactFunc(r.peers, func(a, b spec) bool { return a.text == b.text })
	text := new(strings.Builder)
	for _, p := range r.peers {
		fmt.Fprintln(text, p.text)
	}
	r.peerText = text.String()
}

func (r *rule) setPorts(ports []cluster.PolicyPort) {
	slices.SortFunc(ports, func(a, b cluster.PolicyPort) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Name, b.Name), cmp.Compare(a.First, b.First),
			cmp.Compare(a.Last, b.Last))
	})
	r.ports = slices.Compact(ports)
	r.named = slices.ContainsFunc(r.ports, func(p cluster.PolicyPort) bool { return p.Name != "" })
}

// seal computes the digest when everything else is set.
func (r *rule) seal() {
	h := sha256.New()
	fmt.Fprintf(h, "%q %d %q\naction %d peers %t ports %t\n%s", r.decider.Objects, r.decider.Rule, r.decider.Name, r.action,
		r.allPeers, r.allPorts, r.peerText)
	for _, p := range r.ports {
		fmt.Fprintf(h, "port %d %q %d %d\n", p.Protocol, p.Name, p.First, p.Last)
	}
	h.Sum(r.digest[:0])
}

// resolve returns the rule for traffic to a pod that has those ports: with numbers for names. A name that the pod does
// not have is no port.
func (r *rule) resolve(has []cluster.PodPort) *rule {
	if !r.named {
		return r
	}
	var ports []cluster.PolicyPort
	for _, p := range r.ports {
		if p.Name == "" {
			ports = append(ports, p)
		}
		for _, q := range resolved(p, has) {
			ports = append(ports, cluster.PolicyPort{Protocol: q.Protocol, First: q.Port, Last: q.Port})
		}
	}
	numbers := *r
	numbers.setPorts(ports)
	numbers.seal()
	return &numbers
}

// resolved are the ports of a pod that a port of a rule names. A pod's containers may give one name to several.
func resolved(p cluster.PolicyPort, has []cluster.PodPort) (ports []cluster.PodPort) {
	if p.Name == "" {
		return nil
	}
	for _, q := range has {
		if q.Name == p.Name && (p.Protocol == 0 || p.Protocol == q.Protocol) {
			ports = append(ports, q)
		}
	}
	return ports
}

// asks yields the specs of a rule: its peers, and for names of ports those of its peers that have one.
func (r *rule) asks(yield func(s spec, member bool)) {
	for _, s := range r.peers {
		yield(s, true)
	}
	for _, p := range r.ports {
		if p.Name == "" {
			continue
		}
		if r.allPeers {
			yield(portSpec(spec{}, p.Name), false)
		}
		for _, s := range r.peers {
			if s.kind != nodes {
				yield(portSpec(s, p.Name), false)
			}
		}
	}
}
