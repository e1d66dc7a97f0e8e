// Package agent is the loop that owns this node's state: it compiles what the cluster and the kernel say into
// tables, has the shell write them, and answers the CNI plugin. Watchers, requests and timers only send to it.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/ipam"
	"github.com/polder-net/polder/internal/netdev"
	"github.com/polder-net/polder/internal/service"
)

// How often the loop looks at the kernel without being told to, and how long it lets a burst of its changes settle.
const (
	resyncEvery = 5 * time.Second
	settle      = time.Second
)

// Source is where the cluster's state comes from: the Kubernetes API or a folder of manifests.
type Source interface {
	Run(ctx context.Context) error
	Changed() <-chan struct{}
	Latest() *cluster.Snapshot // nil until everything has been read once
}

// Config is what an agent is told.
type Config struct {
	Node    string
	Version string
	Options desired.Options
	Source  Source

	State  string // folder of the socket and the lock
	Pins   string // folder on a bpf file system
	CNIBin string // where to install the plugin, and where the runtime finds the others; empty: neither
	CNINet string // where the runtime reads network configurations
	Plugin string // the plugin's binary to install
	Listen string // health and metrics; empty: nowhere

	// Sockets is the control group whose processes' sockets connect to Services' backends; empty: none do, and packets
	// are translated on their way.
	Sockets string

	// Tell is called with what a pod's owner should know; nil: the log has it.
	Tell func(context.Context, PodEvent) error

	// Ready is called once this node can serve pods, again until it returns nil; nil: nobody wants to know.
	Ready func(context.Context) error
}

// Agent is one node's agent.
type Agent struct {
	cfg Config
	log *slog.Logger

	kernel   *netdev.Kernel
	datapath *datapath.Datapath
	proxy    *proxyMetrics // nil: this agent serves no Services

	// The loop's own: nothing else touches these.
	snapshot *cluster.Snapshot
	self     cluster.Node
	pods     map[string]cluster.LocalPod // by link
	pools    map[bool]*ipam.Pool         // by "is IPv4"
	reserved map[netip.Addr]datapath.Reservation
	ports    map[service.Frontend]datapath.HostPort // of the node, that lead to pods, as the pinned map has them
	want     desired.Tables                         // as of the last sync, and the pods since
	problems []cluster.Problem
	syncErr  error     // why the last sync was not whole
	synced   bool      // once, at least
	syncedAt time.Time // the last time

	installed bool // the plugin, by this process

	services services
	policies policies
	sockets  cluster.Local // what of Local is about sockets: it never changes

	calls    chan call
	repairs  []api.Repair
	status   atomic.Pointer[api.NodeReport] // what the loop shows to others
	repaired atomic.Int64
	beat     atomic.Int64 // when the loop last turned, Unix seconds
}

// call is a request on its way through the loop.
type call struct {
	ctx   context.Context // done: the caller has gone, and may have asked for the opposite since
	req   api.Request
	netns *os.File
	reply chan<- func() api.Response // what is left to do of the answer needs nothing of the loop's
}

// New opens what the agent needs of the node. Nothing changes for packets until Run.
func New(cfg Config, log *slog.Logger) (*Agent, error) {
	if err := netdev.LoadConntrack(); err != nil {
		log.Warn("flows that others translate cannot be told", "err", err)
	}
	dp, err := datapath.Open(cfg.Pins, log)
	if err != nil {
		return nil, err
	}
	kernel, err := netdev.Open(log)
	if err != nil {
		dp.Close()
		return nil, err
	}
	a := &Agent{cfg: cfg, log: log, kernel: kernel, datapath: dp, calls: make(chan call),
		pods: map[string]cluster.LocalPod{}, pools: map[bool]*ipam.Pool{}}
	a.openPolicies()
	if err := a.openServices(); err != nil {
		return nil, errors.Join(err, dp.Close(), kernel.Close())
	}
	a.status.Store(&api.NodeReport{Node: cfg.Node, Version: cfg.Version})
	return a, nil
}

