package watch

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
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

	// LeftOut are names of objects of which some manifest does not count at all, be there others of that name or not.
	LeftOut map[string]bool
}

// ReadObjects reads a folder of manifests once, by the rules of a FolderSource: the same files in the same order, of two
// objects with one name the first. What cannot be read is left out, or a policy that lets nothing through, and a Problem;
// what Polder cannot honour is one, too. Kinds that have nothing to do with policies are left out without a word. The
// error says that there is no such folder, or a file of which nobody can know what is in it.
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
			return nil, nil, fmt.Errorf("read manifests: %s: %s", filepath.Join(dir, e.Name()), oneLine(err))
		}
	}
	r.finish()
	return r.objects, sortProblems(r.problems), nil
}

// rawReader collects objects.
type rawReader struct {
	parser   parser
	objects  *Objects
	problems []cluster.Problem
	unserved []placed // what an agent does not serve, Services without addresses say: questions may be about it
}

// placed is a manifest with its file and line.
type placed struct {
	manifest
	where string
}

func newRawReader() *rawReader {
	p := newParser()
	p.keep = true
	return &rawReader{parser: p, objects: &Objects{Where: map[string]string{}, LeftOut: map[string]bool{}}}
}

func (r *rawReader) file(name string, data []byte) error {
	all, err := r.parser.parse(name, data)
	for _, m := range all {
		if m.aside {
			continue // an agent says what it does not read
		}
		of := placed{m, fmt.Sprintf("%s:%d", name, m.line)}
		for _, p := range m.problems {
			r.problem(cmp.Or(m.id, name), of.where, p)
		}
		switch {
		case m.object == nil:
			r.objects.LeftOut[m.id] = true
		case m.value == nil:
			r.unserved = append(r.unserved, of)
		default:
			r.take(of)
		}
	}
	return err
}

func (r *rawReader) problem(object, where, message string) {
	r.problems = append(r.problems, cluster.Problem{Object: object, Message: where + ": " + message})
}

// take takes an object, unless there is one of its name.
func (r *rawReader) take(m placed) {
	if other, ok := r.objects.Where[m.id]; ok {
		r.objects.LeftOut[m.id] = true
		r.problem(m.id, m.where, "there is one of that name at "+other+", which counts")
		return
	}
	r.objects.Where[m.id] = m.where
	r.objects.add(m.object)
}

// finish takes what counts if nothing else has its name.
func (r *rawReader) finish() {
	for _, m := range r.unserved {
		r.take(m)
	}
	r.problems = append(r.problems, r.objects.homeless()...)
}

// UnreadNamespaces are those that are there though nothing of them could be read.
func (o *Objects) UnreadNamespaces() map[string]bool {
	unread := map[string]bool{}
	for object := range o.LeftOut {
		if name, ok := strings.CutPrefix(object, "Namespace/"); ok && o.Where[object] == "" {
			unread[name] = true
		}
	}
	return unread
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
