package watch

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"github.com/polder-net/polder/internal/cluster"
)

// KubeSource is the Kubernetes API as a source of cluster state: all nodes, the pods of this one and, if it is asked
// for them, all Services, and what policies need: all pods, namespaces and policies.
type KubeSource struct {
	node     string
	services bool
	policies bool
	api      clients
	servers  *servers
	log      *slog.Logger
	retry    wait.Backoff  // pauses between attempts to reach the API server
	absent   time.Duration // pause before a resource that the API server does not know is asked for again, at most

	changed  signal
	nodes    *store[nodeState]
	pods     *store[*cluster.Pod]
	here     *moved[cluster.Pod] // pods of this node
	svcs     *store[*cluster.Service]
	slices   *store[*serviceSlice]
	cidrs    *store[[]netip.Prefix]
	grouped  *byService // what svcs and slices say
	apiMoved signal     // the API server's own Service has changed
	judged   judged     // what policies need

	mu     sync.Mutex                    // of latest and own
	latest *cluster.Snapshot             // what the stores said when dirty was last cleared
	own    map[cluster.Name]*cluster.Pod // pods of this node, then
	dirty  atomic.Bool                   // the stores have changed since
}

// nodeState is a node and, of this node alone, whether its object says that its network works.
type nodeState struct {
	cluster.Node
	networkReady bool
}

// Kube returns the API server that the kubeconfig file names, or the one of the cluster that this process is a pod of
// if that is empty, as a source of cluster state for a node. The version is this program's, for the user agent. With
// services it tells Services, EndpointSlices and ServiceCIDRs, too; with policies, the pods of all nodes, namespaces and
// policies, and the nodes' labels.
//
// A pod's own configuration names the API server by the cluster IP of its Service, which may be for this very agent
// to translate. So the addresses that are tried, in this order, are: the one that the node's kubelet uses, if the
// configuration has not been set by hand; the configured one; those that the Service had when it was last seen.
func Kube(kubeconfig, node, version string, services, policies bool, log *slog.Logger) (*KubeSource, error) {
	cfg, others, err := restConfig(kubeconfig, version, log)
	if err != nil {
		return nil, fmt.Errorf("find API server: %w", err)
	}
	return newKube(cfg, newServers(cfg, others, rememberedFile, log), node, services, policies, log)
}

func newKube(cfg *rest.Config, servers *servers, node string, services, policies bool, log *slog.Logger) (*KubeSource, error) {
	cfg.Dial = servers.dial
	api, err := newClients(cfg)
	if err != nil {
		return nil, fmt.Errorf("make API client: %w", err)
	}
	k := &KubeSource{
		node: node, services: services, policies: policies, api: api, servers: servers, log: log,
		// client-go's own default ends at a minute between attempts, which a node that boots before its API server
		// would lose. Jittered, so that the nodes of a cluster do not come all at once.
		retry:   wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 8, Cap: 10 * time.Second},
		absent:  10 * time.Minute, // an API server of another version needs longer to come
		changed: newSignal(), grouped: newByService(), apiMoved: newSignal(),
		here: newMoved[cluster.Pod](), own: map[cluster.Name]*cluster.Pod{},
	}
	k.makeStores()
	return k, nil
}

func (k *KubeSource) makeStores() {
	var ofNodes *objectTexts
	if k.policies {
		ofNodes = newObjectTexts() // each store has one Reflector, so one reader at a time
	}
	k.nodes = newStore("Node", func(obj any) (nodeState, []string) {
		n := obj.(*corev1.Node)
		read, problems := readNode(n, ofNodes)
		if !k.policies {
			read.Labels = nil
		}
		return nodeState{read, n.Name == k.node && saysNetworkReady(n)}, problems
	}, k.change)
	k.makePods()
	k.judged.make(k.change)

	ofServices, ofSlices := texts{}, texts{}
	k.svcs = newStore("Service", func(obj any) (*cluster.Service, []string) {
		return readService(obj.(*corev1.Service), ofServices)
	}, k.change)
	k.svcs.moved = k.grouped.service
	k.slices = newStore("EndpointSlice", func(obj any) (*serviceSlice, []string) {
		return readSlice(obj.(*discoveryv1.EndpointSlice), ofSlices)
	}, k.change)
	k.slices.moved = func(old, now *serviceSlice) {
		k.grouped.slice(old, now)
		if now != nil && now.service == apiService() {
			k.apiMoved.send()
		}
	}
	k.cidrs = newStore("ServiceCIDR", func(obj any) ([]netip.Prefix, []string) {
		return readServiceCIDR(obj.(*networkingv1.ServiceCIDR))
	}, k.change)
}

// Changed holds a notice when Latest may say something new. Changes that nobody has looked at are one notice.
func (k *KubeSource) Changed() <-chan struct{} { return k.changed }

func (k *KubeSource) change() {
	k.dirty.Store(true) // before the notice: who gets it finds the change
	k.changed.send()
}

// Run watches until the context ends. It bears with an API server that is not there, at start and later: it keeps
// trying, and what was read stays. Its goroutines end before it does.
func (k *KubeSource) Run(ctx context.Context) error {
	// The Reflector's own words are for debugging; what people must know, contact says.
	ctx = logr.NewContextWithSlogLogger(ctx, slog.New(demote{k.log.Handler()}))
	var wg sync.WaitGroup
	for _, w := range k.watches() {
		wg.Go(func() { k.follow(ctx, w) })
	}
	wg.Go(func() { k.rememberServers(ctx) })
	wg.Wait()
	return nil
}
