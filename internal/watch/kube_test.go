package watch

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/polder-net/polder/internal/cluster"
)

// kubeNode is a node as large as real ones are.
func kubeNode(name, address, cidr string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)}}
	n.Labels = map[string]string{"kubernetes.io/hostname": name, "node.kubernetes.io/instance-type": "m5.large"}
	n.Annotations = map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
	n.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsV1: metav1.NewFieldsV1(`{"f:" : "` + strings.Repeat("x", 2000) + `"}`)}}
	n.Spec.PodCIDRs = []string{cidr}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}, {Type: corev1.NodeHostName, Address: name}}
	for i := range 40 {
		image := fmt.Sprintf("registry.example/some/image-%d-of-a-length-that-is-usual@sha256:%064d", i, i)
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{image}, SizeBytes: 1 << 20})
	}
	return n
}

func kubePod(namespace, name, node, ip string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{PodIP: ip},
	}
}

func heartbeat(n *corev1.Node) *corev1.Node {
	n = n.DeepCopy()
	n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now()})
	n.Status.Images = nil
	return n
}

func TestTheAPIIsFollowed(t *testing.T) {
	for _, noStreaming := range []bool{false, true} {
		t.Run(fmt.Sprintf("without streaming lists: %t", noStreaming), func(t *testing.T) {
			f := newFakeAPI(t)
			f.noStreaming = noStreaming
			f.put(kubeNode("b", "10.0.0.2", "10.1.1.0/24"))
			f.put(kubeNode("a", "10.0.0.1", "10.1.0.0/24"))
			f.put(kubePod("ns", "here", "a", "10.1.0.7"))
			f.put(kubePod("ns", "elsewhere", "b", "10.1.1.7"))
			k := f.source(t, "a")
			if k.Latest() != nil {
				t.Error("says something before it has read anything")
			}
			run(t, k.Run)
			pod := "pod ns/here uid=uid-here node=a host=false [10.1.0.7] map[]\n"
			awaitText(t, k, nodeA+nodeB+pod)

			f.put(kubeNode("b", "10.0.0.3", "10.1.1.0/24"))
			awaitText(t, k, nodeA+"node b [10.0.0.3] [10.1.1.0/24]\n"+pod)
			f.remove(kubeNode("b", "", ""))
			awaitText(t, k, nodeA+pod)
			f.put(kubePod("ns", "gone", "a", "10.1.0.8"))
			f.remove(kubePod("ns", "gone", "a", ""))
			f.put(kubeNode("c", "10.0.0.300", "10.1.2.1/24"))
			awaitText(t, k, nodeA+"node c [] [10.1.2.0/24]\n"+pod+
				"problem Node/c: pod CIDR 10.1.2.1/24 has bits beyond its length: write 10.1.2.0/24, which counts\n"+
				"problem Node/c: read InternalIP: \"10.0.0.300\" is not an IP address\n")
			if lists := f.count("GET nodes") - f.count("GET nodes stream") - f.count("GET nodes watch"); (lists > 0) != noStreaming {
				t.Errorf("%d lists", lists)
			}
		})
	}
}

func TestAnAPIServerThatIsNotThereIsWaitedFor(t *testing.T) {
	f := newFakeAPI(t)
	f.put(kubeNode("a", "10.0.0.1", "10.1.0.0/24"))
	f.down = true
	k := f.source(t, "a")
	run(t, k.Run)
	for range 5 {
		<-f.refused
	}
	if s := k.Latest(); s != nil {
		t.Errorf("says without an API server:\n%s", text(s))
	}
	f.set(func() { f.down = false })
	first := awaitText(t, k, nodeA)

	// Away once more: what was read stays, and no one hears of a change.
	f.set(func() { f.down = true })
	f.cut(false)
	for range 5 {
		<-f.refused
	}
	select {
	case <-k.Changed():
		t.Errorf("notice of a change:\n%s", text(k.Latest()))
	default:
	}
	if k.Latest() != first {
		t.Error("another Snapshot")
	}
	f.put(kubeNode("b", "10.0.0.2", "10.1.1.0/24"))
	f.set(func() { f.down = false })
	awaitText(t, k, nodeA+nodeB)
}

