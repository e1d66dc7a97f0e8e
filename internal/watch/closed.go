package watch

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
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

// closePolicy returns a policy for one whose manifest cannot be read, as the API would have it, that lets nothing through:
// a field with a slip of the pen in its name, "form", must not make a rule that says whom it is for one for everybody.
// Whom it is about counts if that can be read, and is all that it may be about if not. It returns nil if the policy is to
// be left out, and of all other kinds.
func closePolicy(m *manifest, h header, namespace string, data []byte) runtime.Object {
	var o struct{ Metadata, Spec map[string]json.RawMessage }
	_ = json.Unmarshal(data, &o)
	var text string
	if in, ok := o.Metadata["namespace"]; ok && !decode(in, &text) {
		return nil // it would isolate pods of another one
	}
	of := metav1.ObjectMeta{Namespace: namespace, Name: h.Metadata.Name}
	switch h.Kind {
	case "NetworkPolicy":
		m.problems = append(m.problems, "until it can be read, the pods that it selects are isolated, and it allows nothing")
		return &networkingv1.NetworkPolicy{ObjectMeta: of, Spec: closedSpec(o.Spec)}
	case "ClusterNetworkPolicy":
		m.problems = append(m.problems, "until it can be read, everything is denied in the directions that it has rules for")
		return &policyv1alpha2.ClusterNetworkPolicy{ObjectMeta: of, Spec: closedClusterSpec(o.Spec)}
	}
	return nil
}

func closedSpec(spec map[string]json.RawMessage) (closed networkingv1.NetworkPolicySpec) {
	var selector metav1.LabelSelector
	if text, ok := spec["podSelector"]; ok && decode(text, &selector) {
		if _, err := readSelector(&selector); err == nil {
			closed.PodSelector = selector
		}
	}
	if !decode(spec["policyTypes"], &closed.PolicyTypes) || len(closed.PolicyTypes) == 0 {
		closed.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	}
	return closed
}

// closedClusterSpec denies by rules without peers, which deny everything.
func closedClusterSpec(spec map[string]json.RawMessage) policyv1alpha2.ClusterNetworkPolicySpec {
	closed := policyv1alpha2.ClusterNetworkPolicySpec{Tier: policyv1alpha2.AdminTier}
	if !decode(spec["subject"], &closed.Subject) {
		closed.Subject = policyv1alpha2.ClusterNetworkPolicySubject{}
	}
	if hasRules(spec["ingress"]) {
		closed.Ingress = []policyv1alpha2.ClusterNetworkPolicyIngressRule{{Action: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny}}
	}
	if hasRules(spec["egress"]) {
		closed.Egress = []policyv1alpha2.ClusterNetworkPolicyEgressRule{{Action: policyv1alpha2.ClusterNetworkPolicyRuleActionDeny}}
	}
	return closed
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
