package watch

import (
	"context"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// watched is one list that is read and watched.
type watched struct {
	from           *rest.RESTClient
	resource       string
	example        runtime.Object
	fields, labels string // selectors
	optional       bool   // some API servers do not know the resource: they are of an older version
	defined        bool   // and this is since nobody has defined it yet, which may be done at any moment
	to             cache.ReflectorStore
}

func (k *KubeSource) watches() []watched {
	pods := watched{from: k.api.core, resource: "pods", example: &corev1.Pod{}, to: k.pods}
	if !k.policies {
		pods.fields = "spec.nodeName=" + k.node
	}
	all := []watched{{from: k.api.core, resource: "nodes", example: &corev1.Node{}, to: k.nodes}, pods}
	if k.services {
		all = append(all,
			watched{from: k.api.core, resource: "services", example: &corev1.Service{}, labels: "!" + labelProxyName, to: k.svcs},
			watched{from: k.api.discovery, resource: "endpointslices", example: &discoveryv1.EndpointSlice{}, labels: "!" + corev1.IsHeadlessService, to: k.slices},
			watched{from: k.api.networking, resource: "servicecidrs", example: &networkingv1.ServiceCIDR{}, optional: true, to: k.cidrs})
	}
	if k.policies {
		all = append(all,
			watched{from: k.api.core, resource: "namespaces", example: &corev1.Namespace{}, to: k.judged.namespaces},
			watched{from: k.api.networking, resource: "networkpolicies", example: &networkingv1.NetworkPolicy{}, to: k.judged.policies},
			watched{from: k.api.policies, resource: "clusternetworkpolicies", example: &policyv1alpha2.ClusterNetworkPolicy{}, optional: true, defined: true, to: k.judged.clusterPolicies})
	}
	return all
}

func (w watched) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	o.FieldSelector, o.LabelSelector = w.fields, w.labels
	return w.from.Get().Resource(w.resource).VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Get()
}

func (w watched) watch(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
	o.Watch, o.FieldSelector, o.LabelSelector = true, w.fields, w.labels
	return w.from.Get().Resource(w.resource).VersionedParams(&o, metav1.ParameterCodec).Watch(ctx)
}

// follow keeps a store as the API server's list is, until the context ends.
func (k *KubeSource) follow(ctx context.Context, w watched) {
	c := &contact{log: k.log.With("resource", w.resource)}
	if w.optional && !k.awaitResource(ctx, w, c) {
		return
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			obj, err := w.list(ctx, o)
			c.note(ctx, err)
			return obj, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			i, err := w.watch(ctx, o)
			c.note(ctx, err)
			return i, err
		},
	}
	cache.NewReflectorWithOptions(lw, w.example, w.to, cache.ReflectorOptions{Name: "polder", Backoff: &k.retry}).RunWithContext(ctx)
}

// A resource that may be defined at any moment is asked for so often by one node, and so often each second by all nodes
// together, at most. The answer is a 404, which costs an API server next to nothing; to watch definitions instead, the agent
// would need the right to read them.
const (
	askAgain      = 30 * time.Second
	asksPerSecond = 50
)

// absence is the pause before a resource that the API server does not know is asked for again.
func (k *KubeSource) absence(w watched) time.Duration {
	pause := k.absent
	if w.defined {
		pause = min(pause, max(askAgain, time.Duration(k.nodes.len())*time.Second/asksPerSecond))
	}
	return pause + rand.N(pause/4+1)
}

// awaitResource returns when the API server knows a resource. If it says that it does not, the store is as good as read,
// empty, and the API server is asked again later. It returns false if the context ends first.
func (k *KubeSource) awaitResource(ctx context.Context, w watched, c *contact) bool {
	for retry, said := k.retry, false; ; {
		_, err := w.list(ctx, metav1.ListOptions{Limit: 1})
		pause := retry.Step()
		if apierrors.IsNotFound(err) {
			if !said {
				said = true
				c.log.Info("API server does not know the resource: going on without it")
				_ = w.to.Replace(nil, "")
			}
			err, pause, retry = nil, k.absence(w), k.retry
		} else if err == nil {
			c.note(ctx, nil)
			return true
		}
		c.note(ctx, err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}
