package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/lab"
)

// worlds are the networks that traffic is measured in. Each is built when it is first needed.
type worlds struct {
	bench   *bench
	built   map[string]*network
	serving map[string]*served // those of built that the benchmark serves
}

func newWorlds(b *bench) *worlds {
	return &worlds{bench: b, built: map[string]*network{}, serving: map[string]*served{}}
}

// network is what all worlds have in common.
type network struct {
	client, near, far rig.End // pods: near is on the client's node, far is not; a baseline has one of both
	nodes             [2]rig.End
	lab               *lab.Cluster // Polder's
	close             func() error
}

// The worlds' names, as rows have them.
const (
	polder      = "Polder"
	polderNodes = "Polder's nodes"
	hosts       = "hosts"
	b0          = "B0"
	b1          = "B1"
	b2          = "B2"
	kernelVXLAN = "kernel VXLAN"
)

func (w *worlds) get(ctx context.Context, name string, build func(context.Context) (*network, error)) (*network, error) {
	if n, ok := w.built[name]; ok {
		return n, nil
	}
	n, err := build(ctx)
	if err != nil {
		return nil, err
	}
	w.built[name] = n
	return n, nil
}

func (w *worlds) close() error {
	var errs []error
	for _, s := range w.serving {
		errs = append(errs, s.close())
	}
	clear(w.serving)
	for _, n := range w.built {
		errs = append(errs, n.close())
	}
	clear(w.built)
	return errors.Join(errs...)
}

func (w *worlds) direct(ctx context.Context) (*network, error) {
	return w.get(ctx, "direct", func(context.Context) (*network, error) {
		r, err := rig.Direct()
		if err != nil {
			return nil, err
		}
		return &network{client: r.Pods[0], near: r.Pods[1], close: closing(r)}, nil
	})
}

// near is B1 or B2 on one node, far the same across two.
func (w *worlds) near(ctx context.Context, proxy bool) (*network, error) {
	return w.routed(ctx, rig.Options{Nodes: 1, Proxy: proxy})
}

func (w *worlds) far(ctx context.Context, proxy bool) (*network, error) {
	return w.routed(ctx, rig.Options{Nodes: 2, Proxy: proxy})
}

func (w *worlds) vxlan(ctx context.Context) (*network, error) {
	return w.routed(ctx, rig.Options{Nodes: 2, VXLAN: true})
}

func (w *worlds) routed(ctx context.Context, o rig.Options) (*network, error) {
	return w.get(ctx, fmt.Sprintf("routed %+v", o), func(context.Context) (*network, error) {
		r, err := rig.Routed(o)
		if err != nil {
			return nil, err
		}
		n := &network{client: r.Pods[0], near: r.Pods[1], far: r.Pods[1], close: closing(r)}
		copy(n.nodes[:], r.Nodes)
		return n, nil
	})
}

func closing(r *rig.World) func() error {
	return func() error { r.Close(); return nil }
}

// polder is a lab of two nodes with three pods; routing as the agent's flag has it.
func (w *worlds) polder(ctx context.Context, routing string) (*network, error) {
	return w.get(ctx, "polder "+routing, func(ctx context.Context) (*network, error) {
		c, err := w.bench.startLab(ctx, routing, lab.Options{Nodes: 2, AgentArgs: []string{"--routing", routing}})
		if err != nil {
			return nil, err
		}
		n, err := populate(ctx, c)
		if err != nil {
			return nil, errors.Join(err, c.Down())
		}
		return n, nil
	})
}

// startLab builds a lab below the labs' folder, in place of whatever an earlier run left of it.
func (b *bench) startLab(ctx context.Context, name string, o lab.Options) (*lab.Cluster, error) {
	o.State, o.Bin = filepath.Join(b.state, name), b.programs
	o.Deadline = 2 * time.Minute
	if _, err := lab.Down(o.State); err != nil {
		return nil, fmt.Errorf("clear earlier lab: %w", err)
	}
	b.say("building lab %q", name)
	c, err := lab.Up(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("build lab: %w", err)
	}
	return c, nil
}

func populate(ctx context.Context, c *lab.Cluster) (*network, error) {
	n := &network{lab: c, close: c.Down}
	for _, p := range []struct {
		name, node string
		end        *rig.End
	}{{"client", "node-1", &n.client}, {"near", "node-1", &n.near}, {"far", "node-2", &n.far}} {
		pod, err := c.CreatePod(ctx, lab.PodOptions{Name: p.name, Node: p.node})
		if err != nil {
			return nil, err
		}
		if *p.end, err = endOf(pod.Place); err != nil {
			return nil, err
		}
		p.end.Addr = pod.Addresses[0]
	}
	for i, node := range c.Nodes() {
		var err error
		if n.nodes[i], err = endOf(node.Place); err != nil {
			return nil, err
		}
		n.nodes[i].Addr = node.Cluster().Addresses[0]
	}
	return n, nil
}

// endOf opens a place's network namespace. The file stays open as long as the program runs.
func endOf(p lab.Place) (rig.End, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", p.PID()))
	if err != nil {
		return rig.End{}, fmt.Errorf("enter %s: %w", p.Name, err)
	}
	return rig.End{NS: f, Group: p.Group()}, nil
}
