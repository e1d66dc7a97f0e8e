package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"runtime/debug"
	"slices"
	"time"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/netdev"
	"github.com/polder-net/polder/internal/route"
)

const maxRepairs = 100 // remembered for `polder status`

// change is what either half of the shell had to set right.
type change struct{ table, row, verb string }

// sync compiles everything anew and writes what differs. It never gives up half-way: what could not be written is
// still different next time. Nothing is written, let alone deleted, before the whole of the cluster has been read, nor
// while the cluster does not know this node: a Node object that went, or a folder that somebody emptied, is no
// reason to take running pods off the network.
func (a *Agent) sync() {
	snap := a.cfg.Source.Latest()
	if snap == nil {
		return
	}
	started := time.Now()
	a.snapshot = snap
	if !slices.ContainsFunc(snap.Nodes, func(n cluster.Node) bool { return n.Name == a.cfg.Node }) {
		a.conclude(fmt.Errorf("there is no Node %s in the cluster: what is here stays as it is", a.cfg.Node))
		return
	}
	local, forgotten, err := a.readLocal()
	if err != nil {
		a.conclude(err)
		return
	}
	want, changes, err := a.write(local, forgotten)
	a.noteRepairs(want, changes)
	if !a.synced { // reading and compiling the whole cluster has left more garbage than anything that follows
		go debug.FreeOSMemory()
	}
	a.want, a.synced, a.syncedAt = want, true, started
	if err == nil {
		err = a.installCNI()
	}
	a.conclude(err)
	a.log.Debug("synced", "took", time.Since(started), "changes", len(changes))
}

// conclude shows what a sync came to. An error is logged once, not every few seconds.
func (a *Agent) conclude(err error) {
	if err != nil && (a.syncErr == nil || a.syncErr.Error() != err.Error()) {
		a.log.Error("node is not as it should be", "err", err)
	}
	a.syncErr = err
	a.publish()
}

// write brings the kernel to what Compile says, and writes anew the records that the kernel forgot. Maps are complete
// before programs that read them take the place of others.
func (a *Agent) write(local cluster.Local, forgotten []cluster.LocalPod) (want desired.Tables, changes []change, err error) {
	judged := append(a.syncPolicies(), a.verifyPolicies()...)
	for i := range local.Pods {
		local.Pods[i] = a.judge(local.Pods[i])
		a.pods[local.Pods[i].Link] = local.Pods[i]
	}
	want, a.problems = desired.Compile(a.cfg.Options, a.snapshot, local)
	var errs []error
	tunnel, err := a.kernel.SyncTunnel(want.Tunnel)
	if err != nil {
		errs = append(errs, err)
	} else if len(tunnel) > 0 { // its index is in the tables
		if local.Tunnel, err = a.kernel.Tunnel(); err != nil {
			errs = append(errs, err)
		}
		want, a.problems = desired.Compile(a.cfg.Options, a.snapshot, local)
	}
	a.self = want.Self
	errs = append(errs, a.syncPools())

	maps, err := a.datapath.SyncMaps(want)
	errs = append(errs, err)
	complete := err == nil
	if complete {
		errs = append(errs, a.swapped(len(maps) > 0))
	}
	a.noteSelf()
	a.verifyServices()
	errs = append(errs, a.notePorts())
	services, err := a.syncServices()
	errs = append(errs, err)
	programs, err := a.attach(want.Hooks, complete)
	errs = append(errs, err)
	sockets, err := a.datapath.AttachSockets(a.socketGroup())
	errs = append(errs, err)
	kernel, err := a.kernel.Sync(want)
	errs = append(errs, err)
	mtus, err := a.syncMTU(want.PodMTU)
	errs = append(errs, err)
	records, err := a.writeRecords(forgotten)
	errs = append(errs, err)

	for _, c := range slices.Concat(maps, sockets) {
		changes = append(changes, change{c.Table, c.Row, c.Verb})
	}
	for _, c := range slices.Concat(tunnel, kernel) {
		changes = append(changes, change{c.Table, c.Row, c.Verb})
	}
	return want, slices.Concat(changes, judged, services, programs, mtus, records), errors.Join(errs...)
}

// readLocal lists what the kernel has, and the pods whose records it has no more.
func (a *Agent) readLocal() (local cluster.Local, forgotten []cluster.LocalPod, err error) {
	local = a.sockets
	local.Node = a.cfg.Node
	if local.Pods, forgotten, err = a.readPods(); err != nil {
		return local, nil, err
	}
	var own, peers []netip.Addr
	for _, n := range a.snapshot.Nodes {
		if n.Name == a.cfg.Node {
			own = n.Addresses
		} else {
			peers = append(peers, n.Addresses...)
		}
	}
	if local.Uplinks, local.Others, err = a.kernel.Uplinks(own, peers); err != nil {
		return local, nil, fmt.Errorf("list uplinks: %w", err)
	}
	if local.Paths, err = a.kernel.Paths(peers); err != nil {
		return local, nil, fmt.Errorf("list paths to nodes: %w", err)
	}
	if local.Tunnel, err = a.kernel.Tunnel(); err != nil {
		return local, nil, fmt.Errorf("find tunnel device: %w", err)
	}
	if a.guardsOthers() {
		if local.Gateways, err = a.kernel.Gateways(); err != nil {
			return local, nil, fmt.Errorf("list gateways: %w", err)
		}
	}
	if a.cfg.Options.Services {
		if local.Translators, err = a.kernel.Translators(); err != nil {
			return local, nil, err
		}
	}
	return local, forgotten, nil
}

