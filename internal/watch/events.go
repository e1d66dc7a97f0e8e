package watch

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/polder-net/polder/internal/cluster"
)

const maxEventMessage = 1024 // bytes, by the API

// WarnPod writes an event about a pod: type Warning, with a reason for programs and a message for people. It is the caller's
// to write few of them.
func (k *KubeSource) WarnPod(ctx context.Context, pod cluster.Name, uid, reason, message string) error {
	if len(message) > maxEventMessage {
		message = message[:maxEventMessage-3] + "..."
	}
	now := metav1.NewTime(time.Now())
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: pod.Name + ".", Namespace: pod.Namespace},
		InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: types.UID(uid)},
		Type:           corev1.EventTypeWarning, Reason: reason, Message: message,
		Source:         corev1.EventSource{Component: "polder-agent", Host: k.node},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	if len(e.GenerateName) > 240 { // with what is put behind it, 253
		e.GenerateName = e.GenerateName[:239] + "."
	}
	if err := k.api.core.Post().Namespace(pod.Namespace).Resource("events").Body(e).Do(ctx).Error(); err != nil {
		return fmt.Errorf("write event about Pod/%s: %w", pod, err)
	}
	return nil
}
