package watch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/validation"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// manifest is one object of a manifest file.
type manifest struct {
	id       string // "Node/worker-1", "Pod/default/web"; empty if the object does not say
	line     int    // of the document it is in
	value    any    // what a reader of objects.go, services.go, slices.go returns; nil: does not count
	broken   bool   // what it says of itself cannot be read
	closed   bool   // so value is a policy that lets nothing through
	aside    bool   // it is of a kind that Polder does not read, and that has nothing to do with policies
	problems []string

	// object is what the API would have that means what value means, where the parser keeps it; nil: it is left out.
	object runtime.Object
}

// parser reads manifest files. It is without state.
type parser struct {
	strict runtime.Decoder
	keep   bool // the objects of manifests, which an agent has no use for
}

func newParser() parser {
	s := newScheme()
	return parser{strict: kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, s, s, kjson.SerializerOptions{Strict: true})}
}

// header is what all objects have. encoding/json fills what it can when a field is of the wrong type.
type header struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct{ Name, Namespace string }
	Items           []json.RawMessage
}

// parse reads a file's objects. An error says that it is no manifest file, and on which line.
func (p parser) parse(file string, data []byte) ([]manifest, error) {
	docs, err := documents(file, data)
	if err != nil {
		return nil, err
	}
	var all []manifest
	for _, d := range docs {
		all = p.document(all, d, metav1.TypeMeta{}, 0)
	}
	return all, nil
}

// document appends the object in a document, or those of a list. inherited is what the list is of.
func (p parser) document(all []manifest, d document, inherited metav1.TypeMeta, depth int) []manifest {
	var h header
	_ = json.Unmarshal(d.data, &h) // a field of the wrong type is found again by the strict decoder
	if h.Kind == "" && h.APIVersion == "" {
		h.TypeMeta = inherited
	}
	if isList(h.TypeMeta) {
		return p.list(all, d, h, depth)
	}
	m := manifest{line: d.line}
	switch h.APIVersion + " " + h.Kind {
	case "v1 Node", "v1 Namespace", "networking.k8s.io/v1 ServiceCIDR", "policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy":
		p.object(&m, h, "", d.data)
	case "v1 Pod", "v1 Service", "discovery.k8s.io/v1 EndpointSlice", "networking.k8s.io/v1 NetworkPolicy":
		p.object(&m, h, namespaceOf(h), d.data)
	default:
		m.id, m.aside = objectID(h.Kind, h.Metadata.Namespace, h.Metadata.Name), !isLikePolicy(h.TypeMeta)
		m.problems = append(m.problems, fmt.Sprintf("apiVersion %q, kind %q is nothing that Polder reads", h.APIVersion, h.Kind))
	}
	return append(all, m)
}

// isList knows a List as kubectl writes it, and lists as the API server does: NodeList, EndpointSliceList.
func isList(t metav1.TypeMeta) bool {
	group, _, ok := strings.Cut(t.APIVersion, "/")
	known := !ok || group == discoveryv1.GroupName || group == networkingv1.GroupName
	return (known && strings.HasSuffix(t.APIVersion, "v1") || t.APIVersion == policyv1alpha2.GroupVersion.String()) &&
		strings.HasSuffix(t.Kind, "List")
}

func (p parser) list(all []manifest, d document, h header, depth int) []manifest {
	var strict struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ListMeta
		Items           []json.RawMessage
	}
	dec := json.NewDecoder(bytes.NewReader(d.data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&strict); err != nil {
		all = append(all, manifest{line: d.line, problems: []string{fmt.Sprintf("read %s: %v", h.Kind, err)}})
	}
	if depth == 3 {
		return append(all, manifest{line: d.line, problems: []string{"a list in a list in a list in a list is not read"}})
	}
	var of metav1.TypeMeta
	if kind := strings.TrimSuffix(h.Kind, "List"); kind != "" {
		of = metav1.TypeMeta{APIVersion: h.APIVersion, Kind: kind}
	}
	for _, item := range h.Items {
		all = p.document(all, document{d.line, item}, of, depth+1)
	}
	return all
}

