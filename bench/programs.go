package main

import (
	"context"
	"fmt"
	"time"

	"github.com/polder-net/polder/bench/load"
	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/lab"
)

// programCosts measures P8: what the programs cost a packet.
func (b *bench) programCosts(ctx context.Context, w *worlds) error {
	clock, err := datapath.ClockCost()
	if err != nil {
		return err
	}
	flat, err := w.polder(ctx, "auto")
	if err != nil {
		return err
	}
	tunnel, err := w.polder(ctx, "tunnel")
	if err != nil {
		return err
	}
	b.add(report.Row{ID: "P8", What: "counting itself, in every figure of the kernel's below", Unit: report.Nanoseconds,
		Value: report.Single(clock.PerRun())})
	for _, c := range []costLoad{
		{"RR, same node, IPv4", flat, load.RR, 1, "near", false, 150},
		{"RR, same node, IPv6", flat, load.RR, 1, "near", true, 200},
		{"RR, across nodes, IPv4", flat, load.RR, 1, "far", false, 150},
		{"RR, across nodes, IPv6", flat, load.RR, 1, "far", true, 200},
		{"RR, tunnel, IPv4", tunnel, load.RR, 1, "far", false, 0},
		{"STREAM, same node, IPv4", flat, load.Stream, 1, "near", false, 0},
		{"UDP of 10k flows, same node, IPv4", flat, load.UDP, manyFlows, "near", false, 0},
	} {
		spec, err := podPair(c.network.lab, c.kind, c.to, c.ipv6)
		if err != nil {
			return err
		}
		spec.Flows = c.flows
		if err := b.countCosts(ctx, c.network, c.what, spec, c.bar); err != nil {
			return fmt.Errorf("P8, %s: %w", c.what, err)
		}
	}
	return b.runPrograms(flat)
}

// costLoad is a load under which the programs' costs are counted. The bar is in ns a run, 0 for none.
type costLoad struct {
	what    string
	network *network
	kind    load.Kind
	flows   int
	to      string
	ipv6    bool
	bar     float64
}

// podPair is a load from the lab's client pod to another, in one family.
func podPair(c *lab.Cluster, kind load.Kind, to string, ipv6 bool) (load.Spec, error) {
	var ends [2]rig.End
	for i, name := range []string{"client", to} {
		pod, err := c.Pod(name)
		if err != nil {
			return load.Spec{}, err
		}
		if ends[i], err = endOf(pod.Place); err != nil {
			return load.Spec{}, err
		}
		for _, a := range pod.Addresses {
			if a.Is6() == ipv6 {
				ends[i].Addr = a
			}
		}
	}
	return pair(kind, ends[0], ends[1]), nil
}

// countCosts has the kernel count what programs cost while a load runs. Programs that hardly ran are left out.
func (b *bench) countCosts(ctx context.Context, n *network, what string, spec load.Spec, bar float64) error {
	live, err := openLive(n.lab, "node-1")
	if err != nil {
		return err
	}
	defer live.Close()
	counting, err := datapath.CountCosts()
	if err != nil {
		return err
	}
	defer counting.Close()
	samples := map[desired.Program][]float64{}
	spec.Time = max(b.slice/2, time.Second/2)
	for range b.rounds {
		costs, err := costsDuring(ctx, live, spec)
		if err != nil {
			return err
		}
		for p, d := range costs {
			if d.Runs > 200 {
				samples[p] = append(samples[p], d.PerRun())
			}
		}
	}
	for _, p := range []desired.Program{desired.FromPod, desired.FromNetwork, desired.ToTunnel, desired.FromTunnel} {
		if len(samples[p]) < b.rounds {
			continue
		}
		row := report.Row{ID: "P8", What: fmt.Sprintf("%s, kernel's count: %s", what, p), Unit: report.Nanoseconds, Value: stats.Bootstrap(samples[p])}
		if bar != 0 {
			row = atMost(row, bar)
		}
		b.keep("P8 "+what, string(p), samples[p])
		b.add(row)
	}
	return nil
}

// costsDuring is what the programs cost while a load runs.
func costsDuring(ctx context.Context, live *datapath.Live, spec load.Spec) (map[desired.Program]datapath.Cost, error) {
	before, err := live.Costs()
	if err != nil {
		return nil, err
	}
	if _, err := load.Run(ctx, spec); err != nil {
		return nil, err
	}
	after, err := live.Costs()
	for p, c := range after {
		after[p] = c.Since(before[p])
	}
	return after, err
}

// openLive opens a node's datapath by the root folder of its first process: its bpf file system is its own.
func openLive(c *lab.Cluster, node string) (*datapath.Live, error) {
	n, err := c.Node(node)
	if err != nil {
		return nil, err
	}
	return datapath.OpenLive(fmt.Sprintf("/proc/%d/root%s", n.PID(), datapath.Dir))
}

// How often a frame passes a program, by its TTL, and how many frames there are, each of another flow.
const (
	passes = 250
	frames = 500
)

// runPrograms runs the live programs of a node on made-up frames between a pod of its and one of the other node.
// (Between pods of one node a program can run but once on a frame: it leaves it with the MAC addresses of its target.)
func (b *bench) runPrograms(n *network) error {
	live, err := openLive(n.lab, "node-1")
	if err != nil {
		return err
	}
	defer live.Close()
	uplink, err := linkIn(n.nodes[0], "eth0")
	if err != nil {
		return err
	}
	pod, err := linkIn(n.client, "eth0")
	if err != nil {
		return err
	}
	for _, ipv6 := range []bool{false, true} {
		spec, err := podPair(n.lab, load.RR, "far", ipv6)
		if err != nil {
			return err
		}
		here, there := spec.From.Addr, spec.To.Addr
		for _, run := range []struct {
			program desired.Program
			index   int
			frame   func(port uint16) []byte
		}{
			{desired.FromPod, pod.ParentIndex, func(port uint16) []byte { return frame(pod.HardwareAddr, here, there, port) }},
			{desired.FromNetwork, uplink.Index, func(port uint16) []byte { return frame(uplink.HardwareAddr, there, here, port) }},
		} {
			samples, err := timeProgram(n.nodes[0], live, run.program, run.index, run.frame)
			if err != nil {
				return err
			}
			b.add(report.Row{ID: "P8", What: fmt.Sprintf("TCP, across nodes, %s, BPF_PROG_TEST_RUN: %s", familyName(ipv6), run.program),
				Unit: report.Nanoseconds, Value: stats.Bootstrap(samples)})
		}
	}
	return nil
}

func familyName(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

// timeProgram runs a program on frames of many flows, in the node's network namespace.
func timeProgram(node rig.End, live *datapath.Live, p desired.Program, ifindex int, frame func(uint16) []byte) ([]float64, error) {
	var samples []float64
	err := rig.In(node.NS, func() error {
		for port := range uint16(frames) {
			took, err := live.Time(p, ifindex, frame(20000+port), passes)
			if err != nil {
				return err
			}
			samples = append(samples, float64(took.Nanoseconds()))
		}
		return nil
	})
	return samples, err
}
