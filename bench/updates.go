package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
)

// manyServices is what S6 and S7 change one of.
func (b *bench) manyServices() objects.Content {
	size := objects.Size{Services: 44000, Endpoints: 1}
	if b.quick {
		size.Services = 4400
	}
	return objects.Content{Size: size}
}

// oneChange measures S6: an endpoint changes, and nothing else of so many Services. First what the loop does for it, then
// what an agent takes from the API server's event to its maps.
func (b *bench) oneChange(ctx context.Context, w *worlds) error {
	s, err := w.served(ctx, false)
	if err != nil {
		return err
	}
	c := b.manyServices()
	if err := b.changeInLoop(s, c); err != nil {
		return fmt.Errorf("S6: %w", err)
	}
	if _, err := s.serve(nil); err != nil {
		return err
	}
	return b.changeByAPI(ctx, c)
}

func (b *bench) changes() int {
	if b.quick {
		return 500
	}
	return 3000
}

// changeInLoop does what the agent's loop does with a snapshot in which one Service's endpoint is another.
func (b *bench) changeInLoop(s *served, c objects.Content) error {
	if _, err := s.serve(c.Services()); err != nil {
		return err
	}
	if err := s.settle(); err != nil {
		return err
	}
	old := (*cluster.Services)(nil).With(c.Services())
	before := s.datapath.ServiceWrites()
	var took []float64
	for k := range b.changes() {
		i := k * 7919 % c.Size.Services
		changed := *c.Objects(i)
		slice := *changed.Slices[0]
		slice.Endpoints = []cluster.Endpoint{{Addr: changedEndpoint(k).Addr(), Node: "node-2", Ready: true, Serving: true}}
		changed.Slices = []*cluster.EndpointSlice{&slice}
		began := time.Now()
		now := old.With(map[cluster.ServiceName]*cluster.ServiceObjects{c.Name(i): &changed})
		for _, name := range now.ChangedSince(old) {
			s.table.SetService(name, now.Get(name))
		}
		if err := s.datapath.SyncServices(s.table.Changed(), began); err != nil {
			return err
		}
		took = append(took, ms(time.Since(began)))
		old = now
	}
	if err := s.settle(); err != nil { // what has retired is taken away
		return err
	}
	b.addLoop(c, took, s.datapath.ServiceWrites().Since(before))
	return nil
}

func (b *bench) addLoop(c objects.Content, took []float64, wrote datapath.Writes) {
	what := fmt.Sprintf("one endpoint of %s Services changes", c.Size)
	b.keep("S6 ms", "loop", took)
	b.add(report.Row{ID: "S6", What: what + ", from snapshot to maps, p99", Unit: report.Milliseconds,
		Value: report.Single(stats.Quantile(took, 0.99)), Seen: fineQuantiles(took)})
	rows, calls := float64(wrote.Rows)/float64(len(took)), float64(wrote.Calls)/float64(len(took))
	b.add(atMost(report.Row{ID: "S6", What: what + ": map writes, what retires later included", Value: report.Single(rows),
		Seen: fmt.Sprintf("%.2f rows in %.2f system calls a change", rows, calls)}, 4))
}

func fineQuantiles(samples []float64) string {
	return fmt.Sprintf("p50 %.3f ms, p99 %.3f ms", stats.Median(samples), stats.Quantile(samples, 0.99))
}

// changedEndpoint is what an endpoint becomes by the k-th change: never what it was.
func changedEndpoint(k int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 200, byte(k >> 8), byte(k)}), uint16(1+k%60000))
}

// changeByAPI changes one endpoint after the other at the API server of an agent.
func (b *bench) changeByAPI(ctx context.Context, c objects.Content) (err error) {
	l, err := b.startAPILab(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.awaitAll(ctx, c); err != nil {
		return err
	}
	var took []float64
	for k := range b.changes() {
		time.Sleep(2 * time.Millisecond)
		began := time.Now()
		c.PutEndpoint(l.api, k*7919%c.Size.Services, changedEndpoint(k))
		if err := l.awaitChange(ctx, c, k*7919%c.Size.Services, changedEndpoint(k)); err != nil {
			return err
		}
		took = append(took, ms(time.Since(began)))
	}
	b.keep("S6 ms", "agent", took)
	b.add(atMost(report.Row{ID: "S6", What: fmt.Sprintf("one endpoint of %s Services changes, from the API server's event to the agent's maps, p99", c.Size),
		Unit: report.Milliseconds, Value: report.Single(stats.Quantile(took, 0.99)), Seen: fineQuantiles(took)}, 5))
	return nil
}

// awaitChange returns when a Service leads to an endpoint.
func (l *apiLab) awaitChange(ctx context.Context, c objects.Content, i int, e netip.AddrPort) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Microsecond) {
		done, err := l.leadsTo(c, i, e)
		if done || err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not lead to %s after a minute", c.Name(i), e)
		}
	}
}

func (l *apiLab) leadsTo(c objects.Content, i int, e netip.AddrPort) (bool, error) {
	all, _, err := l.maps.Backends(frontendOf(c, i))
	return len(all) == 1 && netip.AddrPortFrom(all[0].Addr, all[0].Port) == e, err
}
