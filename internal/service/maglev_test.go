package service_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/polder-net/polder/internal/service"
)

func servers(n int) []service.Backend {
	all := make([]service.Backend, n)
	for i := range all {
		all[i] = service.Backend{Addr: netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), Port: 8080}
	}
	return all
}

// moved is the share of the flows of other backends that go elsewhere when one backend is gone.
func moved(t *testing.T, all []service.Backend, size, gone int) float64 {
	t.Helper()
	before := service.Maglev(all, size)
	rest := slices.Delete(slices.Clone(all), gone, gone+1)
	after := service.Maglev(rest, size)
	var others, elsewhere int
	for i, b := range before {
		if int(b) == gone {
			continue
		}
		others++
		if all[b] != rest[after[i]] {
			elsewhere++
		}
	}
	return float64(elsewhere) / float64(others)
}

func TestFewFlowsMoveWhenABackendGoes(t *testing.T) {
	for _, n := range []int{2, 3, 10, 50, 100, 160} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			all, sum := servers(n), 0.0
			for gone := range all {
				share := moved(t, all, service.MaglevSize(n), gone)
				sum += share
				if share > 0.05 {
					t.Errorf("without backend %d, %.2f %% of the others' flows move", gone, 100*share)
				}
			}
			t.Logf("%.2f %% of the others' flows move", 100*sum/float64(n))
			if mean := sum / float64(n); mean > 0.01 {
				t.Errorf("%.2f %% of the others' flows move, want at most 1 %%", 100*mean)
			}
		})
	}
}

func TestEveryBackendHasItsShare(t *testing.T) {
	for _, n := range []int{1, 2, 3, 10, 50, 100, 160, 500} {
		size := service.MaglevSize(n)
		count := make([]int, n)
		for _, b := range service.Maglev(servers(n), size) {
			count[b]++
		}
		mean := float64(size) / float64(n)
		if most := float64(slices.Max(count)); most/mean > 1.02 {
			t.Errorf("%d backends: one has %.0f places, %.1f is its share", n, most, mean)
		}
	}
}

func TestTheOrderOfBackendsDoesNotMatter(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	all := servers(37)
	want := service.Maglev(all, service.MaglevSize(37))
	for range 20 {
		shuffled := append(slices.Clone(all), all[3])
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if !slices.Equal(service.Maglev(shuffled, len(want)), want) {
			t.Fatal("another order gave another table")
		}
	}
}

func BenchmarkMaglev(b *testing.B) {
	for _, n := range []int{2, 50, 160, 1000} {
		all := servers(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				service.Maglev(all, service.MaglevSize(n))
			}
		})
	}
}

// Nodes of two versions must agree.
func TestTheTableIsTheSameForEver(t *testing.T) {
	want := []uint32{0, 0, 1, 2, 2, 0, 1}
	if got := service.Maglev(servers(3), 7); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestSizesArePrimesManyTimesTheBackends(t *testing.T) {
	for n, want := range map[int]int{0: 2, 1: 307, 2: 601, 10: 3001, 54: 16217, 55: 16381, 5000: 16381} {
		if got := service.MaglevSize(n); got != want {
			t.Errorf("%d backends: %d, want %d", n, got, want)
		}
	}
	if got := service.Maglev(nil, 101); got != nil {
		t.Errorf("no backends have the table %v", got)
	}
	if got := service.Maglev(servers(500), 101); len(got) != 101 {
		t.Errorf("more backends than places: %d places", len(got))
	}
}
