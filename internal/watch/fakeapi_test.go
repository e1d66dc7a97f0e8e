package watch

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
)

// fakeAPI is an API server for what agents read, with the faults that we tell it to have. It speaks protobuf over HTTP,
// so that a test goes through all of client-go, which its fake clientset would not.
type fakeAPI struct {
	*httptest.Server
	protobuf, json wire // the latter of resources that clusters define

	mu          sync.Mutex
	version     int
	objects     map[string]map[string]runtime.Object // resource → namespace/name
	history     []fakeEvent
	oldest      int           // a watch from before this version gets 410 Gone
	news        chan struct{} // closed, and another, with every change and every cut
	cuts        int           // a watch from before the last cut ends
	down        bool          // connections are closed without an answer
	unknown     string        // a resource that this version does not know
	noStreaming bool          // as API servers before 1.34 are: sendInitialEvents is forbidden
	requests    []string      // method, path and, of a GET, what kind of reading it is
	refused     chan struct{} // holds a notice when a request came while down
	beforePatch func()
}

// wire is one of the forms in which objects are sent.
type wire struct {
	info runtime.SerializerInfo
	enc  runtime.Encoder
}

func newWire(t *testing.T, of string) wire {
	codecs := serializer.NewCodecFactory(newScheme())
	info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), of)
	if !ok {
		t.Fatalf("no %s", of)
	}
	return wire{info, codecs.WithoutConversion().EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion)}
}

// wireOf is how a resource's objects are sent.
func (f *fakeAPI) wireOf(resource string) wire {
	if resource == "clusternetworkpolicies" {
		return f.json
	}
	return f.protobuf
}

type fakeEvent struct {
	version  int
	resource string
	kind     string // ADDED, MODIFIED, DELETED
	object   runtime.Object
}

func newFakeAPI(t *testing.T) *fakeAPI { return fakeAPIOn(t, httptest.NewServer) }

func fakeAPIOn(t *testing.T, listen func(http.Handler) *httptest.Server) *fakeAPI {
	f := &fakeAPI{
		protobuf: newWire(t, runtime.ContentTypeProtobuf), json: newWire(t, runtime.ContentTypeJSON),
		objects: map[string]map[string]runtime.Object{},
		news:    make(chan struct{}), refused: make(chan struct{}, 1), version: 1,
	}
	for _, r := range []string{"nodes", "pods", "services", "endpointslices", "servicecidrs", "namespaces", "networkpolicies", "clusternetworkpolicies"} {
		f.objects[r] = map[string]runtime.Object{}
	}
	f.Server = listen(f)
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	return f
}

// source returns a source of nodes and pods that reads from the fake, with short pauses between attempts.
func (f *fakeAPI) source(t *testing.T, node string) *KubeSource {
	return f.sourceOf(t, node, false, false)
}

func (f *fakeAPI) sourceOf(t *testing.T, node string, services, policies bool) *KubeSource {
	t.Helper()
	cfg := &rest.Config{Host: f.URL, UserAgent: "test"}
	k, err := newKube(cfg, newServers(cfg, nil, filepath.Join(t.TempDir(), "apiservers"), logTo(t)), node, services, policies, logTo(t))
	must(t, err)
	k.retry = wait.Backoff{Duration: time.Millisecond, Factor: 1.1, Steps: 10, Cap: 10 * time.Millisecond}
	k.absent = 10 * time.Millisecond
	return k
}

// set does something to the fake under its lock.
func (f *fakeAPI) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// cut ends all watches; with forget, what has happened cannot be caught up on either.
func (f *fakeAPI) cut(forget bool) {
	f.set(func() {
		f.cuts++
		if forget {
			f.version++
			f.oldest = f.version
		}
		f.wake()
	})
}

func (f *fakeAPI) wake() {
	close(f.news)
	f.news = make(chan struct{})
}

// put writes an object, silently if no watch is to hear of it.
func (f *fakeAPI) put(obj runtime.Object) {
	f.set(func() { f.store(obj) })
}

func (f *fakeAPI) store(obj runtime.Object) {
	f.version++
	resource, key := fakeKey(obj)
	obj = obj.DeepCopyObject()
	m, _ := meta.Accessor(obj)
	m.SetResourceVersion(strconv.Itoa(f.version))
	kind := "ADDED"
	if f.objects[resource][key] != nil {
		kind = "MODIFIED"
	}
	f.objects[resource][key] = obj
	f.history = append(f.history, fakeEvent{f.version, resource, kind, obj})
	f.wake()
}

func (f *fakeAPI) remove(obj runtime.Object) {
	f.set(func() {
		f.version++
		resource, key := fakeKey(obj)
		gone := f.objects[resource][key].DeepCopyObject()
		m, _ := meta.Accessor(gone)
		m.SetResourceVersion(strconv.Itoa(f.version))
		delete(f.objects[resource], key)
		f.history = append(f.history, fakeEvent{f.version, resource, "DELETED", gone})
		f.wake()
	})
}

