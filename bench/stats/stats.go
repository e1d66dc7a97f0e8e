// Package stats is the little statistics that benchmarks need. It is pure, and the same samples give the same answer.
package stats

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Estimate is a median and the interval that has the true one with 95 % confidence.
type Estimate struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Count  int     `json:"count"` // of samples
}

const (
	resamples  = 10000
	confidence = 0.95
)

// Median returns the median of samples, NaN of none.
func Median(samples []float64) float64 { return Quantile(samples, 0.5) }

// Quantile returns the value below which a share q of the samples lies, interpolated; NaN of none.
func Quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(samples))
	at := q * float64(len(sorted)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// Ratios divides sample by sample: what was measured in the same round meets the same machine.
func Ratios(a, b []float64) []float64 {
	ratios := make([]float64, min(len(a), len(b)))
	for i := range ratios {
		ratios[i] = a[i] / b[i]
	}
	return ratios
}

// Bootstrap estimates the median of what the samples were drawn from (percentile bootstrap; the seed is fixed).
func Bootstrap(samples []float64) Estimate {
	if len(samples) == 0 {
		return Estimate{Median: math.NaN(), Low: math.NaN(), High: math.NaN()}
	}
	random := rand.New(rand.NewPCG(1, 2))
	medians := make([]float64, resamples)
	drawn := make([]float64, len(samples))
	for i := range medians {
		for k := range drawn {
			drawn[k] = samples[random.IntN(len(samples))]
		}
		medians[i] = Median(drawn)
	}
	return Estimate{
		Median: Median(samples),
		Low:    Quantile(medians, (1-confidence)/2),
		High:   Quantile(medians, (1+confidence)/2),
		Count:  len(samples),
	}
}

// Slope is the gradient of the straight line nearest to the points (least squares), 0 where there is none.
func Slope(x, y []float64) float64 {
	n := float64(min(len(x), len(y)))
	var sx, sy, sxx, sxy float64
	for i := range int(n) {
		sx, sy, sxx, sxy = sx+x[i], sy+y[i], sxx+x[i]*x[i], sxy+x[i]*y[i]
	}
	spread := n*sxx - sx*sx
	if spread == 0 {
		return 0
	}
	return (n*sxy - sx*sy) / spread
}
