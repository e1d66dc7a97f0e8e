package watch

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/polder-net/polder/internal/cluster"
)

// KubeSource is the Kubernetes API as a source of cluster state: all nodes, and the pods of this one. Namespaces and
// everything that services and policies need are not watched before somebody reads them.
type KubeSource struct {
	node   string
	client *rest.RESTClient
	log    *slog.Logger
	retry  wait.Backoff // pauses between attempts to reach the API server

	changed signal
	nodes   *store[nodeState]
	pods    *store[cluster.Pod]

	mu     sync.Mutex        // of latest
	latest *cluster.Snapshot // what the stores said when dirty was last cleared
	dirty  atomic.Bool       // the stores have changed since
}

// nodeState is a node and, of this node alone, whether its object says that its network works.
type nodeState struct {
	cluster.Node
	networkReady bool
}

// Kube returns the API server that the kubeconfig file names, or the one of the cluster that this process is a pod of
// if that is empty, as a source of cluster state for a node. The version is this program's, for the user agent.
func Kube(kubeconfig, node, version string, log *slog.Logger) (*KubeSource, error) {
	cfg, err := restConfig(kubeconfig, version)
	if err != nil {
		return nil, fmt.Errorf("find API server: %w", err)
	}
	return newKube(cfg, node, log)
}

func newKube(cfg *rest.Config, node string, log *slog.Logger) (*KubeSource, error) {
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	k := &KubeSource{
		node: node, client: client, log: log, changed: newSignal(),
		// client-go's own default ends at a minute between attempts, which a node that boots before its API server
		// would lose. Jittered, so that the nodes of a cluster do not come all at once.
		retry: wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 8, Cap: 10 * time.Second},
	}
	k.nodes = newStore("Node", func(obj any) (nodeState, []string) {
		n := obj.(*corev1.Node)
		read, problems := readNode(n)
		return nodeState{read, n.Name == node && saysNetworkReady(n)}, problems
	}, k.change)
	k.pods = newStore("Pod", func(obj any) (cluster.Pod, []string) { return readPod(obj.(*corev1.Pod)) }, k.change)
	return k, nil
}

// Changed holds a notice when Latest may say something new. Changes that nobody has looked at are one notice.
func (k *KubeSource) Changed() <-chan struct{} { return k.changed }

func (k *KubeSource) change() {
	k.dirty.Store(true) // before the notice: who gets it finds the change
	k.changed.send()
}

// Latest returns what the API server said last, and nil until it has said everything once. It is the same Snapshot
// as long as nothing that Polder reads has changed.
func (k *KubeSource) Latest() *cluster.Snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.dirty.Swap(false) {
		return k.latest
	}
	nodes, nodeProblems, nodesSynced := k.nodes.list()
	pods, podProblems, podsSynced := k.pods.list()
	if !nodesSynced || !podsSynced {
		return nil // whichever is read last makes it dirty again
	}
	s := &cluster.Snapshot{Pods: pods, Problems: append(nodeProblems, podProblems...)}
	for _, n := range nodes {
		s.Nodes = append(s.Nodes, n.Node)
	}
	sortSnapshot(s)
	if !reflect.DeepEqual(s, k.latest) {
		k.latest = s
	}
	return k.latest
}

// Run watches until the context ends. It bears with an API server that is not there, at start and later: it keeps
// trying, and what was read stays. Its goroutines end before it does.
func (k *KubeSource) Run(ctx context.Context) error {
	// The Reflector's own words are for debugging; what people must know, contact says.
	ctx = logr.NewContextWithSlogLogger(ctx, slog.New(demote{k.log.Handler()}))
	var wg sync.WaitGroup
	wg.Go(func() { k.reflect(ctx, "nodes", &corev1.Node{}, fields.Everything(), k.nodes) })
	wg.Go(func() {
		k.reflect(ctx, "pods", &corev1.Pod{}, fields.OneTermEqualSelector("spec.nodeName", k.node), k.pods)
	})
	wg.Wait()
	return nil
}

func (k *KubeSource) reflect(ctx context.Context, resource string, example runtime.Object, sel fields.Selector, to cache.ReflectorStore) {
	c := &contact{log: k.log.With("resource", resource)}
	lw := cache.NewListWatchFromClient(k.client, resource, metav1.NamespaceAll, sel)
	list, watch := lw.ListWithContextFunc, lw.WatchFuncWithContext
	lw.ListWithContextFunc = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		obj, err := list(ctx, o)
		c.note(ctx, err)
		return obj, err
	}
	lw.WatchFuncWithContext = func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
		w, err := watch(ctx, o)
		c.note(ctx, err)
		return w, err
	}
	cache.NewReflectorWithOptions(lw, example, to, cache.ReflectorOptions{Name: "polder", Backoff: &k.retry}).RunWithContext(ctx)
}

// contact says once that the API server does not answer, and once that it does again.
type contact struct {
	log  *slog.Logger
	mu   sync.Mutex
	lost bool
}

func (c *contact) note(ctx context.Context, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case err != nil && !c.lost:
		c.lost = true
		c.log.Warn("API server does not answer: keeping what is known and trying again", "err", err)
	case err == nil && c.lost:
		c.lost = false
		c.log.Info("API server answers again")
	}
}

// demote makes every record one for debugging.
type demote struct{ slog.Handler }

func (d demote) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

func (d demote) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, r)
}

func (d demote) WithAttrs(as []slog.Attr) slog.Handler { return demote{d.Handler.WithAttrs(as)} }
func (d demote) WithGroup(name string) slog.Handler    { return demote{d.Handler.WithGroup(name)} }
