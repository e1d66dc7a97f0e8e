package watch

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/polder-net/polder/internal/cluster"
)

// labelsText writes labels as a map.
func labelsText(l cluster.Labels) string {
	m := map[string]string{}
	for _, e := range l {
		m[e.Key] = e.Value
	}
	return fmt.Sprint(m)
}

// policiesText writes what a Snapshot has for policies: of pods, only those that Pods has not; of namespaces' labels, not
// the one that all have, if it is right.
func policiesText(s *cluster.Snapshot) string {
	var b strings.Builder
	for _, name := range s.AllNamespaces.ChangedSince(nil) {
		n := s.AllNamespaces.Get(name)
		m := map[string]string{}
		for _, l := range n.Labels {
			m[l.Key] = l.Value
		}
		if m[corev1.LabelMetadataName] == n.Name {
			delete(m, corev1.LabelMetadataName)
		}
		fmt.Fprintf(&b, "namespace %s %v terminating=%t\n", name, m, n.Terminating)
	}
	for _, name := range s.AllPods.ChangedSince(nil) {
		p := s.AllPods.Get(name)
		there := false
		for _, here := range s.Pods {
			there = there || here.Namespace == name.Namespace && here.Name == name.Name
		}
		if !there {
			fmt.Fprintf(&b, "pod %s elsewhere: node=%s %v %s\n", name, p.Node, p.Addresses, labelsText(p.Labels))
		}
		if len(p.Ports) > 0 {
			fmt.Fprintf(&b, "ports of %s: %v\n", name, p.Ports)
		}
	}
	for _, name := range s.NetworkPolicies.ChangedSince(nil) {
		b.WriteString(policyText(s.NetworkPolicies.Get(name)))
	}
	for _, name := range s.ClusterPolicies.ChangedSince(nil) {
		b.WriteString(clusterPolicyText(s.ClusterPolicies.Get(name)))
	}
	return b.String()
}

func policyText(p *cluster.NetworkPolicy) string {
	var b strings.Builder
	fmt.Fprintf(&b, "policy %s of {%s}\n", p.Name, p.Subject)
	for _, d := range []struct {
		name  string
		rules *cluster.PolicyRules
	}{{"ingress", p.Ingress}, {"egress", p.Egress}} {
		if d.rules != nil {
			fmt.Fprintf(&b, " %s isolated\n%s", d.name, rulesText(d.name, d.rules.Rules))
		}
	}
	return b.String()
}

func clusterPolicyText(p *cluster.ClusterPolicy) string {
	tier := map[cluster.Tier]string{cluster.Admin: "Admin", cluster.Baseline: "Baseline"}[p.Tier]
	return fmt.Sprintf("cluster policy %s %s %d of {%s}/{%s}\n", p.Name, tier, p.Priority, p.Namespaces, p.Pods) +
		rulesText("ingress", p.Ingress) + rulesText("egress", p.Egress)
}

func rulesText(direction string, rules []cluster.PolicyRule) string {
	var b strings.Builder
	for _, r := range rules {
		action := map[cluster.PolicyAction]string{cluster.Accept: "accept", cluster.Deny: "deny", cluster.Pass: "pass"}[r.Action]
		fmt.Fprintf(&b, " %s %s %s peers=", direction, action, r.Name)
		if r.AllPeers {
			b.WriteString("all")
		}
		for _, p := range r.Peers {
			switch {
			case p.Nodes != nil:
				fmt.Fprintf(&b, "nodes{%s}", p.Nodes)
			case p.Pods == nil:
				fmt.Fprintf(&b, "[%v-%v]", p.Block, p.Except)
			case p.Namespaces == nil:
				fmt.Fprintf(&b, "{%s}", p.Pods)
			default:
				fmt.Fprintf(&b, "{%s}/{%s}", p.Namespaces, p.Pods)
			}
		}
		b.WriteString(" ports=")
		if r.AllPorts {
			b.WriteString("all")
		}
		for _, p := range r.Ports {
			fmt.Fprintf(&b, "[%d %s%d-%d]", p.Protocol, p.Name, p.First, p.Last)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
