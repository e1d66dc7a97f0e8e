package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/health"
	"github.com/polder-net/polder/internal/netdev"
	"github.com/polder-net/polder/internal/service"
)

// The maps of Services are read back as a whole every minute, which finds what nobody wanted, unless there are too many
// ports to do it while pods wait; and so many rows at each sync, which finds what is missing. And how often flows that
// have ended are looked for.
const (
	rereadServices = time.Minute
	rereadPorts    = 5000
	verifyRows     = 5000
	sweepEvery     = 10 * time.Second
)

// services is the loop's half of the service proxy.
type services struct {
	table  *service.Table
	served *cluster.Services // what table has been told
	read   time.Time         // when the maps were last read back
	kept   bool              // what nobody wanted was left alone then, as the source had not said everything
	stale  chan struct{}     // a notice: datagrams may go to what is gone

	unopened []cluster.Problem // host ports that lead nowhere

	proxy  health.Proxy
	checks *health.Server // of load balancers
	failed string         // what its last Sync could not do
	marks  portMarks      // what others are told of table's ports
}

func (a *Agent) openServices() error {
	a.services.stale = make(chan struct{}, 1)
	if !a.cfg.Options.Services {
		return nil
	}
	a.services.table = service.NewTable(service.Self{})
	a.services.checks = health.NewServer(&a.services.proxy)
	a.proxy = newProxyMetrics(&a.services.proxy)
	if a.cfg.Sockets == "" {
		return nil
	}
	var err error
	a.sockets.Cookie, err = datapath.NetnsCookie()
	a.sockets.ClosesSockets = datapath.CanCloseSockets()
	return err
}

func (a *Agent) closeServices() {
	if a.services.checks != nil {
		a.services.checks.Close()
	}
}

// runServices starts what serves beside the loop.
func (a *Agent) runServices(ctx context.Context, group *errgroup.Group) {
	if a.cfg.Options.Services || a.cfg.Options.Policies {
		group.Go(func() error { return a.endFlows(ctx) })
	}
	if !a.cfg.Options.Services || a.cfg.Listen == "" {
		return
	}
	for at, handler := range map[netip.AddrPort]http.Handler{
		health.ProxyAddr(): a.services.proxy.Handler(), health.StatusAddr(): health.Status(a.proxy.handler()),
	} {
		group.Go(func() error { health.Serve(ctx, a.log, at, handler); return nil })
	}
}

// refresh takes a change of the cluster that concerns Services and policies alone, and nothing else of the node. It returns
// false if there is more to it.
func (a *Agent) refresh() bool {
	snap := a.cfg.Source.Latest()
	if !a.synced || a.syncErr != nil || !sameNodes(snap, a.snapshot) {
		return false
	}
	a.snapshot = snap
	_, err := a.syncServices()
	return a.refreshPolicies() && err == nil
}

// syncServices brings the datapath's tables of Services to what the snapshot says. What it costs depends on what changed.
func (a *Agent) syncServices() (changes []change, err error) {
	if !a.cfg.Options.Services {
		return nil, nil
	}
	s, begun := &a.services, time.Now()
	names := a.snapshot.Services.ChangedSince(s.served)
	for _, name := range names {
		s.table.SetService(name, a.snapshot.Services.Get(name))
	}
	s.served = a.snapshot.Services
	changed := s.table.Changed()
	s.marks.note(changed)
	if len(changed) > 0 {
		s.proxy.Queued(begun)
		a.proxy.observeChanges(len(names), len(changed))
	}
	changes, wrote, err := a.writeServices(changed)
	if wrote {
		a.proxy.observeSync(time.Since(begun), err == nil)
	}
	if err == nil {
		s.proxy.Updated(time.Now())
		a.checkServices()
	}
	return changes, err
}

// verifyServices looks for rows that somebody else's hands took away; syncServices puts them back.
func (a *Agent) verifyServices() {
	if a.cfg.Options.Services && a.datapath.ServicesKnown() && !a.datapath.VerifyServices(verifyRows) {
		a.log.Warn("rows of Services are not as they were written: all are compared")
	}
}