// Run serves until ctx is done. The datapath goes on without it.
func (a *Agent) Run(ctx context.Context) error {
	defer a.datapath.Close()
	defer a.kernel.Close()
	defer a.closeServices()
	lock, err := lockState(a.cfg.State)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := a.recover(); err != nil {
		return err
	}
	socket, err := api.Listen(filepath.Join(a.cfg.State, filepath.Base(api.Socket)))
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	kernel, err := a.kernel.Watch(ctx)
	if err != nil {
		socket.Close()
		return err
	}
	group.Go(func() error { return a.cfg.Source.Run(ctx) })
	group.Go(func() error { return api.Serve(ctx, socket, a.send) })
	group.Go(func() error { return a.serveHTTP(ctx) })
	group.Go(func() error { a.announce(ctx); return nil })
	a.runServices(ctx, group)
	if a.policies.table != nil {
		group.Go(func() error { return a.followDrops(ctx) })
	}
	group.Go(func() error { return a.loop(ctx, kernel) })
	return group.Wait()
}

// lockState makes sure that one agent alone runs on this node: two would give out the same addresses.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: another agent runs on this node: %w", path, err)
	}
	return f, nil
}

// recover reads back what earlier agents left, and removes the links whose ADD never finished.
func (a *Agent) recover() error {
	pods, unfinished, err := a.kernel.Pods()
	if err != nil {
		return fmt.Errorf("read pods back: %w", err)
	}
	for _, link := range unfinished {
		a.log.Info("removing link of an ADD that did not finish", "link", link)
		if err := a.kernel.DeletePod(link); err != nil {
			return fmt.Errorf("remove unfinished link: %w", err)
		}
	}
	if err := a.fillPolicies(pods); err != nil {
		return err
	}
	a.setPods(pods)
	if a.reserved, err = a.datapath.Reservations(); err != nil {
		return err
	}
	if a.ports, err = a.datapath.HostPorts(); err != nil {
		return err
	}
	return a.dropLostPorts()
}

func (a *Agent) setPods(pods []cluster.LocalPod) {
	before := a.pods
	a.pods = make(map[string]cluster.LocalPod, len(pods))
	for _, p := range pods {
		if p.Damaged && !before[p.Link].Damaged {
			a.log.Warn("pod's record is damaged", "link", p.Link, "addresses", p.Addresses, "held", p.Held)
		}
		a.pods[p.Link] = p
	}
}

// loop is the one loop. Requests come first: they never wait for a burst to settle.
func (a *Agent) loop(ctx context.Context, kernel <-chan struct{}) error {
	tick := time.NewTicker(resyncEvery)
	defer tick.Stop()
	var settled <-chan time.Time
	a.sync()
	for {
		a.beat.Store(time.Now().Unix())
		select {
		case <-ctx.Done():
			return nil
		case c := <-a.calls:
			if c.ctx.Err() == nil && !api.Gone(c.ctx) {
				c.reply <- a.begin(c.ctx, c.req, c.netns)
			}
			close(c.reply)
			continue
		case <-a.cfg.Source.Changed():
			if a.refresh() {
				continue
			}
		case now := <-a.policies.again:
			a.policies.again = nil
			if a.retirePolicies(now) == nil {
				continue
			} // else all is to be read anew
		case <-tick.C:
		case <-settled:
			settled = nil
		case _, ok := <-kernel:
			if !ok {
				kernel = nil // ctx is done
			}
			if settled == nil {
				settled = time.After(settle)
			}
			continue
		}
		a.sync()
	}
}

// send hands a request to the loop and waits for its answer.
func (a *Agent) send(ctx context.Context, req api.Request, netns *os.File) api.Response {
	reply := make(chan func() api.Response, 1)
	select {
	case a.calls <- call{ctx, req, netns, reply}:
		if finish, ok := <-reply; ok { // the loop uses netns until it has answered
			return finish()
		}
	case <-ctx.Done():
	}
	return refuse(api.CodeTryAgain, "the agent is busy or stopping")
}

// announce tells the cluster that this node's network is up, as soon as it is, and again should it forget. Ready asks
// nobody when the cluster knows.
func (a *Agent) announce(ctx context.Context) {
	if a.cfg.Ready == nil {
		return
	}
	wait := time.Second
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if !a.status.Load().Ready {
			continue
		}
		wait = resyncEvery
		if err := a.cfg.Ready(ctx); err != nil {
			a.log.Warn("node is not marked as ready", "err", err)
		}
	}
}
