package watch

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/cluster"
)

func isPolicy(kind string) bool { return kind == "NetworkPolicy" || kind == "ClusterNetworkPolicy" }

// isAside says whether a field that is not known is where nothing can change what a policy means.
func isAside(err error) bool {
	for _, at := range []string{"metadata.", "status"} {
		if strings.HasPrefix(err.Error(), `unknown field "`+at) {
			return true
		}
	}
	return false
}

// closePolicy gives a policy whose manifest cannot be read the value that lets nothing through: a field with a slip of the
// pen in its name, "form", must not make a rule that says whom it is for one for everybody. Whom it is about counts if
// that can be read, and is all that it may be about if not.
func closePolicy(m *manifest, h header, namespace string, data []byte) {
	var o struct{ Metadata, Spec map[string]json.RawMessage }
	_ = json.Unmarshal(data, &o)
	var text string
	if in, ok := o.Metadata["namespace"]; ok && !decode(in, &text) {
		return // it would isolate pods of another one
	}
	switch h.Kind {
	case "NetworkPolicy":
		m.value = closedPolicy(cluster.Name{Namespace: namespace, Name: h.Metadata.Name}, o.Spec)
		m.problems = append(m.problems, "until it can be read, the pods that it selects are isolated, and it allows nothing")
	case "ClusterNetworkPolicy":
		m.value = closedClusterPolicy(h.Metadata.Name, o.Spec)
		m.problems = append(m.problems, "until it can be read, everything is denied in the directions that it has rules for")
	}
	m.closed = m.value != nil
}

func closedPolicy(name cluster.Name, spec map[string]json.RawMessage) *cluster.NetworkPolicy {
	subject := labels.Everything()
	var selector metav1.LabelSelector
	if text, ok := spec["podSelector"]; ok && decode(text, &selector) {
		if s, err := readSelector(&selector); err == nil {
			subject = s
		}
	}
	var types []networkingv1.PolicyType
	ingress, egress := true, true
	if decode(spec["policyTypes"], &types) && len(types) > 0 {
		ingress, egress = (&policyReader{}).directions(&networkingv1.NetworkPolicySpec{PolicyTypes: types})
	}
	return isolateAll(name, subject, ingress, egress)
}

func closedClusterPolicy(name string, spec map[string]json.RawMessage) *cluster.ClusterPolicy {
	p := &cluster.ClusterPolicy{Name: name, Tier: cluster.Admin}
	var subject policyv1alpha2.ClusterNetworkPolicySubject
	if !decode(spec["subject"], &subject) {
		subject = policyv1alpha2.ClusterNetworkPolicySubject{}
	}
	(&policyReader{}).subject(p, &subject)
	denyAll := []cluster.PolicyRule{{Action: cluster.Deny, AllPeers: true, AllPorts: true}}
	if hasRules(spec["ingress"]) {
		p.Ingress = denyAll
	}
	if hasRules(spec["egress"]) {
		p.Egress = slices.Clone(denyAll)
	}
	return p
}

// hasRules says whether there may be rules in a field.
func hasRules(text json.RawMessage) bool {
	return len(text) > 0 && !slices.Contains([]string{"null", "[]"}, string(text))
}

// decode reads a part of an object, and says whether it could.
func decode(text json.RawMessage, into any) bool {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(into) == nil
}
