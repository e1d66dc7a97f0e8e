package watch

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/cluster"
)

// Objects are a cluster's objects as the API has them, with the defaults that an API server fills in: what people's
// questions are answered from, without the agent's eyes. They are in the order in which they were read.
type Objects struct {
	Pods            []*corev1.Pod
	Namespaces      []*corev1.Namespace
	Nodes           []*corev1.Node
	Policies        []*networkingv1.NetworkPolicy
	ClusterPolicies []*policyv1alpha2.ClusterNetworkPolicy
	Services        []*corev1.Service
	Slices          []*discoveryv1.EndpointSlice

	// Where says the manifest of an object, "web.yaml:12", by its name, "NetworkPolicy/default/web". Objects of an API
	// server have none.
	Where map[string]string
}

// ReadObjects reads a folder of manifests once, by the rules of a FolderSource: the same files in the same order, of two
// objects with one name the first. What cannot be read is left out, and a Problem; what Polder cannot honour is one, too.
// The error says that there is no such folder.
func ReadObjects(dir string) (*Objects, []cluster.Problem, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read manifests: %w", err)
	}
	r := newRawReader()
	for _, e := range entries {
		if !isManifest(e.Name()) {
			continue
		}
		data, err := readFile(filepath.Join(dir, e.Name()))
		if err == nil {
			err = r.file(e.Name(), data)
		}
		if err != nil {
			r.problem(e.Name(), "%s", oneLine(err))
		}
	}
	return r.objects, sortProblems(r.problems), nil
}

// rawReader collects objects.
type rawReader struct {
	objects  *Objects
	problems []cluster.Problem
	strict   runtime.Decoder
}

func newRawReader() *rawReader {
	s := newScheme()
	return &rawReader{
		objects: &Objects{Where: map[string]string{}},
		strict:  kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, s, s, kjson.SerializerOptions{Strict: true}),
	}
}

func (r *rawReader) problem(object, format string, args ...any) {
	r.problems = append(r.problems, cluster.Problem{Object: object, Message: fmt.Sprintf(format, args...)})
}

func (r *rawReader) file(name string, data []byte) error {
	docs, err := documents(name, data)
	if err != nil {
		return err
	}
	for _, d := range docs {
		r.document(fmt.Sprintf("%s:%d", name, d.line), d.data, metav1.TypeMeta{}, 0)
	}
	return nil
}

// document takes the object in a document, or those of a list. inherited is what the list is of.
func (r *rawReader) document(where string, data []byte, inherited metav1.TypeMeta, depth int) {
	var h header
	_ = json.Unmarshal(data, &h) // a field of the wrong type is found again by the strict decoder
	if h.Kind == "" && h.APIVersion == "" {
		h.TypeMeta = inherited
	}
	if of, ok := listedKind(h.TypeMeta); ok && depth < 3 {
		for _, item := range h.Items {
			r.document(where, item, of, depth+1)
		}
		return
	}
	if !isRaw(h.TypeMeta) {
		return // an agent says what it does not read
	}
	namespace := ""
	if isNamespaced(h.Kind) {
		namespace = namespaceOf(h)
	}
	id := cmp.Or(objectID(h.Kind, namespace, h.Metadata.Name), h.Kind)
	gvk := schema.FromAPIVersionAndKind(h.APIVersion, h.Kind)
	obj, _, err := r.strict.Decode(data, &gvk, nil)
	if strict, ok := runtime.AsStrictDecodingError(err); ok { // the rest of the object is as good as ever
		for _, e := range strict.Errors() {
			r.problem(id, "%s: %v", where, e)
		}
	} else if err != nil {
		r.problem(id, "%s: read %s: %s", where, h.Kind, oneLine(err))
		return
	}
	r.object(where, h.Kind, obj)
}

// object takes an object, unless there is one of its name.
func (r *rawReader) object(where, kind string, obj runtime.Object) {
	o, err := meta.Accessor(obj)
	if err != nil {
		r.problem(where, "read %s: %v", kind, err)
		return
	}
	if isNamespaced(kind) && o.GetNamespace() == "" {
		o.SetNamespace(metav1.NamespaceDefault)
	} else if !isNamespaced(kind) {
		o.SetNamespace("")
	}
	if err := validNames(kind, o.GetNamespace(), o.GetName()); err != nil {
		r.problem(where, "%s: %s", kind, oneLine(err))
		return
	}
	id := objectID(kind, o.GetNamespace(), o.GetName())
	if other, ok := r.objects.Where[id]; ok {
		r.problem(id, "%s: there is one of that name at %s, which counts", where, other)
		return
	}
	r.objects.Where[id] = where
	r.objects.add(obj)
	_, problems := readObject(obj, o.GetNamespace())
	for _, p := range problems {
		r.problem(id, "%s: %s", where, p)
	}
}

// add puts an object into its list, with its defaults.
func (o *Objects) add(obj runtime.Object) {
	fillIn(obj)
	switch v := obj.(type) {
	case *corev1.Pod:
		o.Pods = append(o.Pods, v)
	case *corev1.Namespace:
		o.Namespaces = append(o.Namespaces, v)
	case *corev1.Node:
		o.Nodes = append(o.Nodes, v)
	case *networkingv1.NetworkPolicy:
		o.Policies = append(o.Policies, v)
	case *policyv1alpha2.ClusterNetworkPolicy:
		o.ClusterPolicies = append(o.ClusterPolicies, v)
	case *corev1.Service:
		o.Services = append(o.Services, v)
	case *discoveryv1.EndpointSlice:
		o.Slices = append(o.Slices, v)
	}
}
