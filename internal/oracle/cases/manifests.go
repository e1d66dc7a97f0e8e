package cases

import (
	"bytes"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"

	"github.com/polder-net/polder/internal/oracle"
)

// Add reads manifests: YAML documents between lines of three dashes. Fields that the types do not have are ignored,
// as by any client that is older than the API.
func Add(o *oracle.Objects, manifests []byte) error {
	for doc := range bytes.SplitSeq(append([]byte("\n"), manifests...), []byte("\n---\n")) {
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		if err := addOne(o, doc); err != nil {
			return fmt.Errorf("read %s: %w", doc, err)
		}
	}
	return nil
}

func addOne(o *oracle.Objects, doc []byte) (err error) {
	var header metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &header); err != nil {
		return err
	}
	switch header.Kind {
	case "Pod":
		o.Pods, err = read(o.Pods, doc)
	case "Namespace":
		o.Namespaces, err = read(o.Namespaces, doc)
	case "Node":
		o.Nodes, err = read(o.Nodes, doc)
	case "NetworkPolicy":
		o.NetworkPolicies, err = read(o.NetworkPolicies, doc)
	case "ClusterNetworkPolicy":
		o.ClusterPolicies, err = read(o.ClusterPolicies, doc)
	default:
		return fmt.Errorf("kind %q is not read", header.Kind)
	}
	return err
}

func read[T any](all []*T, doc []byte) ([]*T, error) {
	one := new(T)
	err := yaml.Unmarshal(doc, one)
	return append(all, one), err
}

// Manifests writes a cluster as a List in JSON, which is YAML, too.
func Manifests(o *oracle.Objects) []byte {
	var items []runtime.Object
	items = list(items, o.Nodes, corev1.SchemeGroupVersion.WithKind("Node"))
	items = list(items, o.Namespaces, corev1.SchemeGroupVersion.WithKind("Namespace"))
	items = list(items, o.Pods, corev1.SchemeGroupVersion.WithKind("Pod"))
	items = list(items, o.NetworkPolicies, networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"))
	items = list(items, o.ClusterPolicies, schema.GroupVersion(v1alpha2.GroupVersion).WithKind("ClusterNetworkPolicy"))
	out, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		panic(err) // they are nothing but texts, numbers and lists of them
	}
	return out
}

// list adds objects of one kind, each of which says which.
func list[T runtime.Object](items []runtime.Object, more []T, kind schema.GroupVersionKind) []runtime.Object {
	for _, o := range more {
		o.GetObjectKind().SetGroupVersionKind(kind)
		items = append(items, o)
	}
	return items
}
