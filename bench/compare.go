package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/polder-net/polder/bench/load"
	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/stats"
)

// variant is one of the things that an experiment compares.
type variant struct {
	name string
	spec load.Spec
}

// experiment measures its variants in turn.
type experiment struct {
	id       string
	what     string // "RR, same node"
	unit     string
	metric   func(load.Result) float64
	perCPU   bool // metric is by processor time itself
	byCPU    bool // ratios are told by processor time, too, even without a bar
	variants []variant
	ratios   []ratio
}

// ratio is a row that an experiment gives.
type ratio struct {
	a, b string  // variants
	bar  float64 // 0: none
}

// compare runs an experiment: all variants in every round, each round in another order.
func (b *bench) compare(ctx context.Context, e experiment) error {
	samples, efficiency := map[string][]float64{}, map[string][]float64{}
	for round := range b.rounds {
		var line []string
		for i := range e.variants {
			v := e.variants[order(round, i, len(e.variants))]
			v.spec.Time = b.slice
			r, err := load.Run(ctx, v.spec)
			if err != nil {
				return fmt.Errorf("%s, %s, %s: %w", e.id, e.what, v.name, err)
			}
			samples[v.name] = append(samples[v.name], e.metric(r))
			efficiency[v.name] = append(efficiency[v.name], r.PerCPU())
			line = append(line, v.name+" "+report.Amount(e.metric(r), e.unit))
		}
		b.say("%s %s, round %d of %d: %s", e.id, e.what, round+1, b.rounds, strings.Join(line, ", "))
	}
	for _, v := range e.variants {
		b.keep(e.id+" "+e.what, v.name, samples[v.name])
		if !e.perCPU {
			b.keep(e.id+" "+e.what+", per CPU second", v.name, efficiency[v.name])
		}
	}
	for _, q := range e.ratios {
		b.add(e.row(q, "", e.unit, samples))
		if (q.bar != 0 || e.byCPU) && !e.perCPU {
			q.bar = 0
			b.add(e.row(q, ", per CPU second", strings.TrimSuffix(e.unit, "/s"), efficiency))
		}
	}
	return nil
}

func (e experiment) row(q ratio, by, unit string, samples map[string][]float64) report.Row {
	a, b := samples[q.a], samples[q.b]
	seen := report.Amount(stats.Median(a), unit) + " / " + report.Amount(stats.Median(b), unit)
	row := ratioRow(e.id, fmt.Sprintf("%s%s: %s / %s", e.what, by, q.a, q.b), a, b, seen)
	row.Bar = q.bar
	return row
}

// order says which of n variants comes i-th in a round: each begins in turn, and every other round goes backwards.
func order(round, i, n int) int {
	if round%2 == 1 {
		i = n - 1 - i
	}
	return (i + round/2) % n
}
