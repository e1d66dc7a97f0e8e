package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/internal/policy"
)

// town is the cluster of N3 and N4. A quick run has a tenth of it.
func (b *bench) town() objects.Town {
	if b.quick {
		return objects.Town{Node: "node-1", Pods: 10_000, Namespaces: 1000, Policies: 7500, Local: 110}
	}
	return objects.Town{Node: "node-1", Pods: 100_000, Namespaces: 10_000, Policies: 75_000, Local: 110}
}

func townText(t objects.Town) string {
	return fmt.Sprintf("%d pods, %d namespaces, %d policies, %d pods here", t.Pods, t.Namespaces, t.Policies, t.Local)
}

// policyTable measures N4: what the policies of a large cluster take of one node, in the core and as a whole agent.
func (b *bench) policyTable(ctx context.Context, _ *worlds) error {
	t := b.town()
	b.say("N4 reading %s", townText(t))
	if err := b.tableOfTown(ctx, t); err != nil {
		return fmt.Errorf("N4: %w", err)
	}
	if err := b.agentOfTown(ctx, t); err != nil {
		return fmt.Errorf("N4: %w", err)
	}
	return nil
}

// tableOfTown measures the core: from what the source of cluster state says to all that the maps are to say.
func (b *bench) tableOfTown(ctx context.Context, t objects.Town) error {
	snap, source, cache, err := readTown(ctx, t)
	if err != nil {
		return err
	}
	var took, worked []float64
	var heap float64
	for range min(b.rounds, 5) {
		before := heapMB()
		began, work := time.Now(), processorTime()
		table := tableOf(snap, t.Node)
		changes := table.Changes()
		took, worked = append(took, time.Since(began).Seconds()), append(worked, (processorTime()-work).Seconds())
		subjects := len(changes.Subjects)
		changes = policy.Changes{}
		heap = max(heap, heapMB()-before)
		runtime.KeepAlive(table)
		if subjects != t.Local {
			return fmt.Errorf("the table has %d of %d local pods", subjects, t.Local)
		}
	}
	runtime.KeepAlive(source)
	what := townText(t) + ": "
	b.keep("N4 s", "table", took)
	b.add(atMost(report.Row{ID: "N4", What: what + "from objects to all rows", Unit: report.Seconds, Value: stats.Bootstrap(took),
		Seen: fmt.Sprintf("%.2f s of processors", stats.Median(worked))}, 3),
		atMost(report.Row{ID: "N4", What: what + "heap of objects and table", Unit: report.Megabytes, Value: report.Single(cache + heap),
			Seen: fmt.Sprintf("objects %.0f MB, table %.0f MB", cache, heap)}, 300))
	return nil
}

// agentOfTown starts an agent that has to fetch everything, and looks at it once its maps are as they stay.
func (b *bench) agentOfTown(ctx context.Context, t objects.Town) (err error) {
	l, err := b.startAPILab(ctx, t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	rows, took, err := l.awaitPolicies(ctx)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, l.node.LastLog(10))
	}
	first, most, memory, err := b.memorySettles(ctx, l.agent)
	if err != nil {
		return err
	}
	what := townText(t) + ": "
	b.add(report.Row{ID: "N4", What: what + "from the agent's start to maps, with an API server that speaks JSON alone", Unit: report.Seconds,
		Value: report.Single(took.Seconds()),
		Seen:  fmt.Sprintf("%d classes' addresses, %d blocks, %d rows of rules", rows["classes"], rows["blocks"], rows["rules"])},
		atMost(report.Row{ID: "N4", What: what + "resident memory of the agent", Unit: report.Megabytes, Value: report.Single(memory),
			Seen: fmt.Sprintf("%.0f MB as soon as the maps are whole, %.0f MB at most, while it read the lists", first, most)}, 300))
	return nil
}

// memorySettles says how much memory a process has now, has had at most, and has after a while in which it gives the
// kernel back what it does not need any more, in MB.
func (b *bench) memorySettles(ctx context.Context, pid int) (first, most, last float64, err error) {
	if first, err = residentMemory(pid); err != nil {
		return 0, 0, 0, err
	}
	if most, err = memoryOf(pid, "VmHWM"); err != nil {
		return 0, 0, 0, err
	}
	rest := 30 * time.Second
	if b.quick {
		rest = 5 * time.Second
	}
	select {
	case <-ctx.Done():
		return 0, 0, 0, ctx.Err()
	case <-time.After(rest):
	}
	last, err = residentMemory(pid)
	return first, most, last, err
}

// awaitPolicies returns when the maps of policies have not changed for a while, what is in them, and how long after its
// start the agent had them so.
func (l *apiLab) awaitPolicies(ctx context.Context) (rows map[string]int, took time.Duration, err error) {
	const still = 5 * time.Second
	live, err := openLive(l.Cluster, l.node.Name)
	if err != nil {
		return nil, 0, err
	}
	defer live.Close()
	last := time.Now()
	for deadline := last.Add(2 * time.Minute); ; {
		now, err := live.Entries()
		if err != nil {
			return nil, 0, err
		}
		same := rows != nil && now["classes"] == rows["classes"] && now["blocks"] == rows["blocks"] && now["rules"] == rows["rules"]
		if !same || now["rules"] == 0 {
			rows, last = now, time.Now()
		}
		if time.Since(last) > still {
			return rows, last.Sub(l.began), nil
		}
		if time.Now().After(deadline) {
			return nil, 0, errors.New("the maps of policies are empty, or change, after two minutes")
		}
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
