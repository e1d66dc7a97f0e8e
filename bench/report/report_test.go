package report

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/polder-net/polder/bench/stats"
)

func sample() Report {
	return Report{
		Machine: Machine{When: "2026-01-01", Kernel: "6.18", CPU: "AMD EPYC", CPUs: 2, MemoryGB: 24, Go: "go1.26", Revision: "abc", Rounds: 15, Slice: "2s", Took: "20m"},
		Rows: []Row{
			{ID: "P1", What: "RR: Polder / B0", Unit: Ratio, Value: stats.Estimate{Median: 0.97, Low: 0.96, High: 0.98, Count: 15}, Bar: 0.95, Seen: "21.3 k/s"},
			{ID: "P6", What: "CRR: Polder / B2 <same>", Unit: Ratio, Value: stats.Estimate{Median: 1.1, Low: 1.0, High: 1.3, Count: 15}, Bar: 1.2},
			{ID: "C2", What: "100 parallel ADDs", Unit: Seconds, Value: Single(1.2), Bar: 1.5, Most: true},
			{ID: "C5", What: "leaked pins", Unit: Count, Value: Single(0), Bar: 0, Most: true},
			{ID: "P1", What: "RR: Polder / B1", Unit: Ratio, Value: stats.Estimate{Median: 1.2, Low: 1.1, High: 1.3}},
		},
		Notes: []string{"no nft: B2 is missing"},
	}
}

func TestVerdictsSayByHowMuch(t *testing.T) {
	estimate := func(low, median, high float64) stats.Estimate {
		return stats.Estimate{Median: median, Low: low, High: high}
	}
	for _, c := range []struct {
		name string
		row  Row
		want string
	}{
		{"above a lower bar", Row{Value: estimate(0.96, 0.97, 0.98), Bar: 0.95}, "ok"},
		{"above, in doubt", Row{Value: estimate(0.94, 0.97, 0.98), Bar: 0.95}, "ok ?"},
		{"below", Row{Value: estimate(0.8, 0.855, 0.9), Bar: 0.95}, "misses by 10.0 %"},
		{"below, in doubt", Row{Value: estimate(0.8, 0.855, 0.96), Bar: 0.95}, "misses by 10.0 % ?"},
		{"above an upper bar", Row{Value: estimate(2, 2, 2), Bar: 1, Most: true}, "misses by 100.0 %"},
		{"nothing leaked", Row{Value: Single(0), Most: true}, "ok"},
		{"something leaked", Row{Value: Single(3), Most: true}, "misses"},
		{"no bar", Row{Value: Single(3)}, ""},
		{"not measured", Row{Value: Single(math.NaN()), Bar: 1}, "misses"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.row.Verdict(); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func TestTheTableHasEveryRowAndTheCount(t *testing.T) {
	var b strings.Builder
	if err := Text(&b, sample()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0.970 [0.960, 0.980]", "≥ 0.950", "misses by 8.3 % ?", "≤ 1.50 s", "3 of 4 bars are met", "note: no nft"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestThePageNamesWhatMissed(t *testing.T) {
	page := Page(sample())
	for _, want := range []string{"## What missed its bar", "- P6, CRR", "| P1 | RR: Polder / B0 |", "**misses by 8.3 % ?**", "no nft: B2 is missing"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if page != Page(sample()) {
		t.Error("the same findings gave another page")
	}
	fine := sample()
	fine.Rows, fine.Notes = fine.Rows[:1], nil
	if strings.Contains(Page(fine), "missed its bar") {
		t.Error("nothing missed, and yet there is a chapter on it")
	}
}

func TestThePlotIsWellFormedAndHasTheRatiosAlone(t *testing.T) {
	plot := Plot(sample())
	if plot != Plot(sample()) {
		t.Error("the same findings gave another plot")
	}
	circles := 0
	for d := xml.NewDecoder(strings.NewReader(plot)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, plot)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "circle" {
			circles++
		}
	}
	if circles != 3 {
		t.Errorf("%d points, want one for each of the 3 ratios", circles)
	}
}

func TestAmountsAreShort(t *testing.T) {
	for _, c := range []struct {
		v    float64
		want string
	}{{12, "12.0 /s"}, {21345, "21.3 k/s"}, {5.5e9, "5.50 G/s"}, {123456, "123 k/s"}} {
		if got := Amount(c.v, "/s"); got != c.want {
			t.Errorf("%v is %q, want %q", c.v, got, c.want)
		}
	}
}
