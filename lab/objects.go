package lab

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// objects are the cluster's objects that Services are about, as manifests say them.
type objects struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	pods     []*corev1.Pod
	nodes    []*corev1.Node
}

// readObjects reads a manifest file's objects. Other kinds it leaves alone. What the API server would fill in is not:
// only the namespace.
func readObjects(data []byte) (objects, error) {
	var o objects
	if len(bytes.TrimSpace(data)) == 0 { // most likely in the middle of being written
		return o, errors.New("the file is empty")
	}
	documents := kyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return o, nil
		}
		if err == nil {
			document, err = yaml.YAMLToJSON(document)
		}
		if err == nil {
			err = o.add(document)
		}
		if err != nil {
			return objects{}, err
		}
	}
}

// add adds an object or, one by one, those of a list.
func (o *objects) add(document []byte) error {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Items           []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(document, &head); err != nil {
		return err
	}
	switch head.APIVersion + " " + head.Kind {
	case "v1 List":
		for _, item := range head.Items {
			if err := o.add(item); err != nil {
				return err
			}
		}
		return nil
	case "v1 Service":
		return decode(document, &o.services)
	case "v1 Pod":
		return decode(document, &o.pods)
	case "v1 Node":
		return decode(document, &o.nodes)
	case "discovery.k8s.io/v1 EndpointSlice":
		return decode(document, &o.slices)
	}
	return nil
}

// decode appends an object to a list of its type.
func decode[T any, P interface {
	*T
	metav1.Object
}](document []byte, list *[]P) error {
	p := P(new(T))
	if err := json.Unmarshal(document, p); err != nil {
		return fmt.Errorf("read %T: %w", p, err)
	}
	p.SetNamespace(cmp.Or(p.GetNamespace(), metav1.NamespaceDefault)) // a node's is not looked at
	*list = append(*list, p)
	return nil
}
