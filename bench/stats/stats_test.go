package stats

import (
	"math"
	"testing"
)

func TestQuantilesLieBetweenTheSamples(t *testing.T) {
	samples := []float64{4, 1, 3, 2}
	for _, c := range []struct{ q, want float64 }{{0, 1}, {0.5, 2.5}, {1, 4}, {1.0 / 3, 2}} {
		if got := Quantile(samples, c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile %v is %v, want %v", c.q, got, c.want)
		}
	}
	if samples[0] != 4 {
		t.Error("the samples were sorted in place")
	}
	if !math.IsNaN(Median(nil)) {
		t.Error("nothing has a median")
	}
}

func TestRatiosAreTakenSampleBySample(t *testing.T) {
	// Each round is ten times slower than the one before, for both alike.
	got := Bootstrap(Ratios([]float64{110, 11, 1.1}, []float64{100, 10, 1}))
	if math.Abs(got.Median-1.1) > 1e-9 || math.Abs(got.High-got.Low) > 1e-9 {
		t.Errorf("got %+v, want 1.1 without doubt", got)
	}
	if n := len(Ratios([]float64{1, 2}, []float64{1})); n != 1 {
		t.Errorf("%d ratios of a round that was cut off, want 1", n)
	}
}

func TestTheBootstrapIsTheSameEveryTime(t *testing.T) {
	samples := []float64{0.9, 1.1, 1.0, 1.3, 0.95, 1.02, 0.99}
	if a, b := Bootstrap(samples), Bootstrap(samples); a != b {
		t.Errorf("%+v, then %+v", a, b)
	}
}

func TestTheIntervalHasTheMedianAndNarrowsWithSamples(t *testing.T) {
	wide := func(n int) Estimate {
		var samples []float64
		for i := range n {
			samples = append(samples, float64(i%10))
		}
		return Bootstrap(samples)
	}
	few, many := wide(10), wide(1000)
	for _, e := range []Estimate{few, many} {
		if e.Low > e.Median || e.High < e.Median {
			t.Errorf("%+v: the median is outside", e)
		}
	}
	if many.High-many.Low >= few.High-few.Low {
		t.Errorf("1000 samples say no more than 10: %+v, %+v", many, few)
	}
	if none := Bootstrap(nil); !math.IsNaN(none.Median) {
		t.Errorf("%+v of nothing", none)
	}
}

func TestTheIntervalHoldsTheTruthMostOfTheTime(t *testing.T) {
	// A small linear congruence stands in for chance: the test is the same every time. Its median is 0.5.
	state := uint32(7)
	next := func() float64 {
		state = state*1664525 + 1013904223
		return float64(state) / (1 << 32)
	}
	hits := 0
	for range 200 {
		var samples []float64
		for range 15 {
			samples = append(samples, next())
		}
		if e := Bootstrap(samples); e.Low <= 0.5 && 0.5 <= e.High {
			hits++
		}
	}
	if hits < 180 || hits == 200 {
		t.Errorf("%d of 200 intervals hold the median, want some 190", hits)
	}
}

func TestTheSlopeIsThatOfTheLine(t *testing.T) {
	if got := Slope([]float64{0, 1, 2, 3}, []float64{5, 7, 9, 11}); math.Abs(got-2) > 1e-9 {
		t.Errorf("slope %v, want 2", got)
	}
	if got := Slope([]float64{1, 1}, []float64{0, 9}); got != 0 {
		t.Errorf("slope %v of points above each other", got)
	}
}
