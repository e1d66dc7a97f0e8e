package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/polder-net/polder/bench/apiserver"
	"github.com/polder-net/polder/bench/kubeproxy"
	"github.com/polder-net/polder/bench/load"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/bench/stats"
)

// kubeProxy is a variant's name.
const kubeProxy = "kube-proxy"

// syncPatience is how long a kube-proxy may take to write its table.
const syncPatience = 20 * time.Minute

// proxyRun is what a kube-proxy came to.
type proxyRun struct {
	rules  time.Duration // from objects in its memory to the kernel's table
	start  time.Duration // from its start to a whole table
	memory float64       // MB
}

// listenIn serves an API in a network namespace, on its loopback address, and returns its URL.
func listenIn(netns rig.End, api *apiserver.Server) (string, error) {
	var l net.Listener
	err := rig.In(netns.NS, func() (err error) {
		l, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	})
	if err != nil {
		return "", fmt.Errorf("serve API: %w", err)
	}
	go api.Serve(l)
	return "http://" + l.Addr().String(), nil
}

// runProxy has a real kube-proxy write its table for a content into a node, and ends it.
func (b *bench) runProxy(ctx context.Context, program string, node rig.End, c objects.Content) (r proxyRun, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, syncPatience, fmt.Errorf("gave up after %s", syncPatience))
	defer cancel()
	api := apiserver.New()
	defer api.Close()
	url, err := listenIn(node, api)
	if err != nil {
		return r, err
	}
	api.Put(apiserver.Nodes, objects.NewNode("node-1", node.Addr, netip.MustParsePrefix("10.244.1.0/24")))
	c.Put(api)
	folder, err := os.MkdirTemp("", "polder-kube-proxy-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(folder)
	began := time.Now()
	p, err := kubeproxy.Start(program, node, "node-1", url, folder)
	if err != nil {
		return r, err
	}
	defer p.Stop()
	if r.rules, err = p.WaitSynced(ctx); err != nil {
		return r, fmt.Errorf("kube-proxy with %s Services: %w", c.Size, err)
	}
	r.start = time.Since(began)
	if r.memory, err = residentMemory(p.PID()); err != nil {
		return r, err
	}
	have, err := p.Services()
	if err == nil && have != c.Size.Services {
		err = fmt.Errorf("kube-proxy has %d of %d Services in its table", have, c.Size.Services)
	}
	return r, err
}

// proxied is B1's node with the table that kube-proxy writes for a content, and nobody who writes it any more.
func (w *worlds) proxied(ctx context.Context, program string, size objects.Size) (*network, objects.Content, error) {
	var c objects.Content
	n, err := w.get(ctx, "proxied "+size.String(), func(ctx context.Context) (*network, error) {
		r, err := rig.Routed(rig.Options{Nodes: 1})
		if err != nil {
			return nil, err
		}
		w.bench.say("kube-proxy writes %s Services", size)
		if _, err := w.bench.runProxy(ctx, program, r.Nodes[0], objects.Content{Size: size, Live: netip.AddrPortFrom(r.Pods[1].Addr, load.Port)}); err != nil {
			r.Close()
			return nil, err
		}
		n := &network{client: r.Pods[0], near: r.Pods[1], close: closing(r)}
		n.nodes[0] = r.Nodes[0]
		return n, nil
	})
	if err == nil {
		c = objects.Content{Size: size, Live: netip.AddrPortFrom(n.near.Addr, load.Port)}
	}
	return n, c, err
}

// packetSizes are the numbers of Services that first packets meet.
func (b *bench) packetSizes() []objects.Size {
	sizes := []objects.Size{{Services: 1, Endpoints: 2}, {Services: 1000, Endpoints: 2}, {Services: 30000, Endpoints: 2}}
	if b.quick {
		sizes[2].Services = 10000
	}
	return sizes
}

// firstPackets measures S4: how long a connect() takes that is translated packet by packet, there and back, by Polder and
// by kube-proxy's table. The handshake runs on the client's processor from end to end: nobody is woken up.
func (b *bench) firstPackets(ctx context.Context, w *worlds) error {
	program, err := kubeproxy.Program()
	if err != nil {
		b.note("S4: " + err.Error())
		return nil
	}
	s, err := w.served(ctx, true)
	if err != nil {
		return err
	}
	for _, size := range b.packetSizes() {
		if err := b.comparePackets(ctx, w, s, program, size); err != nil {
			return fmt.Errorf("S4, %s: %w", size, err)
		}
	}
	return nil
}

func (b *bench) comparePackets(ctx context.Context, w *worlds, s *served, program string, size objects.Size) error {
	theirs, content, err := w.proxied(ctx, program, size)
	if err != nil {
		return err
	}
	if _, err := s.serve(s.live(size).Services()); err != nil {
		return err
	}
	specs := []variant{{polder, pair(load.Connect, s.client, s.near)}, {kubeProxy, pair(load.Connect, theirs.client, theirs.near)}}
	p50, p99 := map[string][]float64{}, map[string][]float64{}
	for round := range b.rounds {
		if err := s.settle(); err != nil {
			return err
		}
		for i := range specs {
			v := specs[order(round, i, len(specs))]
			v.spec.Via, v.spec.Time = via(content), b.slice
			v.spec.Flows = b.nextPort(v.spec)
			r, err := load.Run(ctx, v.spec)
			if err != nil {
				return err
			}
			p50[v.name], p99[v.name] = append(p50[v.name], r.Service.P50), append(p99[v.name], r.Service.P99)
			b.say("S4 first packets, %s Services, round %d of %d: %s p50 %.1f µs, p99 %.1f µs", size, round+1, b.rounds, v.name,
				r.Service.P50, r.Service.P99)
		}
	}
	b.addLatencies(size, "p50", p50)
	b.addLatencies(size, "p99", p99)
	return nil
}

func (b *bench) addLatencies(size objects.Size, quantile string, all map[string][]float64) {
	what := fmt.Sprintf("first packets, %s Services, %s", size, quantile)
	b.keep("S4 "+what+", µs", polder, all[polder])
	b.keep("S4 "+what+", µs", kubeProxy, all[kubeProxy])
	b.add(lower("S4", what+": Polder / kube-proxy", all[polder], all[kubeProxy], micro(all[polder])+" / "+micro(all[kubeProxy]), 0.8))
}

// micro is a median of microseconds.
func micro(samples []float64) string {
	return fmt.Sprintf("%.1f µs", stats.Median(samples))
}

// nextPort is where the client's ports begin: after those of the load before.
func (b *bench) nextPort(s load.Spec) int {
	b.port += load.Connections(s)
	return b.port
}
