package watch

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/cluster"
)

// listedAtOnce is how many objects a page of a list has.
const listedAtOnce = 500

// ListObjects reads a cluster once, through the API server of a kubeconfig file, or of the cluster that this process is
// a pod of if that is empty. A cluster that does not know ClusterNetworkPolicies has none. What Polder cannot honour of an
// object is a Problem.
func ListObjects(ctx context.Context, kubeconfig, version string) (*Objects, []cluster.Problem, error) {
	cfg, _, err := restConfig(kubeconfig, version, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, fmt.Errorf("find API server: %w", err)
	}
	o, err := listObjects(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	return o, o.problems(), nil
}

// rawList is a list that is asked for.
type rawList struct {
	of       schema.GroupVersion
	resource string
	optional bool // the API server need not know it
	empty    func() runtime.Object
}

func rawLists() []rawList {
	return []rawList{
		{corev1.SchemeGroupVersion, "nodes", false, func() runtime.Object { return &corev1.NodeList{} }},
		{corev1.SchemeGroupVersion, "namespaces", false, func() runtime.Object { return &corev1.NamespaceList{} }},
		{corev1.SchemeGroupVersion, "pods", false, func() runtime.Object { return &corev1.PodList{} }},
		{corev1.SchemeGroupVersion, "services", false, func() runtime.Object { return &corev1.ServiceList{} }},
		{discoveryv1.SchemeGroupVersion, "endpointslices", false, func() runtime.Object { return &discoveryv1.EndpointSliceList{} }},
		{networkingv1.SchemeGroupVersion, "networkpolicies", false, func() runtime.Object { return &networkingv1.NetworkPolicyList{} }},
		{schema.GroupVersion(policyv1alpha2.GroupVersion), "clusternetworkpolicies", true, func() runtime.Object { return &policyv1alpha2.ClusterNetworkPolicyList{} }},
	}
}

func listObjects(ctx context.Context, cfg *rest.Config) (*Objects, error) {
	cfg = rest.CopyConfig(cfg)
	scheme := newScheme()
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cfg.QPS, cfg.Burst = 50, 100 // some thousand objects, once
	transport, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	defer transport.CloseIdleConnections()
	all := &Objects{Where: map[string]string{}}
	for _, l := range rawLists() {
		group := rest.CopyConfig(cfg)
		group.APIPath, group.GroupVersion = "/apis", &l.of
		if l.of.Group == "" {
			group.APIPath = "/api"
		}
		client, err := rest.RESTClientForConfigAndClient(group, transport)
		if err != nil {
			return nil, fmt.Errorf("make API client: %w", err)
		}
		err = l.list(ctx, client, runtime.NewParameterCodec(scheme), all)
		if err != nil && !(l.optional && apierrors.IsNotFound(err)) {
			return nil, fmt.Errorf("list %s: %w", l.resource, err)
		}
	}
	return all, nil
}

// list reads one list, page by page.
func (l rawList) list(ctx context.Context, client *rest.RESTClient, codec runtime.ParameterCodec, all *Objects) error {
	options := metav1.ListOptions{Limit: listedAtOnce}
	for {
		page := l.empty()
		if err := client.Get().Resource(l.resource).VersionedParams(&options, codec).Do(ctx).Into(page); err != nil {
			return err
		}
		err := meta.EachListItem(page, func(o runtime.Object) error {
			all.add(o)
			return nil
		})
		if err != nil {
			return err
		}
		of, err := meta.ListAccessor(page)
		if err != nil {
			return err
		}
		if options.Continue = of.GetContinue(); options.Continue == "" {
			return nil
		}
	}
}

// problems says what Polder cannot honour of objects that an API server took.
func (o *Objects) problems() (all []cluster.Problem) {
	for _, obj := range o.each() {
		kind, namespace, name := identify(obj)
		_, problems := readObject(obj, namespace)
		for _, p := range problems {
			all = append(all, cluster.Problem{Object: objectID(kind, namespace, name), Message: p})
		}
	}
	return sortProblems(all)
}

// each lists all objects.
func (o *Objects) each() (all []runtime.Object) {
	all = appendObjects(all, o.Nodes)
	all = appendObjects(all, o.Pods)
	all = appendObjects(all, o.Services)
	all = appendObjects(all, o.Slices)
	all = appendObjects(all, o.Policies)
	return appendObjects(all, o.ClusterPolicies)
}

func appendObjects[T runtime.Object](all []runtime.Object, more []T) []runtime.Object {
	for _, o := range more {
		all = append(all, o)
	}
	return all
}
