package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/internal/service"
)

// spread measures S8, on the tables alone: what becomes of other flows when one of N backends goes, how even the shares
// are, and whether agents that learn of the backends in another order make the same table.
func (b *bench) spread(context.Context, *worlds) error {
	random, different := rand.New(rand.NewPCG(1, 2)), 0
	for _, n := range []int{3, 10, 50, 160} {
		all := make([]service.Backend, n)
		for i := range all {
			all[i] = service.Backend{Addr: netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), Port: 8080}
		}
		size := service.MaglevSize(n)
		table := service.Maglev(all, size)
		var moved []float64
		for gone := range all {
			moved = append(moved, 100*movedWithout(all, table, gone))
		}
		counts := make([]float64, n)
		for _, i := range table {
			counts[i]++
		}
		what := fmt.Sprintf("%d backends, %d places", n, size)
		seen := fmt.Sprintf("worst %.2f %%", stats.Quantile(moved, 1))
		b.add(atMost(report.Row{ID: "S8", What: what + ": other flows that move when one goes", Unit: report.Percent,
			Value: stats.Bootstrap(moved), Seen: seen}, 1),
			atMost(report.Row{ID: "S8", What: what + ": largest share / mean", Unit: report.Ratio,
				Value: report.Single(stats.Quantile(counts, 1) * float64(n) / float64(size))}, 1.02))
		for range 10 {
			shuffled := slices.Clone(all)
			random.Shuffle(n, func(i, k int) { shuffled[i], shuffled[k] = shuffled[k], shuffled[i] })
			if !slices.Equal(service.Maglev(shuffled, size), table) {
				different++
			}
		}
	}
	b.add(atMost(report.Row{ID: "S8", What: "tables of shuffled backends that differ", Value: report.Single(float64(different)), Seen: "of 40"}, 0))
	return nil
}

// movedWithout is the share of the flows of other backends that go elsewhere without one.
func movedWithout(all []service.Backend, table []uint32, gone int) float64 {
	rest := slices.Delete(slices.Clone(all), gone, gone+1)
	others, elsewhere := 0, 0
	for i, now := range service.Maglev(rest, len(table)) {
		if before := table[i]; int(before) != gone {
			others++
			if all[before] != rest[now] {
				elsewhere++
			}
		}
	}
	return float64(elsewhere) / float64(others)
}
