package policy

import (
	"fmt"
	"net/netip"
	"testing"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/polder-net/polder/internal/cluster"
)

// Left says what a Table still holds of objects that are gone.
func Left(t *Table) (text string) {
	for what, n := range map[string]int{
		"namespaces": len(t.namespaces), "clusterPolicies": len(t.clusterPolicies), "expiring": len(t.expiring),
		"owners": len(t.owners), "rivals": len(t.rivals), "subjects": len(t.subjects), "programs": len(t.programs),
		"byID": len(t.byID), "atoms": len(t.atoms), "spaces": len(t.spaces), "matches": len(t.matches) - 1,
		"nodeAtoms": len(t.nodeAtoms), "nodes": len(t.nodes), "addresses": len(t.addresses), "classes": len(t.classes),
		"blocks": len(t.blocks.rows) + len(t.blocks.within) + len(t.blocks.outside) + len(t.blocks.noted),
		"IDs":    len(t.classIDs.taken) + len(t.rulesetIDs.taken),
		"touched": len(t.touchedAddresses) + len(t.touchedSubjects) + len(t.touchedAtoms) + len(t.touchedClasses) +
			len(t.touchedRows) + len(t.idle),
		"told": len(t.toldAddresses) + len(t.toldPrefixes) + len(t.toldSubjects) + len(t.toldRulesets),
	} {
		if n != 0 {
			text += fmt.Sprint(what, " ", n, ", ")
		}
	}
	return text
}

func TestTextsThatClashGetNamesOfTheirOwnAndAProblem(t *testing.T) {
	table := NewTable("n1")
	table.hash = func(text string) ID { return hash(text) % 8 }
	for i := range 5 {
		n := cluster.Name{Namespace: "a", Name: fmt.Sprint(i)}
		table.SetPod(n, &cluster.Pod{Node: "n1", Labels: cluster.Labels{{Key: "app", Value: n.Name}},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}})
		own := labels.SelectorFromSet(labels.Set{"app": n.Name})
		table.SetNetworkPolicy(n, &cluster.NetworkPolicy{Name: n, Subject: own, Ingress: &cluster.PolicyRules{Rules: []cluster.PolicyRule{
			{Peers: []cluster.PolicyPeer{{Pods: own}}, AllPorts: true}}}})
	}
	c := table.Changes()
	classes := map[ID]bool{}
	for _, id := range c.Addresses {
		classes[id] = true
	}
	if len(classes) != 5 || len(c.Rulesets) != 5 || len(table.Problems()) != 1 {
		t.Fatalf("%v, %v, %v", c.Addresses, c.Rulesets, table.Problems())
	}
}
