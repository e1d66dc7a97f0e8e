package cluster

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"
)

// Label is one label of an object.
type Label struct{ Key, Value string }

// Labels are an object's labels, sorted by key. They are what a selector asks (labels.Labels); a tenth of a map's size.
type Labels []Label

// MakeLabels returns a map's entries, in order; nil where there are none.
func MakeLabels(m map[string]string) Labels {
	var all Labels
	for _, key := range slices.Sorted(maps.Keys(m)) {
		all = append(all, Label{key, m[key]})
	}
	return slices.Clip(all)
}

// Lookup returns a label's value, and whether there is such a label.
func (l Labels) Lookup(key string) (value string, ok bool) {
	i, ok := slices.BinarySearchFunc(l, key, func(e Label, key string) int { return cmp.Compare(e.Key, key) })
	if !ok {
		return "", false
	}
	return l[i].Value, true
}

// Has says whether there is such a label.
func (l Labels) Has(key string) bool { _, ok := l.Lookup(key); return ok }

// Get returns a label's value, empty where there is no such label.
func (l Labels) Get(key string) string { value, _ := l.Lookup(key); return value }

// PodPort is a port of a pod that has a name (containers[].ports[].name).
type PodPort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// NetworkPolicy is what Polder reads of a Kubernetes NetworkPolicy. A direction that it does not isolate is nil.
type NetworkPolicy struct {
	Name
	Subject         labels.Selector // of pods of its namespace
	Ingress, Egress *PolicyRules
}

// PolicyRules are the rules of one direction, as in the object: their index is the rule's position.
type PolicyRules struct{ Rules []PolicyRule }

// PolicyAction is what a rule does with the packets that it matches.
type PolicyAction uint8

// Actions. A NetworkPolicy's rules accept.
const (
	Accept PolicyAction = iota // final
	Deny                       // final
	Pass                       // no more rules of this tier
)

// PolicyRule matches packets of its peers to or from its ports. Nothing in it means "all" by being empty: an empty
// list matches nothing.
type PolicyRule struct {
	Name   string // for people; may be empty
	Action PolicyAction

	AllPeers bool
	Peers    []PolicyPeer

	AllPorts bool // and every protocol
	Ports    []PolicyPort
}

// PolicyPeer is whom a rule is about: pods, nodes or a block of addresses. Exactly one of Pods, Nodes and Block is set.
type PolicyPeer struct {
	// Pods that are no host-network pods. Namespaces nil: those of the policy's own namespace.
	Pods, Namespaces labels.Selector

	Nodes labels.Selector // all addresses of the nodes

	Block  netip.Prefix   // masked
	Except []netip.Prefix // masked, within Block
}

// PolicyPort is a set of ports of the destination.
type PolicyPort struct {
	Protocol    Protocol // 0, of a named port alone: whichever the pod says
	Name        string   // of a port of the destination pod; empty: First to Last
	First, Last uint16   // 0 to 65535: every port
}

// Tier says when a ClusterNetworkPolicy is asked.
type Tier uint8

// The tiers.
const (
	Admin    Tier = iota // before NetworkPolicies
	Baseline             // after them, for pods that none of them isolates
)

// ClusterPolicy is what Polder reads of a ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2).
type ClusterPolicy struct {
	Name     string
	Tier     Tier
	Priority int // 0 to 1000, the lower first; of equal ones, by name

	// Subject: pods, but no host-network pods, that both select.
	Namespaces, Pods labels.Selector

	Ingress, Egress []PolicyRule
}
