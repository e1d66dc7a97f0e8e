package cases

import (
	"bytes"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	var items []any
	for _, n := range o.Nodes {
		n.TypeMeta = metav1.TypeMeta{APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Node"}
		items = append(items, n)
	}
	for _, n := range o.Namespaces {
		n.TypeMeta = metav1.TypeMeta{APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Namespace"}
		items = append(items, n)
	}
	for _, p := range o.Pods {
		p.TypeMeta = metav1.TypeMeta{APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Pod"}
		items = append(items, p)
	}
	for _, p := range o.NetworkPolicies {
		p.TypeMeta = metav1.TypeMeta{APIVersion: networkingv1.SchemeGroupVersion.String(), Kind: "NetworkPolicy"}
		items = append(items, p)
	}
	for _, p := range o.ClusterPolicies {
		p.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha2.GroupVersion.String(), Kind: "ClusterNetworkPolicy"}
		items = append(items, p)
	}
	out, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		panic(err) // they are nothing but texts, numbers and lists of them
	}
	return out
}
