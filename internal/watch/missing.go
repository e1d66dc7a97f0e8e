package watch

import (
	"encoding/json"
	"errors"
	"math"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// An API server does not take a ClusterNetworkPolicy without its priority, or one that says "pods" and not which. In Go,
// what is not there looks like a priority of 0, and like a selector of all pods. So it is marked where JSON is read, with
// values that whoever reads the policy takes for ones that cannot be read.

// noPriority stands for a priority that is not there.
const noPriority = math.MinInt32

// notThere is the operator of the only expression of a selector that is not there.
const notThere metav1.LabelSelectorOperator = "is missing"

var errNotThere = errors.New("it is missing")

// saidPods is what JSON says of a NamespacedPod: nil of what is not there, or null, which counts as not there.
type saidPods struct{ PodSelector *json.RawMessage }

// saidPeers are a rule's peers, in one of its directions.
type saidPeers struct{ From, To []struct{ Pods *saidPods } }

// markMissing marks what of an object's JSON is not there though it has to be.
func markMissing(obj runtime.Object, data []byte) {
	o, ok := obj.(*policyv1alpha2.ClusterNetworkPolicy)
	if !ok {
		return
	}
	var said struct {
		Spec struct {
			Priority        *json.RawMessage
			Subject         struct{ Pods *saidPods }
			Ingress, Egress []saidPeers
		}
	}
	_ = json.Unmarshal(data, &said) // the strict decoder has found nothing wrong
	if said.Spec.Priority == nil {
		o.Spec.Priority = noPriority
	}
	markPods(o.Spec.Subject.Pods, said.Spec.Subject.Pods)
	for i, rule := range said.Spec.Ingress {
		for n, peer := range rule.From {
			markPods(o.Spec.Ingress[i].From[n].Pods, peer.Pods)
		}
	}
	for i, rule := range said.Spec.Egress {
		for n, peer := range rule.To {
			markPods(o.Spec.Egress[i].To[n].Pods, peer.Pods)
		}
	}
}

func markPods(o *policyv1alpha2.NamespacedPod, said *saidPods) {
	if o != nil && said != nil && said.PodSelector == nil {
		o.PodSelector = metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Operator: notThere}}}
	}
}

// readSelector reads a selector. An empty one selects everything; o is not nil, which would be another matter.
func readSelector(o *metav1.LabelSelector) (labels.Selector, error) {
	if len(o.MatchExpressions) == 1 && o.MatchExpressions[0].Operator == notThere {
		return nil, errNotThere
	}
	return metav1.LabelSelectorAsSelector(o)
}
