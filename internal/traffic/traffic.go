// Package traffic is the checker of traffic: it keeps connections, new ones and datagrams going between network
// namespaces while somebody restarts, upgrades or breaks things, and says what was lost. It is for tests only, knows
// nothing of Polder, and measures its own noise: a control path over a plain link, in the same process, at the same
// time.
package traffic

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

// Place is a network namespace.
type Place interface {
	// Do runs f on a thread in the namespace, and returns its error.
	Do(f func() error) error
}

// End is one end of a path.
type End struct {
	Place
	Addr netip.Addr

	// Dial opens a connected socket, "tcp" or "udp", from an address, where entering the namespace is not enough to be
	// seen as its programs are; nil: it is.
	Dial func(network string, from netip.Addr, to netip.AddrPort, patience time.Duration) (net.Conn, error)
}

// Path is where traffic goes: connections and datagrams are From's, To answers.
type Path struct {
	Name     string
	From, To End

	// TCP and UDP are where From sends to, if that is not To itself but something that leads there, and Port is what To
	// listens at for it; 0: any. Datagrams are then answered, and answers counted.
	TCP, UDP netip.AddrPort
	Port     uint16
}

// connectsTo is where connections go.
func (p *path) connectsTo() netip.AddrPort {
	if p.TCP.IsValid() {
		return p.TCP
	}
	return p.server.tcpAddr()
}

// Load says how much traffic each path carries. What is zero is not sent.
type Load struct {
	Flows     int           // long-lived TCP connections
	Every     time.Duration // between two records of 1 kB of such a connection
	Connects  int           // new TCP connections a second
	Datagrams int           // numbered UDP datagrams a second
}

// Full is the load that the project's bars are set for, on so many paths: 50 connections with 1 kB every 5 ms, 200 new
// ones and 1,000 datagrams a second in all.
func Full(paths int) Load {
	return Load{Flows: max(1, 50/paths), Every: 5 * time.Millisecond, Connects: max(1, 200/paths), Datagrams: max(1, 1000/paths)}
}

// patience is how long an answer may take before it counts as lost. It is far beyond what a busy machine or TCP's
// first retransmissions need: what is asserted must not depend on time.
const patience = 15 * time.Second

// Run is traffic that flows.
type Run struct {
	paths   []*path
	places  []*place
	stop    chan struct{}
	running sync.WaitGroup
	started time.Time
	ended   func() (Report, error) // once
}

// place is a namespace with what its kernel had counted at the start.
type place struct {
	Place
	name   string
	before counters
}

// path is a path with what runs on it.
type path struct {
	Path
	control   bool
	server    *server
	flows     []*flow
	connects  *connects
	datagrams *datagrams
}

// Start starts the load on every path, and the same on the control path. It returns when all long-lived connections
// stand and one round of each kind has gone through.
func Start(paths []Path, control Path, load Load) (*Run, error) {
	r := &Run{stop: make(chan struct{}), started: time.Now()}
	r.ended = sync.OnceValues(r.end)
	for i, p := range append(paths[:len(paths):len(paths)], control) {
		r.paths = append(r.paths, &path{Path: p, control: i == len(paths)})
	}
	for _, p := range r.paths {
		if err := r.prepare(p, load); err != nil {
			r.close()
			return nil, fmt.Errorf("start traffic on path %s: %w", p.Name, err)
		}
	}
	for _, p := range r.paths {
		r.launch(p)
	}
	return r, nil
}

// prepare opens everything of a path that stays open.
func (r *Run) prepare(p *path, load Load) (err error) {
	for i, e := range []End{p.From, p.To} {
		if err := r.watch(e.Place, p.Name+[]string{", sender", ", receiver"}[i]); err != nil {
			return err
		}
	}
	if p.server, err = listen(p.To, p.Port); err != nil {
		return err
	}
	r.running.Go(p.server.accept)
	for range load.Flows {
		f, err := openFlow(p.From, p.connectsTo(), load.Every)
		if err != nil {
			return err
		}
		p.flows = append(p.flows, f)
	}
	if load.Connects > 0 {
		p.connects = &connects{from: p.From, to: p.connectsTo(), every: time.Second / time.Duration(load.Connects),
			finished: make(chan struct{})}
		if err := p.From.Do(p.connects.one); err != nil {
			return err
		}
	}
	if load.Datagrams > 0 {
		p.datagrams, err = openDatagrams(p.From, p.server, p.UDP, time.Second/time.Duration(load.Datagrams))
	}
	return err
}

// watch remembers what a place's kernel has counted so far.
func (r *Run) watch(p Place, name string) error {
	if slices.ContainsFunc(r.places, func(known *place) bool { return known.Place == p }) {
		return nil
	}
	if err := p.Do(noTailLossProbes); err != nil {
		return err
	}
	before, err := readCounters(p)
	r.places = append(r.places, &place{p, name, before})
	return err
}

func (r *Run) launch(p *path) {
	for _, f := range p.flows {
		r.running.Go(func() { f.write(r.stop) })
		r.running.Go(f.read)
	}
	if p.connects != nil {
		r.running.Go(func() { p.connects.run(r.stop) })
	}
	if p.datagrams != nil {
		r.running.Go(func() { p.datagrams.send(r.stop) })
		r.running.Go(p.datagrams.receive)
		r.running.Go(p.datagrams.hear)
	}
}

// Stop ends the traffic, waits for what is still on its way, and reports. Called again, it reports the same.
func (r *Run) Stop() (Report, error) { return r.ended() }

func (r *Run) end() (Report, error) {
	took := time.Since(r.started)
	close(r.stop)
	var paths sync.WaitGroup
	for _, p := range r.paths {
		paths.Go(p.wait)
	}
	paths.Wait()
	report := r.report(took)
	var errs []error
	for _, p := range r.places { // before the sockets are closed: one with something unread is closed by a reset
		after, err := readCounters(p)
		errs = append(errs, err)
		report.add(p.name, after.minus(p.before))
	}
	r.close()
	r.running.Wait()
	return report, errors.Join(errs...)
}

// wait returns when all that was sent has come back, or has been waited for long enough.
func (p *path) wait() {
	for _, f := range p.flows {
		f.wait()
	}
	if p.connects != nil {
		<-p.connects.finished
	}
	if p.datagrams != nil {
		p.datagrams.drain()
	}
}

// close closes all sockets; whatever still waits on one ends.
func (r *Run) close() {
	for _, p := range r.paths {
		for _, f := range p.flows {
			f.conn.Close()
		}
		if p.datagrams != nil {
			p.datagrams.conn.Close()
		}
		if p.server != nil {
			p.server.close()
		}
	}
}

// noTailLossProbes makes TCP send again only what was lost: without probes (RFC 8985, 7), a machine that is too busy
// to acknowledge in time causes nothing but waiting.
func noTailLossProbes() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_early_retrans", []byte("0"), 0); err != nil {
		return fmt.Errorf("turn tail loss probes off: %w", err)
	}
	return nil
}
