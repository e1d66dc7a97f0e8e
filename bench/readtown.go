package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/bench/apiserver"
	"github.com/polder-net/polder/bench/kubeproxy"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/watch"
)

// readTown reads a town as the agent does, and says how much heap that keeps, in MB.
func readTown(ctx context.Context, t objects.Town) (_ *cluster.Snapshot, source *watch.KubeSource, heap float64, err error) {
	api := apiserver.New()
	defer api.Close()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, nil, 0, err
	}
	go api.Serve(l)
	api.Put(apiserver.Nodes, objects.NewNode(t.Node, netip.MustParseAddr("172.30.0.11"), netip.MustParsePrefix("10.244.1.0/24")))
	t.Put(api)
	folder, err := os.MkdirTemp("", "polder-bench-town-")
	if err != nil {
		return nil, nil, 0, err
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "kubeconfig")
	if err := kubeproxy.Kubeconfig(file, "http://"+l.Addr().String()); err != nil {
		return nil, nil, 0, err
	}
	before := heapMB()
	if source, err = watch.Kube(file, t.Node, "bench", false, true, slog.New(slog.DiscardHandler)); err != nil {
		return nil, nil, 0, err
	}
	snap, err := firstSnapshot(ctx, source)
	if err != nil {
		return nil, nil, 0, err
	}
	heap = heapMB() - before
	runtime.KeepAlive(api) // its objects were there before
	return snap, source, heap, nil
}

// firstSnapshot runs a source until it has read everything.
func firstSnapshot(ctx context.Context, source *watch.KubeSource) (*cluster.Snapshot, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the API server's objects are not read after two minutes"))
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	for {
		if snap := source.Latest(); snap != nil {
			return snap, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// heapMB is how much of the heap is in use.
func heapMB() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}

// processorTime is what this program has had of the processors: what else runs on the machine does not change it.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func tableOf(s *cluster.Snapshot, node string) *policy.Table {
	t := policy.NewTable(node)
	t.SetNodes(s.Nodes)
	for name, n := range s.AllNamespaces.All() {
		t.SetNamespace(name.Name, n)
	}
	for name, p := range s.NetworkPolicies.All() {
		t.SetNetworkPolicy(name, p)
	}
	for name, p := range s.ClusterPolicies.All() {
		t.SetClusterPolicy(name.Name, p)
	}
	for name, p := range s.AllPods.All() {
		t.SetPod(name, p)
	}
	return t
}
