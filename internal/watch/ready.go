package watch

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

// MarkNetworkReady makes this node's object say that its network works: condition NetworkUnavailable is False, and
// the taint of that name is gone. It asks and writes nothing if the object that is watched says so already, so it
// may be called whenever the node is known to work; Changed gives notice when the object no longer says so.
// It takes at most five seconds.
func (k *KubeSource) MarkNetworkReady(ctx context.Context) error {
	if n, ok := k.nodes.get(k.node); ok && n.networkReady {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	node, err := k.getNode(ctx)
	if err != nil {
		return fmt.Errorf("read node %s: %w", k.node, err)
	}
	if !saysAvailable(node) {
		if err := k.patchNode(ctx, availablePatch(time.Now()), "status"); err != nil {
			return fmt.Errorf("mark network of node %s available: %w", k.node, err)
		}
	}
	// Where there is a node lifecycle controller it takes the taint away itself, now that the condition is gone. A
	// patch replaces the whole list of taints, so it is bound to the version that was read.
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := k.getNode(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(node.Spec.Taints, isNetworkTaint) {
			return nil
		}
		return k.patchNode(ctx, untaintPatch(node))
	})
	if err != nil {
		return fmt.Errorf("remove network taint of node %s: %w", k.node, err)
	}
	return nil
}

func (k *KubeSource) getNode(ctx context.Context) (*corev1.Node, error) {
	node := &corev1.Node{}
	return node, k.api.core.Get().Resource("nodes").Name(k.node).Do(ctx).Into(node)
}

func (k *KubeSource) patchNode(ctx context.Context, patch any, subresource ...string) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	return k.api.core.Patch(types.StrategicMergePatchType).Resource("nodes").Name(k.node).
		SubResource(subresource...).Body(body).Do(ctx).Error()
}

func saysNetworkReady(n *corev1.Node) bool {
	return saysAvailable(n) && !slices.ContainsFunc(n.Spec.Taints, isNetworkTaint)
}

func saysAvailable(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeNetworkUnavailable && c.Status == corev1.ConditionFalse
	})
}

func isNetworkTaint(t corev1.Taint) bool { return t.Key == corev1.TaintNodeNetworkUnavailable }

// object is a part of a Kubernetes object, as a patch names it.
type object map[string]any

// availablePatch merges by the condition's type: conditions of others stay as they are.
func availablePatch(now time.Time) object {
	return object{"status": object{"conditions": []corev1.NodeCondition{{
		Type:               corev1.NodeNetworkUnavailable,
		Status:             corev1.ConditionFalse,
		Reason:             "PolderIsUp",
		Message:            "Polder is running on this node",
		LastHeartbeatTime:  metav1.NewTime(now),
		LastTransitionTime: metav1.NewTime(now),
	}}}}
}

func untaintPatch(n *corev1.Node) object {
	taints := slices.DeleteFunc(slices.Clone(n.Spec.Taints), isNetworkTaint)
	if taints == nil {
		taints = []corev1.Taint{}
	}
	return object{
		"metadata": object{"uid": n.UID, "resourceVersion": n.ResourceVersion},
		"spec":     object{"taints": taints},
	}
}