// writeServices says what it had to repair, and whether there was anything to do.
func (a *Agent) writeServices(changed map[service.PortName]*service.Port) (repaired []change, wrote bool, err error) {
	s, now := &a.services, time.Now()
	switch {
	case !a.datapath.ServicesKnown() || s.kept && !a.snapshot.Incomplete || now.Sub(s.read) >= rereadServices && len(s.table.Ports()) <= rereadPorts:
		first, kept := s.read.IsZero(), s.kept
		s.read, s.kept = now, a.snapshot.Incomplete
		var found []datapath.Change
		found, err = a.datapath.ResyncServices(s.table.Ports(), a.snapshot.Incomplete, now)
		if !first && !kept && len(changed) == 0 {
			for _, c := range found {
				repaired = append(repaired, change{c.Table, c.Row, c.Verb})
			}
		}
		if first {
			s.notice()
		}
	case len(changed) > 0 || a.datapath.RetiredServices():
		err = a.datapath.SyncServices(changed, now)
	default:
		return nil, false, nil
	}
	for name := range changed {
		if name.Protocol == cluster.UDP {
			s.notice()
			break
		}
	}
	return repaired, true, err
}

func (s *services) notice() {
	select {
	case s.stale <- struct{}{}:
	default:
	}
}

// noteSelf tells the table what this node is, and which addresses no Service may claim.
func (a *Agent) noteSelf() {
	if !a.cfg.Options.Services {
		return
	}
	node, known := a.snapshot.Node(a.cfg.Node)
	self := service.Self{Node: a.cfg.Node, Zone: node.Zone, ExternalIPs: a.cfg.Options.ExternalIPs, Reserved: map[netip.Addr]string{}}
	for _, n := range a.snapshot.Nodes {
		for _, addr := range n.Addresses {
			self.Reserved[addr] = "Node/" + n.Name
		}
	}
	a.services.table.SetSelf(self)
	a.services.proxy.SetEligible(known && !node.Leaving)
}

// socketGroup is the control group whose sockets are to be looked at; empty: none.
func (a *Agent) socketGroup() string {
	if !a.cfg.Options.Services {
		return ""
	}
	return a.cfg.Sockets
}

func (a *Agent) serviceProblems() []cluster.Problem {
	if a.services.table == nil {
		return nil
	}
	return append(a.services.table.Problems(), a.services.unopened...)
}

// endFlows ends what outlives its use: flows that nothing uses any more, and datagrams' flows and sockets that would go on
// sending to backends which are gone. It is slow, and nobody waits for it: it has its own kernel.
func (a *Agent) endFlows(ctx context.Context) error {
	kernel, err := netdev.Open(a.log)
	if err != nil {
		return err
	}
	defer kernel.Close()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		stale := false
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-a.services.stale:
			stale = true
		}
		if a.cfg.Options.Services {
			a.sweepServices(kernel, stale)
		}
		if a.cfg.Options.Policies {
			if _, err := a.datapath.SweepJudged(); err != nil {
				a.log.Warn("judged flows that have ended are still remembered", "err", err)
			}
		}
	}
}

func (a *Agent) sweepServices(kernel *netdev.Kernel, stale bool) {
	begun := time.Now()
	ended, err := a.datapath.SweepFlows()
	if stale && a.sockets.ClosesSockets {
		err = errors.Join(err, a.closeSockets(kernel))
	}
	a.proxy.observeConntrack(time.Since(begun), ended)
	if err != nil {
		a.log.Warn("datagrams may go on to a backend that is gone", "err", err)
	}
}

// closeSockets closes datagram sockets that are connected to backends which are gone, of the node itself and all pods.
func (a *Agent) closeSockets(kernel *netdev.Kernel) error {
	errs := []error{a.datapath.CloseStaleSockets()}
	pods, err := kernel.PodNamespaces()
	errs = append(errs, err)
	for _, p := range pods {
		if err := p.Visit(a.datapath.CloseStaleSockets); err != nil {
			errs = append(errs, fmt.Errorf("in the pod behind %s: %w", p.Link, err))
		}
		p.Netns.Close()
	}
	return errors.Join(errs...)
}

// sameNodes says whether what concerns nodes is one and the same in two snapshots: then what differs is about Services and
// policies.
func sameNodes(a, b *cluster.Snapshot) bool {
	return a != nil && b != nil && a.Incomplete == b.Incomplete && sameList(a.ServiceCIDRs, b.ServiceCIDRs) &&
		(sameList(a.Nodes, b.Nodes) || reflect.DeepEqual(a.Nodes, b.Nodes))
}

func sameList[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
