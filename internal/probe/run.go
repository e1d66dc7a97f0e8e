package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/polder-net/polder/internal/cluster"
)

// Target is a node to be probed.
type Target struct {
	Node cluster.Node // as the cluster's objects say it

	// Connect starts a prober on the node and returns its standard input and output. Closing ends the prober.
	Connect func(ctx context.Context) (io.ReadWriteCloser, error)
}

// Options say what to check.
type Options struct {
	Targets []Target
	Pods    []cluster.Pod // as the cluster's objects say them: each must be found, at its address

	// Denied says of a connection or datagram that it should not get through: it is not tried. Nil: all should.
	Denied func(from netip.Addr, to netip.AddrPort, udp bool) bool

	All      bool                          // every pair, however many they are
	Progress func(done, total, failed int) // called after each probe, by one at a time; may be nil
}

// Run checks a network. The error is one of the check itself; what the network does wrong is in the report.
func Run(ctx context.Context, o Options) (Report, error) {
	began := time.Now()
	sessions := connect(ctx, o.Targets)
	closeAll := func() {
		for _, s := range sessions {
			s.close()
		}
	}
	defer closeAll()
	// Cutting the probers off makes all that is under way fail, and so end.
	defer context.AfterFunc(ctx, closeAll)()
	r, err := run(sessions, o)
	if ctx.Err() != nil {
		return Report{}, context.Cause(ctx)
	}
	r.Seconds = time.Since(began).Seconds()
	return r, err
}

// run checks a network whose probers are ready.
func run(sessions []*session, o Options) (Report, error) {
	ends := name(sessions, o.Pods)
	nodes := 0
	for _, e := range ends {
		if e.isNode() {
			nodes++
		}
	}
	pairs, possible := choosePairs(nodes, len(ends), o.All)
	trials, denied := plan(ends, pairs, o.Denied)
	if len(trials) == 0 && denied > 0 {
		return Report{}, errors.New("there is nothing to prove: policies deny everything")
	}
	if len(trials) == 0 {
		return Report{}, errors.Join(errors.New("there is nothing to prove: not even two nodes, or a node and a pod"), failuresOf(sessions))
	}
	r := Report{Nodes: nodes, Pods: len(ends) - nodes, Pairs: len(pairs), Possible: possible, Denied: denied}
	r.Probes = dialAll(sessions, trials, o.Progress)
	t := &tally{laws: newLaws()}
	checkStart(t, sessions)
	checkAddresses(t, ends)
	checkPods(t, sessions, o.Pods)
	for i := range trials {
		trials[i].judge(t)
	}
	t.sort()
	r.Laws, r.Failures = t.laws, append([]Failure{}, t.failures...)
	r.Notes = notes(r, ends, trials)
	return r, nil
}

func failuresOf(sessions []*session) error {
	var all []error
	for _, s := range sessions {
		if s.failure != nil {
			all = append(all, fmt.Errorf("%s: %w", s.node.Name, s.failure))
		}
	}
	return errors.Join(all...)
}

// name lists all endpoints, the nodes first, and names them: a pod by the object that has one of its addresses.
// Network namespaces that are no pods of this cluster are left out: those of other containers on a node, and where a
// node's own uplink leads when it is a virtual machine's or a container's.
func name(sessions []*session, pods []cluster.Pod) []*end {
	owner := map[string]map[netip.Addr]string{}
	for _, p := range pods {
		if owner[p.Node] == nil {
			owner[p.Node] = map[netip.Addr]string{}
		}
		for _, a := range p.Addresses {
			owner[p.Node][a] = p.Namespace + "/" + p.Name
		}
	}
	var nodes, others []*end
	for _, s := range sessions {
		for i := range s.ends {
			e := &s.ends[i]
			if e.isNode() {
				e.name = s.node.Name
				nodes = append(nodes, e)
				continue
			}
			e.name = e.podName(owner[s.node.Name])
			if e.name != "" || e.isPod(sessions) {
				e.name = cmp.Or(e.name, s.node.Name+"/"+e.Link)
				others = append(others, e)
			}
		}
	}
	return append(nodes, others...)
}

func (e *end) podName(owner map[netip.Addr]string) string {
	for _, l := range e.Listeners {
		if known := owner[l.Address]; known != "" {
			return known
		}
	}
	return ""
}

// isPod says whether a namespace that no object names is a pod's all the same: by its link's name, which is Polder's,
// or an address of any node's pod CIDR.
func (e *end) isPod(sessions []*session) bool {
	if strings.HasPrefix(e.Link, "pdr") {
		return true
	}
	for _, s := range sessions {
		for _, p := range s.node.PodCIDRs {
			if slices.ContainsFunc(e.Listeners, func(l listener) bool { return p.Contains(l.Address) }) {
				return true
			}
		}
	}
	return false
}

// trial is all that is tried on a path.
type trial struct {
	path
	results map[kind]result
}

// plan lists the trials of all pairs, but for those that are denied.
func plan(ends []*end, pairs []pair, denied func(netip.Addr, netip.AddrPort, bool) bool) (trials []trial, leftOut int) {
	for _, p := range pairs {
		for _, path := range paths(ends[p.from], ends[p.to]) {
			if path.isDenied(denied) {
				leftOut++
			} else {
				trials = append(trials, trial{path, map[kind]result{}})
			}
		}
	}
	return trials, leftOut
}

// dialsPerTrial is how many kinds there are.
const dialsPerTrial = 3

// kinds are the dials of a trial, in the order of their numbers.
func kinds() [dialsPerTrial]kind { return [...]kind{tcp, udp, full} }

// dialsOf sorts what is to be dialled by the prober that dials. The number of a dial says which of the trials it is of,
// and of which kind.
func dialsOf(trials []trial) (dials map[*session][]dial, total int) {
	dials = map[*session][]dial{}
	for i, t := range trials {
		if t.at.Error != "" {
			continue // nobody listens
		}
		for k, kind := range kinds() {
			port := t.at.UDP
			if kind == tcp {
				port = t.at.TCP
			}
			s := t.from.session
			dials[s] = append(dials[s], dial{
				ID: i*dialsPerTrial + k, From: t.from.id, Kind: kind, To: t.at.Address, Port: port,
			})
			total++
		}
	}
	return dials, total
}

// dialAll carries all trials out, each dial by the prober of the node that it comes from, and returns how many.
func dialAll(sessions []*session, trials []trial, progress func(done, total, failed int)) int {
	dials, total := dialsOf(trials)
	var mu sync.Mutex
	done, failed := 0, 0
	got := func(r result) {
		mu.Lock()
		defer mu.Unlock()
		trials[r.ID/dialsPerTrial].results[kinds()[r.ID%dialsPerTrial]] = r
		done++
		if r.Error != "" {
			failed++
		}
		if progress != nil {
			progress(done, total, failed)
		}
	}
	var running sync.WaitGroup
	for _, s := range sessions {
		if len(dials[s]) > 0 {
			running.Go(func() { s.run(dials[s], got) })
		}
	}
	running.Wait()
	return total
}
