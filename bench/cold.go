package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/polder-net/polder/bench/apiserver"
	"github.com/polder-net/polder/bench/kubeproxy"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/service"
	"github.com/polder-net/polder/lab"
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
		Value: stats.Bootstrap(faster), Bar: 50, Seen: fmt.Sprintf("%.2f s / %.3f s", theirs.rules.Seconds(), stats.Median(ours))},
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

// apiLab is a lab of one node whose agent reads an API server.
type apiLab struct {
	*lab.Cluster
	api    *apiserver.Server
	maps   *datapath.Served
	agent  int       // its process number
	began  time.Time // when its predecessor was told to end
	node   *lab.Node
	config string
}

// startAPILab builds a lab, and has its agent read a content from an API server from then on.
func (b *bench) startAPILab(ctx context.Context, c objects.Content) (l *apiLab, err error) {
	cluster, err := b.startLab(ctx, "api", lab.Options{Nodes: 1})
	if err != nil {
		return nil, err
	}
	l = &apiLab{Cluster: cluster, api: apiserver.New(), node: cluster.Nodes()[0]}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	end, err := endOf(l.node.Place)
	if err != nil {
		return l, err
	}
	defer end.NS.Close()
	url, err := listenIn(end, l.api)
	if err != nil {
		return l, err
	}
	me := l.node.Cluster()
	l.api.Put(apiserver.Nodes, objects.NewNode(me.Name, me.Addresses[0], me.PodCIDRs[0]))
	c.Put(l.api)
	l.config = filepath.Join(l.State(), "kubeconfig")
	if err = kubeproxy.Kubeconfig(l.config, url); err != nil {
		return l, err
	}
	if l.maps, err = datapath.OpenServed(fmt.Sprintf("/proc/%d/root%s", l.node.PID(), datapath.Dir)); err != nil {
		return l, err
	}
	return l, l.restart(ctx, b.programs)
}

// restart replaces the agent by one that reads the API server, and returns when its maps are to be filled.
func (l *apiLab) restart(ctx context.Context, programs string) error {
	wrapper := filepath.Join(l.State(), "agent-of-api")
	script := fmt.Sprintf("#!/bin/sh\nexec %s/polder-agent --node %s --kubeconfig %s\n", programs, l.node.Name, l.config)
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		return err
	}
	old := l.node.AgentPID()
	if err := errors.Join(l.node.SetAgent(wrapper), l.node.StopAgent()); err != nil {
		return err
	}
	for l.agent = old; l.agent == old || l.agent == 0; l.agent = l.node.AgentPID() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	l.began = time.Now()
	return nil
}

func (l *apiLab) close() error {
	errs := []error{l.api.Close()}
	if l.maps != nil {
		errs = append(errs, l.maps.Close())
	}
	return errors.Join(append(errs, l.Down())...)
}

// awaitAll returns when the maps have all Services.
func (l *apiLab) awaitAll(ctx context.Context, c objects.Content) error {
	for i := 0; i < c.Size.Services; {
		has, err := l.maps.Has(frontendOf(c, i))
		if err != nil {
			return err
		}
		if has {
			i++
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

func frontendOf(c objects.Content, i int) service.Frontend {
	return service.Frontend{Addr: c.ClusterIP(i), Port: objects.ServicePort, Protocol: 6}
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
