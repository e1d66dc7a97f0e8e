// Package report says what a benchmark found: as a table for people, a page, a plot, or JSON. It is pure, and the
// same findings are rendered alike.
package report

import (
	"fmt"
	"math"
	"strings"

	"github.com/polder-net/polder/bench/stats"
)

// Report is all that a run found.
type Report struct {
	Machine Machine  `json:"machine"`
	Rows    []Row    `json:"rows"`
	Notes   []string `json:"notes,omitempty"` // what was left out, and why
	// Samples are the raw figures, by experiment and variant, one a round.
	Samples map[string]map[string][]float64 `json:"samples"`
}

// Machine is where and how it was measured.
type Machine struct {
	When     string  `json:"when"`
	Kernel   string  `json:"kernel"`
	CPU      string  `json:"cpu"`
	CPUs     int     `json:"cpus"`
	MemoryGB float64 `json:"memoryGB"`
	Go       string  `json:"go"`
	Revision string  `json:"revision"` // of Polder
	LoadFrom float64 `json:"loadFrom"` // the machine's load average before
	LoadTo   float64 `json:"loadTo"`   // and after; the benchmark itself is about 2 of it
	Rounds   int     `json:"rounds"`
	Slice    string  `json:"slice"`
	Quick    bool    `json:"quick"`
	Took     string  `json:"took"`
}

// Unit is what a row's value is in.
type Unit string

// The units.
const (
	Ratio        Unit = "×"
	Milliseconds Unit = "ms"
	Seconds      Unit = "s"
	Nanoseconds  Unit = "ns"
	Megabytes    Unit = "MB"
	Percent      Unit = "%"
	Count        Unit = ""
)

// Row is one finding.
type Row struct {
	ID    string         `json:"id"`   // the measure: "P1"
	What  string         `json:"what"` // "RR, same node: Polder / direct pair"
	Unit  Unit           `json:"unit"`
	Value stats.Estimate `json:"value"` // a single figure has itself for an interval
	Bar   float64        `json:"bar"`   // 0 and not AtMost: none, the row is there to be known
	Most  bool           `json:"most"`  // the bar is an upper one
	Seen  string         `json:"seen"`  // the absolute figures behind a ratio, for people
}

// Single is an estimate that is one figure.
func Single(v float64) stats.Estimate { return stats.Estimate{Median: v, Low: v, High: v, Count: 1} }

// HasBar says whether the row has a bar to meet.
func (r Row) HasBar() bool { return r.Most || r.Bar != 0 }

// OK says whether the row meets its bar.
func (r Row) OK() bool {
	switch {
	case !r.HasBar():
		return true
	case r.Most:
		return r.Value.Median <= r.Bar
	}
	return r.Value.Median >= r.Bar
}

// Verdict is "ok", or by how much the bar is missed; "?" where the interval reaches to the bar's other side.
func (r Row) Verdict() string {
	if !r.HasBar() {
		return ""
	}
	var doubt string
	if r.Value.Low < r.Bar && r.Bar < r.Value.High {
		doubt = " ?"
	}
	if r.OK() {
		return "ok" + doubt
	}
	if r.Bar == 0 || math.IsNaN(r.Value.Median) {
		return "misses" + doubt
	}
	return fmt.Sprintf("misses by %.1f %%%s", 100*math.Abs(r.Value.Median-r.Bar)/r.Bar, doubt)
}

// BarText is "≥ 0.95".
func (r Row) BarText() string {
	switch {
	case !r.HasBar():
		return ""
	case r.Most:
		return "≤ " + r.number(r.Bar)
	}
	return "≥ " + r.number(r.Bar)
}

// ValueText is "0.97 × [0.95, 0.99]".
func (r Row) ValueText() string {
	text := r.number(r.Value.Median)
	if r.Value.Low != r.Value.High {
		text += fmt.Sprintf(" [%s, %s]", r.number(r.Value.Low), r.number(r.Value.High))
	}
	return text
}

func (r Row) number(v float64) string {
	switch r.Unit {
	case Ratio:
		return fmt.Sprintf("%.3f", v)
	case Count:
		return fmt.Sprintf("%.0f", v)
	case Nanoseconds:
		return fmt.Sprintf("%.0f ns", v)
	}
	return fmt.Sprintf("%.2f %s", v, r.Unit)
}

// Missed lists the rows that miss their bar.
func (r Report) Missed() []Row {
	var missed []Row
	for _, row := range r.Rows {
		if !row.OK() {
			missed = append(missed, row)
		}
	}
	return missed
}

// Amount writes a rate as people do: "21.3 k/s".
func Amount(v float64, unit string) string {
	for _, scale := range []struct {
		above  float64
		prefix string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= scale.above {
			return fmt.Sprintf("%.*f %s%s", digits(v/scale.above), v/scale.above, scale.prefix, unit)
		}
	}
	return strings.TrimSpace(fmt.Sprintf("%.*f %s", digits(v), v, unit))
}

func digits(v float64) int {
	switch {
	case v >= 100:
		return 0
	case v >= 10:
		return 1
	}
	return 2
}