// readPods lists the pods that there are, with all that this agent knows of them, and takes them over.
func (a *Agent) readPods() (pods, forgotten []cluster.LocalPod, err error) {
	if pods, _, err = a.kernel.Pods(); err != nil {
		return nil, nil, fmt.Errorf("list pods: %w", err)
	}
	forgotten = a.recall(pods)
	lost, err := a.recallLost(pods)
	if err != nil {
		return nil, nil, err
	}
	pods, forgotten = append(pods, lost...), append(forgotten, lost...)
	if err := a.fillPolicies(pods); err != nil {
		return nil, nil, err
	}
	a.fillPorts(pods)
	if err := a.notePods(pods); err != nil {
		return nil, nil, err
	}
	return pods, forgotten, a.dropLostPorts()
}

// recall fills in the pods whose records somebody damaged since this agent read them, and returns them. An agent that
// never read them can only say so.
func (a *Agent) recall(pods []cluster.LocalPod) (forgotten []cluster.LocalPod) {
	for i, p := range pods {
		known, ok := a.pods[p.Link]
		if !p.Damaged || !ok || known.Damaged || known.Index != p.Index {
			continue
		}
		known.Up, known.MTU, known.HostMAC, known.PodMAC = p.Up, p.MTU, p.HostMAC, p.PodMAC
		pods[i] = known
		forgotten = append(forgotten, known)
	}
	return forgotten
}

func (a *Agent) writeRecords(pods []cluster.LocalPod) (changes []change, err error) {
	var errs []error
	for _, p := range pods {
		if err := a.kernel.WriteRecord(p); err == nil {
			changes = append(changes, change{"records", p.Link, "replace"})
		} else if !errors.Is(err, netdev.ErrNotFound) { // it went meanwhile
			errs = append(errs, err)
		}
	}
	return changes, errors.Join(errs...)
}

func (a *Agent) syncMTU(mtu int) (changes []change, err error) {
	var errs []error
	for _, p := range a.pods {
		if p.MTU == mtu || p.Behind {
			continue
		}
		if err := a.kernel.SetPodMTU(p, mtu); err != nil {
			if !errors.Is(err, netdev.ErrNotFound) { // it went meanwhile
				errs = append(errs, err)
			}
			continue
		}
		changes = append(changes, change{"mtu", p.Link, "replace"})
	}
	return changes, errors.Join(errs...)
}

// noteRepairs remembers the changes that neither the cluster nor a pod asked for: somebody else's hands were there.
func (a *Agent) noteRepairs(want desired.Tables, changes []change) {
	if !a.synced || len(changes) == 0 || !sameWish(want, a.want) {
		return
	}
	for _, c := range changes {
		a.log.Warn("repaired what somebody else changed", "table", c.table, "row", c.row, "verb", c.verb)
		a.repairs = append(a.repairs, api.Repair{Time: time.Now(), Table: c.table, Row: c.row, Verb: c.verb})
		a.repaired.Add(1)
	}
	if n := len(a.repairs) - maxRepairs; n > 0 {
		a.repairs = slices.Delete(a.repairs, 0, n)
	}
}

// sameWish compares what was wanted with what is, whatever indexes the kernel has given to links since: a device that
// somebody deleted comes back with another.
func sameWish(a, b desired.Tables) bool {
	withoutIndexes := func(t desired.Tables) desired.Tables {
		hooks := map[desired.Hook]int{}
		for h := range t.Hooks {
			hooks[h] = 0
		}
		t.Hooks, t.Config.Tunnel = hooks, 0
		return t
	}
	return reflect.DeepEqual(withoutIndexes(a), withoutIndexes(b))
}

// remember adds a pod to what is wanted, so that the next sync does not take it for somebody else's doing.
func (a *Agent) remember(p cluster.LocalPod, rows route.PodRows) {
	a.pods[p.Link] = p
	if !a.synced {
		return
	}
	maps.Copy(a.want.Endpoints, rows.Endpoints)
	maps.Copy(a.want.Routes, rows.Routes)
	maps.Copy(a.want.Neighbours, rows.Neighbours)
	for _, hook := range a.podHooks(p.Link) {
		a.want.Hooks[hook] = p.Index
	}
}

func (a *Agent) forget(p cluster.LocalPod) {
	delete(a.pods, p.Link)
	rows := route.CompilePod(a.self, p)
	for k := range rows.Endpoints {
		delete(a.want.Endpoints, k)
	}
	for k := range rows.Routes {
		delete(a.want.Routes, k)
	}
	for k := range rows.Neighbours {
		delete(a.want.Neighbours, k)
	}
	for _, hook := range a.podHooks(p.Link) {
		delete(a.want.Hooks, hook)
	}
}
