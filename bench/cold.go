package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/polder-net/polder/bench/kubeproxy"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/internal/service"
)

// coldSizes are the clusters that S5 programs. A quick run has a tenth of each.
func (b *bench) coldSizes() []objects.Size {
	if b.quick {
		return []objects.Size{{Services: 1000, Endpoints: 10}, {Services: 4400, Endpoints: 1}, {Services: 500, Endpoints: 50}}
	}
	return []objects.Size{{Services: 10000, Endpoints: 10}, {Services: 44000, Endpoints: 1}, {Services: 5000, Endpoints: 50}}
}

// coldStarts measures S5: from objects in memory to whole tables in the kernel, and, beside it, from the start of the
// program to the same, with all objects to be fetched from an API server; and what memory that takes.
func (b *bench) coldStarts(ctx context.Context, w *worlds) error {
	s, err := w.served(ctx, false)
	if err != nil {
		return err
	}
	program, missing := kubeproxy.Program()
	if missing != nil {
		b.note("S5 has no kube-proxy beside it: " + missing.Error())
	}
	for _, size := range b.coldSizes() {
		ours, err := b.programOurs(s, size)
		if err != nil {
			return fmt.Errorf("S5, %s: %w", size, err)
		}
		agent, err := b.startAgent(ctx, size)
		if err != nil {
			return fmt.Errorf("S5, %s: %w", size, err)
		}
		b.keep("S5 s", size.String(), ours)
		b.add(atMost(report.Row{ID: "S5", What: fmt.Sprintf("%s: from objects to maps", size), Unit: report.Seconds, Value: stats.Bootstrap(ours)}, 2))
		var theirs proxyRun
		if missing == nil {
			b.say("S5 kube-proxy, %s", size)
			if theirs, err = b.coldProxy(ctx, program, size); err != nil {
				return err
			}
		}
		b.addCold(size, ours, agent, theirs)
	}
	return nil
}

func (b *bench) addCold(size objects.Size, ours []float64, agent, theirs proxyRun) {
	seconds := func(what string, d time.Duration) report.Row {
		return report.Row{ID: "S5", What: size.String() + ": " + what, Unit: report.Seconds, Value: report.Single(d.Seconds())}
	}
	memory := func(what string, mb float64) report.Row {
		return report.Row{ID: "S5", What: size.String() + ": resident memory of " + what, Unit: report.Megabytes, Value: report.Single(mb)}
	}
	b.add(seconds("from the agent's start to maps, with an API server", agent.start), memory("the agent", agent.memory))
	if theirs.rules == 0 {
		return
	}
	faster := make([]float64, len(ours))
	for i, o := range ours {
		faster[i] = theirs.rules.Seconds() / o
	}
	b.add(report.Row{ID: "S5", What: size.String() + ": from objects to the kernel, kube-proxy's time / Polder's", Unit: report.Ratio,
		Value: stats.Bootstrap(faster), Bar: b.fullBar(50), Seen: fmt.Sprintf("%.2f s / %.3f s", theirs.rules.Seconds(), stats.Median(ours))},
		seconds("from kube-proxy's start to its table, with an API server", theirs.start), memory("kube-proxy", theirs.memory))
}

// programOurs fills empty maps, a few times.
func (b *bench) programOurs(s *served, size objects.Size) (took []float64, err error) {
	all := objects.Content{Size: size}.Services()
	for range min(b.rounds, 5) {
		if _, err := s.serve(nil); err != nil {
			return nil, err
		}
		if err := s.settle(); err != nil {
			return nil, err
		}
		s.table = service.NewTable(service.Self{Node: "node-1"})
		one, err := s.serve(all)
		if err != nil {
			return nil, err
		}
		took = append(took, one.Seconds())
		b.say("S5 %s: from objects to maps in %.3f s", size, one.Seconds())
	}
	_, err = s.serve(nil)
	return took, errors.Join(err, s.settle())
}

func (b *bench) coldProxy(ctx context.Context, program string, size objects.Size) (proxyRun, error) {
	w, err := rig.Routed(rig.Options{Nodes: 1})
	if err != nil {
		return proxyRun{}, err
	}
	defer w.Close()
	return b.runProxy(ctx, program, w.Nodes[0], objects.Content{Size: size})
}

// startAgent starts an agent with a content to fetch.
func (b *bench) startAgent(ctx context.Context, size objects.Size) (r proxyRun, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the agent's maps are not whole after two minutes"))
	defer cancel()
	c := objects.Content{Size: size}
	l, err := b.startAPILab(ctx, c)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.awaitAll(ctx, c); err != nil {
		return r, fmt.Errorf("%w\n%s", err, l.node.LastLog(10))
	}
	r.start = time.Since(l.began)
	r.memory, err = residentMemory(l.agent)
	b.say("S5 %s: the agent has them after %.2f s, in %.0f MB", size, r.start.Seconds(), r.memory)
	return r, err
}

// fullBar is a bar for what a quick run has too little of: then there is none.
func (b *bench) fullBar(bar float64) float64 {
	if b.quick {
		return 0
	}
	return bar
}
