package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/lab"
)

// C5: so many pods come a second, and live so long.
const (
	churnRate = 20
	churnLife = 2 * time.Second
)

// holdings are what a node's pods hold.
type holdings struct {
	addresses uint64
	links     int
	pins      int
	entries   map[string]int
}

// churnPods measures C5 and the agent's memory.
func (b *bench) churnPods(ctx context.Context, c *lab.Cluster, n *lab.Node) error {
	b.say("C5 %d pods a second for %s", churnRate, b.churn)
	before, err := hold(ctx, c, n)
	if err != nil {
		return err
	}
	pods, memory, err := b.churnFor(ctx, n)
	if err != nil {
		return fmt.Errorf("C5: %w", err)
	}
	time.Sleep(3 * time.Second) // deletions that the kernel still finishes
	after, err := hold(ctx, c, n)
	if err != nil {
		return err
	}
	b.keep("C5", "pods", pods)
	b.keep("C5", "agent's memory, MB", memory)
	seen := fmt.Sprintf("%.0f pods in %s; %d links, %d addresses, %d pins, map entries %v", pods[len(pods)-1], b.churn,
		after.links, after.addresses, after.pins, after.entries)
	b.add(atMost(report.Row{ID: "C5", What: "churn: links, addresses, pins and map entries leaked", Value: report.Single(after.beyond(before)), Seen: seen}, 0))
	slope := 100 * 10000 * stats.Slope(pods, memory) / stats.Median(memory)
	row := report.Row{ID: "C5", What: "churn: growth of the agent's memory per 10,000 pods", Unit: report.Percent, Value: report.Single(slope),
		Seen: fmt.Sprintf("%.1f MB to %.1f MB", memory[0], memory[len(memory)-1])}
	if pods[len(pods)-1] >= 10000 {
		row = atMost(row, 2)
	}
	b.add(row, atMost(report.Row{ID: "C5", What: "agent's resident memory in the lab, highest", Unit: report.Megabytes,
		Value: report.Single(stats.Quantile(memory, 1))}, 50))
	return nil
}

// churnFor creates and deletes pods, and samples the agent's memory as it goes.
func (b *bench) churnFor(ctx context.Context, n *lab.Node) (pods, memory []float64, err error) {
	r := onNode(n)
	var running sync.WaitGroup
	var failed firstError
	defer running.Wait()
	tick := time.NewTicker(time.Second / churnRate)
	defer tick.Stop()
	count := 0
	for end := time.Now().Add(b.churn); time.Now().Before(end) && failed.get() == nil; count++ {
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-tick.C:
		}
		running.Go(func() { failed.set(live(ctx, r)) })
		if count%churnRate == 0 {
			mb, err := residentMemory(n.AgentPID())
			if err != nil {
				return nil, nil, err
			}
			pods, memory = append(pods, float64(count)), append(memory, mb)
		}
		if count%(10*churnRate) == 0 && count > 0 {
			b.say("C5 %d pods, agent's memory %.1f MB", count, memory[len(memory)-1])
		}
	}
	running.Wait()
	return pods, memory, failed.get()
}

// live is a pod's life.
func live(ctx context.Context, r containers) error {
	s, err := newSandbox()
	if err != nil {
		return err
	}
	defer s.close()
	if _, _, err := r.add(ctx, s); err != nil {
		return err
	}
	time.Sleep(churnLife)
	_, err = r.del(ctx, s)
	return err
}

// firstError remembers the first of many.
type firstError struct {
	mu  sync.Mutex
	err error
}

func (f *firstError) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *firstError) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// hold looks at the kernel and asks the agent.
func hold(ctx context.Context, c *lab.Cluster, n *lab.Node) (holdings, error) {
	var h holdings
	end, err := endOf(n.Place)
	if err != nil {
		return h, err
	}
	defer end.NS.Close()
	if h.links, err = countLinks(end); err != nil {
		return h, err
	}
	pins, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/sys/fs/bpf/polder/links", n.PID()))
	if err != nil {
		return h, fmt.Errorf("list pins: %w", err)
	}
	h.pins = len(pins)
	live, err := openLive(c, n.Name)
	if err != nil {
		return h, err
	}
	defer live.Close()
	if h.entries, err = live.Entries(); err != nil {
		return h, err
	}
	delete(h.entries, "reserved") // addresses that cool down: known to be there for a while
	resp, err := ask(ctx, filepath.Join(n.Path("/run/polder"), filepath.Base(api.Socket)), api.Request{Verb: api.Report})
	if err != nil {
		return h, err
	}
	var node api.NodeReport
	if err := json.Unmarshal(resp.Report, &node); err != nil {
		return h, fmt.Errorf("read agent's report: %w", err)
	}
	for _, p := range node.Addresses {
		h.addresses += p.Used
	}
	return h, nil
}

func countLinks(end rig.End) (count int, err error) {
	err = rig.In(end.NS, func() error {
		links, err := net.Interfaces()
		count = len(links)
		return err
	})
	return count, err
}

// beyond counts what is there now and was not before, whatever it is.
func (h holdings) beyond(before holdings) float64 {
	more := max(0, h.links-before.links) + max(0, h.pins-before.pins) + max(0, int(h.addresses)-int(before.addresses))
	for name := range h.entries {
		more += max(0, h.entries[name]-before.entries[name])
	}
	return float64(more)
}

// residentMemory is a process's, in megabytes.
func residentMemory(pid int) (float64, error) { return memoryOf(pid, "VmRSS") }

// memoryOf is a figure of a process's memory, by its name in proc(5), in MB.
func memoryOf(pid int, figure string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read agent's memory: %w", err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		var kb float64
		if _, err := fmt.Sscanf(line, figure+": %f kB", &kb); err == nil {
			return kb / 1024, nil
		}
	}
	return 0, fmt.Errorf("read agent's memory: no %s", figure)
}