// object decodes an object that Polder reads. The namespace is empty for kinds that are in none.
func (p parser) object(m *manifest, h header, namespace string, data []byte) {
	m.id = objectID(h.Kind, namespace, h.Metadata.Name)
	gvk := schema.FromAPIVersionAndKind(h.APIVersion, h.Kind)
	obj, _, err := p.strict.Decode(data, &gvk, nil)
	switch strict, ok := runtime.AsStrictDecodingError(err); {
	case ok: // the rest of the object is as good as ever
		for _, e := range strict.Errors() {
			m.problems = append(m.problems, e.Error())
			m.broken = m.broken || isPolicy(h.Kind) && !isAside(e)
		}
	case err != nil:
		m.broken = true
		m.problems = append(m.problems, fmt.Sprintf("read %s: %v", h.Kind, err))
	}
	name := h.Metadata.Name
	if m.broken {
		obj = closePolicy(m, h, namespace, data)
		m.value, _ = readObject(obj, namespace)
		m.closed = m.value != nil
	} else {
		markMissing(obj, data)
		value, problems := readObject(obj, namespace)
		m.value, m.problems = value, append(m.problems, problems...)
		if o, err := meta.Accessor(obj); err == nil {
			name = o.GetName()
		}
	}
	if err := validNames(h.Kind, namespace, name); err != nil && (m.value != nil || !m.broken) {
		m.value, obj = nil, nil
		m.problems = append(m.problems, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if p.keep {
		m.object = obj
	}
}

// readObject returns what Polder reads of an object, nil if the object is none that counts.
func readObject(obj runtime.Object, namespace string) (any, []string) {
	switch o := obj.(type) {
	case *corev1.Node:
		return readNode(o, nil)
	case *corev1.Pod:
		o.Namespace = namespace
		return readPod(o, nil)
	case *corev1.Namespace:
		return readNamespace(o), nil
	case *corev1.Service:
		o.Namespace = namespace
		return orNil(readService(o, nil))
	case *discoveryv1.EndpointSlice:
		o.Namespace = namespace
		return orNil(readSlice(o, nil))
	case *networkingv1.ServiceCIDR:
		return readServiceCIDR(o)
	case *networkingv1.NetworkPolicy:
		o.Namespace = namespace
		return readNetworkPolicy(o)
	case *policyv1alpha2.ClusterNetworkPolicy:
		return readClusterPolicy(o)
	}
	return nil, nil
}

// orNil makes a nil of a type one of none.
func orNil[T any](value *T, problems []string) (any, []string) {
	if value == nil {
		return nil, problems
	}
	return value, problems
}

// validNames checks an object's name and namespace as the API server does.
func validNames(kind, namespace, name string) error {
	check := validation.IsDNS1123Subdomain
	if kind == "Namespace" || kind == "Service" {
		check = validation.IsDNS1123Label
	}
	err := validName(name, check)
	if namespace != "" {
		err = errors.Join(err, validName(namespace, validation.IsDNS1123Label))
	}
	return err
}

func validName(name string, check func(string) []string) error {
	if name == "" {
		return errors.New("has no name")
	}
	if len(check(name)) > 0 {
		return fmt.Errorf("%q is not a DNS-1123 name: lower-case letters, digits, '-' inside", name)
	}
	return nil
}

func namespaceOf(h header) string {
	if h.Metadata.Namespace == "" {
		return "default"
	}
	return h.Metadata.Namespace
}

// objectID names an object as cluster.Problem does.
func objectID(kind, namespace, name string) string {
	switch {
	case kind == "" || name == "":
		return ""
	case namespace == "":
		return kind + "/" + name
	}
	return kind + "/" + namespace + "/" + name
}
