package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/netdev"
	"github.com/polder-net/polder/internal/service"
)

// How often the maps of Services are read back: reading tens of thousands of rows is work, and nobody's hands are in
// there by mistake.
const rereadServices = time.Minute

// services is the loop's half of the service proxy.
type services struct {
	table  *service.Table
	served *cluster.Services // what table has been told
	read   time.Time         // when the maps were last read back
	stale  chan struct{}     // a notice: datagram sockets may be connected to what is gone
}

func newServices() services { return services{stale: make(chan struct{}, 1)} }

// refreshServices takes a change of the cluster that concerns Services alone, and nothing else of the node. It returns
// false if there is more to it.
func (a *Agent) refreshServices() bool {
	snap := a.cfg.Source.Latest()
	if !a.synced || a.syncErr != nil || !sameNodes(snap, a.snapshot) {
		return false
	}
	a.snapshot = snap
	_, err := a.syncServices()
	return err == nil
}

// syncServices brings the datapath's tables of Services to what the snapshot says. What it costs depends on what changed.
func (a *Agent) syncServices() (changes []change, err error) {
	if !a.cfg.Options.Services {
		return nil, nil
	}
	s := &a.services
	self := a.serviceSelf()
	if s.table == nil {
		s.table = service.NewTable(self)
	}
	s.table.SetSelf(self)
	for _, name := range a.snapshot.Services.ChangedSince(s.served) {
		s.table.SetService(name, a.snapshot.Services.Get(name))
	}
	s.served = a.snapshot.Services
	return a.writeServices(s.table.Changed())
}

func (a *Agent) writeServices(changed map[service.PortName]*service.Port) (changes []change, err error) {
	s, now := &a.services, time.Now()
	switch {
	case !a.datapath.ServicesKnown() || now.Sub(s.read) >= rereadServices:
		first := s.read.IsZero()
		s.read = now
		var repaired []datapath.Change
		repaired, err = a.datapath.ResyncServices(s.table.Ports(), now)
		if !first && len(changed) == 0 {
			for _, c := range repaired {
				changes = append(changes, change{c.Table, c.Row, c.Verb})
			}
		}
	case len(changed) > 0 || a.datapath.RetiredServices():
		err = a.datapath.SyncServices(changed, now)
	default:
		return nil, nil
	}
	if a.cfg.Sockets != "" && movesDatagrams(changed) {
		select {
		case s.stale <- struct{}{}:
		default:
		}
	}
	return changes, err
}

// socketGroup is the control group whose sockets are to be looked at; empty: none.
func (a *Agent) socketGroup() string {
	if !a.cfg.Options.Services {
		return ""
	}
	return a.cfg.Sockets
}

// movesDatagrams says whether sockets may be left with a backend that is gone.
func movesDatagrams(changed map[service.PortName]*service.Port) bool {
	for name := range changed {
		if name.Protocol == cluster.UDP {
			return true
		}
	}
	return false
}

// serviceSelf is what choosing a backend needs to know of this node, and which addresses no Service may claim.
func (a *Agent) serviceSelf() service.Self {
	node, _ := a.snapshot.Node(a.cfg.Node)
	self := service.Self{Node: a.cfg.Node, Zone: node.Zone, ExternalIPs: a.cfg.Options.ExternalIPs}
	return self
}

// closeStale closes datagram sockets that are connected to backends which are gone, in all pods and the node itself,
// whenever the loop says that there may be some. It is slow, and nobody waits for it: it has its own kernel.
func (a *Agent) closeStale(ctx context.Context) error {
	kernel, err := netdev.Open(a.log)
	if err != nil {
		return err
	}
	defer kernel.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.services.stale:
		}
		if err := a.closeStaleIn(kernel); err != nil {
			a.log.Warn("datagram sockets may stay with a backend that is gone", "err", err)
		}
	}
}

func (a *Agent) closeStaleIn(kernel *netdev.Kernel) error {
	errs := []error{a.datapath.CloseStaleSockets()}
	pods, err := kernel.PodNamespaces()
	errs = append(errs, err)
	for _, p := range pods {
		fd := int(p.Netns.Fd())
		errs = append(errs, onThread(func() error {
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace of %s: %w", p.Link, err)
			}
			return a.datapath.CloseStaleSockets()
		}))
		p.Netns.Close()
	}
	return errors.Join(errs...)
}

// onThread runs f on a thread that ends with it, so that nobody else ever finds itself where f went.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- f()
	}()
	return <-done
}

// sameNodes says whether what concerns nodes, pods and namespaces is one and the same in two snapshots: then only
// Services differ.
func sameNodes(a, b *cluster.Snapshot) bool {
	return a != nil && b != nil && sameList(a.Nodes, b.Nodes) && sameList(a.Pods, b.Pods) &&
		sameList(a.Namespaces, b.Namespaces) && sameList(a.ServiceCIDRs, b.ServiceCIDRs) && sameList(a.Problems, b.Problems)
}

func sameList[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func (a *Agent) serviceProblems() []cluster.Problem {
	if a.services.table == nil {
		return nil
	}
	return a.services.table.Problems()
}