// Test A2 of the reliability list: whatever happens to the connection, the final state is the API server's, and no
// node that was always there is ever missing.
func TestCutsAndRelistsLoseNothing(t *testing.T) {
	for _, noStreaming := range []bool{false, true} {
		t.Run(fmt.Sprintf("without streaming lists: %t", noStreaming), func(t *testing.T) {
			f := newFakeAPI(t)
			f.noStreaming = noStreaming
			f.put(kubeNode("a", "10.0.0.1", "10.1.0.0/24"))
			k := f.source(t, "a")
			run(t, k.Run)
			seed := rand.Uint64()
			r := rand.New(rand.NewPCG(seed, 0))
			there := map[string]*corev1.Node{}
			for i := range 60 {
				name := fmt.Sprintf("n%d", r.IntN(8))
				if n := there[name]; n != nil && r.IntN(2) == 0 {
					f.remove(n)
					delete(there, name)
				} else {
					there[name] = kubeNode(name, fmt.Sprintf("10.0.1.%d", i+1), fmt.Sprintf("10.2.%d.0/24", i))
					f.put(there[name])
				}
				if r.IntN(3) == 0 {
					f.cut(r.IntN(2) == 0)
				}
				if s := k.Latest(); s != nil && !strings.HasPrefix(text(s), nodeA) {
					t.Fatalf("seed %d: the first node was lost:\n%s", seed, text(s))
				}
			}
			last := kubeNode("z", "10.0.0.9", "10.9.0.0/24") // so that there is something to wait for
			there["z"] = last
			f.put(last)
			want := &cluster.Snapshot{}
			for _, n := range there {
				read, _ := readNode(n, nil)
				want.Nodes = append(want.Nodes, read)
			}
			sortSnapshot(want)
			awaitText(t, k, nodeA+text(want))
			if t.Failed() {
				t.Logf("seed %d", seed)
			}
		})
	}
}

func TestWhatPolderDoesNotReadIsNoChange(t *testing.T) {
	changes := 0
	s := newStore("Node", func(obj any) (cluster.Node, []string) { return readNode(obj.(*corev1.Node), nil) }, func() { changes++ })
	step := func(what string, want int, err error) {
		t.Helper()
		must(t, err)
		if changes != want {
			t.Errorf("%s: %d changes, want %d", what, changes, want)
		}
	}
	a, b := kubeNode("a", "10.0.0.1", "10.1.0.0/24"), kubeNode("b", "10.0.0.2", "10.1.1.0/24")
	step("an empty list is news once", 1, s.Replace(nil, "1"))
	step("again", 1, s.Replace([]any{}, "1"))
	step("a node", 2, s.Add(a))
	step("its heartbeat", 2, s.Update(heartbeat(a)))
	step("another", 3, s.Add(b))
	step("a relist of the same", 3, s.Replace([]any{heartbeat(b), a}, "9"))
	step("a node without a pod CIDR", 4, s.Update(kubeNode("b", "10.0.0.2", "")))
	step("it goes", 5, s.Delete(b))
	step("it is gone", 5, s.Delete(b))
	step("a relist of less", 6, s.Replace(nil, "10"))
}

func TestLatestIsTheSameWhileNothingChanges(t *testing.T) {
	f := newFakeAPI(t)
	a := kubeNode("a", "10.0.0.1", "10.1.0.0/24")
	f.put(a)
	k := f.source(t, "a")
	run(t, k.Run)
	first := awaitText(t, k, nodeA)
	k.change() // as when a node changed and changed back before anybody looked
	if k.Latest() != first {
		t.Error("another Snapshot that says the same")
	}
}

func TestTheOrderOfEventsDoesNotMatter(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	objs := []any{
		kubePod("b", "a", "me", "10.1.0.1"), kubePod("a", "b", "me", "10.1.0.2"), kubePod("a", "a", "me", "10.1.0.3"),
		kubePod("a-b", "a", "me", "10.1.0.4"), kubePod("a", "bad", "me", "x"), kubePod("a", "worse", "me", "y"),
	}
	var want *cluster.Snapshot
	for range 50 {
		f := unheard(t, false, false)
		must(t, f.nodes.Replace(nil, ""))
		must(t, f.pods.Replace(nil, ""))
		r.Shuffle(len(objs), func(i, j int) { objs[i], objs[j] = objs[j], objs[i] })
		for _, o := range objs {
			must(t, f.pods.Add(o))
		}
		got := f.Latest()
		if want == nil {
			want = got
		}
		if !reflect.DeepEqual(got, want) || len(got.Pods) != 6 || len(got.Problems) != 2 {
			t.Fatalf("seed %d: got:\n%swant:\n%s", seed, text(got), text(want))
		}
	}
}

