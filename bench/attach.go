package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/lab"
)

// rest is between two calls that are timed: the kernel takes deleted links and namespaces apart behind everybody's back.
const rest = 60 * time.Millisecond

// parallel is how many pods C2 and C4 start and stop at once.
const parallel = 100

// attachments measures C1 to C5.
func (b *bench) attachments(ctx context.Context) (err error) {
	if b.measures("C1", "C2", "C4", "C5") {
		if err := b.oneNode(ctx); err != nil {
			return err
		}
	}
	if b.measures("C3") {
		return b.crowded(ctx)
	}
	return nil
}

// oneNode measures what needs a lab of one node.
func (b *bench) oneNode(ctx context.Context) (err error) {
	c, err := b.startLab(ctx, "cni", lab.Options{Nodes: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	node := c.Nodes()[0]
	runtimes := []containers{onNode(node)}
	for _, base := range []struct {
		name, main string
		ipv6       bool
	}{{"bridge", "bridge", true}, {"bridge, IPv4 alone", "bridge", false}, {"ptp, IPv4 alone", "ptp", false}} {
		r, err := newReference(base.name, base.main, b.plugins, filepath.Join(b.state, "cni", "reference"), base.ipv6)
		if err != nil {
			return err
		}
		defer r.close()
		runtimes = append(runtimes, r.containers)
	}
	runtimes = append(runtimes, runtimes[0].alone(), runtimes[1].alone(), runtimes[2].alone())
	if b.measures("C1", "C4") {
		if err := b.serial(ctx, runtimes); err != nil {
			return err
		}
	}
	if b.measures("C2", "C4") {
		if err := b.atOnce(ctx, runtimes[:2]); err != nil {
			return err
		}
	}
	if b.measures("C5") {
		return b.churnPods(ctx, c, node)
	}
	return nil
}

// serial measures C1 and C4: one ADD and one DEL after the other, everybody in turn.
func (b *bench) serial(ctx context.Context, runtimes []containers) error {
	adds, dels := map[string][]float64{}, map[string][]float64{}
	rounds := 100
	if b.quick {
		rounds = 20
	}
	for round := range rounds {
		for i := range runtimes {
			r := runtimes[order(round, i, len(runtimes))]
			add, del, err := addAndDelete(ctx, r)
			if err != nil {
				return err
			}
			adds[r.name], dels[r.name] = append(adds[r.name], ms(add)), append(dels[r.name], ms(del))
		}
		if round%10 == 9 {
			b.say("C1 ADD and DEL, round %d of %d", round+1, rounds)
		}
	}
	for _, r := range runtimes {
		b.keep("C1 ADD ms", r.name, adds[r.name])
		b.keep("C4 DEL ms", r.name, dels[r.name])
	}
	if b.measures("C1") {
		short := polder + ", no portmap"
		b.add(atMost(addRow(adds, polder, "bridge"), 0.5), addRow(adds, polder, "bridge, IPv4 alone"), addRow(adds, polder, "ptp, IPv4 alone"),
			addRow(adds, short, "bridge, no portmap"), addRow(adds, short, "bridge, IPv4 alone, no portmap"))
	}
	if b.measures("C4") {
		row := report.Row{ID: "C4", What: "DEL, p99", Unit: report.Milliseconds, Value: report.Single(stats.Quantile(dels[polder], 0.99)),
			Seen: quantiles(dels[polder]) + "; bridge " + quantiles(dels["bridge"]) + "; ptp " + quantiles(dels["ptp, IPv4 alone"])}
		short := row
		short.What, short.Value = "DEL without portmap, p99", report.Single(stats.Quantile(dels[polder+", no portmap"], 0.99))
		short.Seen = quantiles(dels[polder+", no portmap"]) + "; bridge " + quantiles(dels["bridge, no portmap"])
		b.add(atMost(row, 15), short)
	}
	return nil
}

// addRow is the row of one runtime's ADD over another's.
func addRow(adds map[string][]float64, a, b string) report.Row {
	return ratioRow("C1", fmt.Sprintf("ADD: %s / %s", a, b), adds[a], adds[b], quantiles(adds[a])+" / "+quantiles(adds[b]))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func quantiles(samples []float64) string {
	return fmt.Sprintf("p50 %.1f ms, p99 %.1f ms", stats.Median(samples), stats.Quantile(samples, 0.99))
}

func addAndDelete(ctx context.Context, r containers) (add, del time.Duration, err error) {
	s, err := newSandbox()
	if err != nil {
		return 0, 0, err
	}
	defer s.close()
	time.Sleep(rest)
	if add, _, err = r.add(ctx, s); err != nil {
		return 0, 0, err
	}
	time.Sleep(rest)
	del, err = r.del(ctx, s)
	return add, del, err
}

// atOnce measures C2 and the other half of C4: all ADDs at once, then all DELs.
func (b *bench) atOnce(ctx context.Context, runtimes []containers) error {
	adds, dels := map[string][]float64{}, map[string][]float64{}
	rounds, doubles := 5, 0
	if b.quick {
		rounds = 2
	}
	for round := range rounds {
		for i := range runtimes {
			r := runtimes[order(round, i, len(runtimes))]
			add, del, double, err := allAtOnce(ctx, r)
			if err != nil {
				return err
			}
			adds[r.name], dels[r.name] = append(adds[r.name], add.Seconds()), append(dels[r.name], del.Seconds())
			doubles += double
			b.say("C2 %s: %d ADDs at once in %.2f s, DELs in %.2f s", r.name, parallel, add.Seconds(), del.Seconds())
		}
	}
	for _, r := range runtimes {
		b.keep("C2 ADDs s", r.name, adds[r.name])
		b.keep("C4 DELs s", r.name, dels[r.name])
	}
	wall := func(id, what string, samples map[string][]float64, bar float64) {
		row := report.Row{ID: id, What: fmt.Sprintf("%d %s at once", parallel, what), Unit: report.Seconds,
			Value: stats.Bootstrap(samples[polder]), Seen: fmt.Sprintf("bridge %.2f s", stats.Median(samples["bridge"]))}
		b.add(atMost(row, bar))
	}
	if b.measures("C2") {
		wall("C2", "ADDs", adds, 1.5)
		b.add(atMost(report.Row{ID: "C2", What: "addresses given twice", Value: report.Single(float64(doubles))}, 0))
	}
	if b.measures("C4") {
		wall("C4", "DELs", dels, 2)
	}
	return nil
}

// allAtOnce says how long all ADDs and all DELs took, and how many addresses were given twice.
func allAtOnce(ctx context.Context, r containers) (add, del time.Duration, doubles int, err error) {
	sandboxes := make([]sandbox, parallel)
	for i := range sandboxes {
		if sandboxes[i], err = newSandbox(); err != nil {
			return 0, 0, 0, err
		}
		defer sandboxes[i].close()
	}
	time.Sleep(10 * rest)
	addresses := make([][]netip.Addr, parallel)
	add, err = together(func(i int) (err error) {
		_, addresses[i], err = r.add(ctx, sandboxes[i])
		return err
	})
	if err != nil {
		return 0, 0, 0, err
	}
	seen := map[netip.Addr]bool{}
	for _, list := range addresses {
		for _, a := range list {
			if seen[a] {
				doubles++
			}
			seen[a] = true
		}
	}
	time.Sleep(10 * rest)
	del, err = together(func(i int) error {
		_, err := r.del(ctx, sandboxes[i])
		return err
	})
	return add, del, doubles, err
}

// together runs f for everybody at once, and says how long it took until the last was done.
func together(f func(i int) error) (time.Duration, error) {
	var done sync.WaitGroup
	errs := make([]error, parallel)
	began := time.Now()
	for i := range parallel {
		done.Go(func() { errs[i] = f(i) })
	}
	done.Wait()
	return time.Since(began), errors.Join(errs...)
}