func (f *fakeAPI) node(name string) (n *corev1.Node) {
	f.set(func() { n = f.objects["nodes"][name].DeepCopyObject().(*corev1.Node) })
	return n
}

// count counts the requests so far that start so.
func (f *fakeAPI) count(prefix string) (n int) {
	f.set(func() {
		for _, r := range f.requests {
			if strings.HasPrefix(r, prefix) {
				n++
			}
		}
	})
	return n
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, path := r.URL.Query(), r.URL.Path
	for _, group := range []string{"/api/v1/", "/apis/discovery.k8s.io/v1/", "/apis/networking.k8s.io/v1/", "/apis/policy.networking.k8s.io/v1alpha2/"} {
		path = strings.TrimPrefix(path, group)
	}
	request := r.Method + " " + path
	switch {
	case q.Get("sendInitialEvents") == "true":
		request += " stream"
	case q.Get("watch") == "true":
		request += " watch"
	}
	f.mu.Lock()
	f.requests = append(f.requests, request)
	down, unknown := f.down, f.unknown
	f.mu.Unlock()
	resource, name, _ := strings.Cut(path, "/")
	switch {
	case down:
		select {
		case f.refused <- struct{}{}:
		default:
		}
		panic(http.ErrAbortHandler)
	case resource == unknown:
		http.NotFound(w, r) // as of paths that nobody serves: no Status
	case r.Method == http.MethodPatch:
		name, sub, _ := strings.Cut(name, "/")
		f.patch(w, r, name, sub)
	case name != "":
		f.get(w, resource, name)
	case q.Get("watch") == "true":
		f.watch(w, r, resource)
	default:
		f.list(w, resource, selectorOf(r))
	}
}

func (f *fakeAPI) get(w http.ResponseWriter, resource, name string) {
	f.mu.Lock()
	obj := f.objects[resource][name]
	f.mu.Unlock()
	if obj == nil {
		f.fail(w, apierrors.NewNotFound(schema.GroupResource{Resource: resource}, name))
		return
	}
	f.answer(w, http.StatusOK, obj)
}

func (f *fakeAPI) answer(w http.ResponseWriter, code int, obj runtime.Object) {
	f.protobuf.answer(w, code, obj)
}

func (e wire) answer(w http.ResponseWriter, code int, obj runtime.Object) {
	w.Header().Set("Content-Type", e.info.MediaType)
	w.WriteHeader(code)
	_ = e.enc.Encode(obj.DeepCopyObject(), w) // encoding writes the kind into it
}

func (f *fakeAPI) fail(w http.ResponseWriter, err *apierrors.StatusError) {
	f.answer(w, int(err.ErrStatus.Code), &err.ErrStatus)
}

func (f *fakeAPI) watch(w http.ResponseWriter, r *http.Request, resource string) {
	q := r.URL.Query()
	sel, from := selectorOf(r), 0
	_, _ = fmt.Sscan(q.Get("resourceVersion"), &from)
	stream := q.Get("sendInitialEvents") == "true"
	f.mu.Lock()
	cuts, oldest, noStreaming, now := f.cuts, f.oldest, f.noStreaming, f.version
	initial := slices.Collect(maps.Values(f.objects[resource]))
	f.mu.Unlock()
	if stream && noStreaming {
		f.fail(w, apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil))
		return
	}
	if !stream && from < oldest {
		f.fail(w, apierrors.NewResourceExpired("too old resource version"))
		return
	}
	by := f.wireOf(resource)
	w.Header().Set("Content-Type", by.info.MediaType+";stream=watch")
	w.WriteHeader(http.StatusOK)
	out := by.info.StreamSerializer.NewFrameWriter(w)
	if stream {
		for _, obj := range initial {
			if sel.matches(obj) {
				by.event(out, "ADDED", obj)
			}
		}
		from = now
		by.event(out, "BOOKMARK", bookmark(resource, now))
	}
	for {
		w.(http.Flusher).Flush()
		f.mu.Lock()
		news, ended := f.news, f.cuts != cuts
		events := f.since(from, resource, sel)
		f.mu.Unlock()
		if ended {
			return
		}
		for _, e := range events {
			by.event(out, e.kind, e.object)
			from = e.version
		}
		w.(http.Flusher).Flush()
		select {
		case <-news:
		case <-r.Context().Done():
			return
		}
	}
}

func (e wire) event(w io.Writer, kind string, obj runtime.Object) {
	var raw, frame bytes.Buffer
	_ = e.enc.Encode(obj.DeepCopyObject(), &raw)
	_ = e.info.StreamSerializer.Encode(&metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: raw.Bytes()}}, &frame)
	_, _ = w.Write(frame.Bytes())
}

// quiet is a log for what is not to be seen.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// unheard returns a source that asks nobody.
func unheard(t testing.TB, services, policies bool) *KubeSource {
	t.Helper()
	cfg := &rest.Config{Host: "http://127.0.0.1:0"}
	k, err := newKube(cfg, newServers(cfg, nil, filepath.Join(t.TempDir(), "apiservers"), quiet()), "me", services, policies, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return k
}