// A full informer keeps 15 kB for a node. Memory is what agents of large clusters run out of first.
func TestANodeCostsAtMost500Bytes(t *testing.T) {
	const n = 2000
	k := unheard(t, false, false)
	var err error
	transform := k.nodes.Transformer()
	slim := make([]any, n)
	before := heap()
	for i := range slim {
		node := kubeNode(fmt.Sprintf("ip-10-0-0-%d.eu-west-1.compute.internal", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), fmt.Sprintf("10.%d.%d.0/24", 1+i/250, i%250))
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, fmt.Sprintf("fd00:244:0:%x::/64", i))
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("fd30::%x", i+1)})
		if slim[i], err = transform(node); err != nil {
			t.Fatal(err)
		}
	}
	must(t, k.nodes.Replace(slim, "1"))
	slim = nil
	if each := int64(heap()-before) / n; each > 500 {
		t.Errorf("%d bytes a node", each)
	} else {
		t.Logf("%d bytes a node", each)
	}
	runtime.KeepAlive(k)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestMarkingTheNodeReadyWritesOnce(t *testing.T) {
	f := newFakeAPI(t)
	a := kubeNode("a", "10.0.0.1", "10.1.0.0/24")
	taint := corev1.Taint{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule}
	other := corev1.Taint{Key: "gpu", Value: "only", Effect: corev1.TaintEffectNoExecute}
	a.Spec.Taints = []corev1.Taint{taint, other}
	a.Status.Conditions = []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue},
		{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue, Reason: "NoRouteCreated"},
	}
	f.put(a)
	f.put(kubeNode("b", "10.0.0.2", "10.1.1.0/24"))
	k := f.source(t, "a")
	run(t, k.Run)
	awaitText(t, k, nodeA+nodeB)

	// Somebody else writes the node just before our second patch: it is made anew from what is there then.
	patches := 0
	f.beforePatch = func() {
		if patches++; patches == 2 {
			f.mu.Lock()
			n := f.objects["nodes"]["a"].DeepCopyObject().(*corev1.Node)
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "new", Effect: corev1.TaintEffectNoSchedule})
			f.store(n)
			f.mu.Unlock()
		}
	}
	must(t, k.MarkNetworkReady(t.Context()))
	if patches != 3 {
		t.Errorf("%d patches, want the status, one in conflict and one more", patches)
	}
	n := f.node("a")
	if !saysNetworkReady(n) || len(n.Status.Conditions) != 2 || n.Status.Conditions[0].Type != corev1.NodeReady || n.Status.Conditions[1].Reason != "PolderIsUp" {
		t.Errorf("conditions: %+v", n.Status.Conditions)
	}
	if keys := taintKeys(n); !slices.Equal(keys, []string{"gpu", "new"}) {
		t.Errorf("taints: %v", keys)
	}
	if len(n.Status.Images) != 40 || len(n.Spec.PodCIDRs) != 1 {
		t.Error("more was written than was to be")
	}

	// From when the watch says so, too, it asks and writes nothing.
	for s, ok := k.nodes.get("a"); !ok || !s.networkReady; s, ok = k.nodes.get("a") {
		<-k.Changed()
	}
	before := f.count("GET nodes/") + f.count("PATCH")
	must(t, k.MarkNetworkReady(t.Context()))
	if after := f.count("GET nodes/") + f.count("PATCH"); after != before {
		t.Errorf("%d requests about what was right", after-before)
	}

	// A cloud's controller that comes late takes it back: there is notice, and it is written again.
	f.put(a)
	for s, _ := k.nodes.get("a"); s.networkReady; s, _ = k.nodes.get("a") {
		<-k.Changed()
	}
	must(t, k.MarkNetworkReady(t.Context()))
	if n := f.node("a"); !saysNetworkReady(n) {
		t.Errorf("not marked again: %+v", n.Status.Conditions)
	}
}

func taintKeys(n *corev1.Node) (keys []string) {
	for _, t := range n.Spec.Taints {
		keys = append(keys, t.Key)
	}
	return keys
}

func TestMarkingANodeThatIsNotThereIsAnError(t *testing.T) {
	f := newFakeAPI(t)
	k := f.source(t, "nobody")
	err := k.MarkNetworkReady(t.Context())
	if err == nil || err.Error() != `read node nobody: nodes "nobody" not found` {
		t.Errorf("got: %v", err)
	}
}

func TestConfigurationsThatLeadNowhereAreClearErrors(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "empty"), "")
	write(t, filepath.Join(dir, "broken"), "clusters: {")
	for kubeconfig, want := range map[string]string{
		"":                           "find API server: unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined (outside a cluster, give --kubeconfig FILE or --manifests DIR)",
		filepath.Join(dir, "none"):   "find API server: read kubeconfig " + dir + "/none: open " + dir + "/none: no such file or directory",
		filepath.Join(dir, "empty"):  "find API server: read kubeconfig " + dir + "/empty: invalid configuration: no configuration has been provided",
		filepath.Join(dir, "broken"): "find API server: read kubeconfig " + dir + "/broken: yaml: line 1: ",
	} {
		_, err := Kube(kubeconfig, "a", "test", false, false, quiet())
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", kubeconfig, err, want)
		}
	}
}

func TestAKubeconfigIsEnough(t *testing.T) {
	f := newFakeAPI(t)
	f.put(kubeNode("a", "10.0.0.1", "10.1.0.0/24"))
	path := filepath.Join(t.TempDir(), "kubeconfig")
	write(t, path, "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: '"+f.URL+"'}}]}")
	k, err := Kube(path, "a", "test", false, false, logTo(t))
	must(t, err)
	run(t, k.Run)
	awaitText(t, k, nodeA)
}
