package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/stats"
)

// bench is one run.
type bench struct {
	options
	programs string // folder of Polder's programs
	plugins  string // folder of the reference plugins
	report   report.Report
	began    time.Time
	port     int // the last one that nextPort gave
}

// measureAll does everything that was asked for.
func measureAll(ctx context.Context, o options) (report.Report, error) {
	// The name lives as long as this process, whatever ends it: two runs would disturb each other, and their labs.
	only, err := net.Listen("unix", "@polder-bench "+o.state)
	if err != nil {
		return report.Report{}, errors.New("another benchmark is running: wait for it")
	}
	defer only.Close()
	b := &bench{options: o, began: time.Now()}
	b.report.Samples = map[string]map[string][]float64{}
	b.report.Machine = describeMachine(o)
	temporary, err := os.MkdirTemp("", "polder-bench-")
	if err != nil {
		return b.report, err
	}
	defer os.RemoveAll(temporary)
	if err := b.prepare(ctx, temporary); err != nil {
		return b.report, err
	}
	defer os.Remove(o.state) // the labs in it are gone
	for _, part := range []func(context.Context) error{b.traffic, b.services, b.policies, b.attachments} {
		if err := part(ctx); err != nil {
			return b.report, err
		}
	}
	b.report.Machine.LoadTo = loadAverage()
	b.report.Machine.Took = time.Since(b.began).Round(time.Second).String()
	return b.report, nil
}

// prepare builds what is missing.
func (b *bench) prepare(ctx context.Context, temporary string) error {
	if err := os.MkdirAll(b.state, 0o755); err != nil {
		return fmt.Errorf("make labs' folder: %w", err)
	}
	b.programs = b.bin
	if b.programs == "" {
		b.programs = temporary
		b.say("building Polder")
		if err := buildPolder(ctx, temporary); err != nil {
			return err
		}
	}
	if !b.measures("C1", "C2", "C3", "C4", "C5") {
		return nil
	}
	var err error
	b.plugins, err = buildPlugins(ctx, b.say)
	return err
}

// say shows progress.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.0fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

func (b *bench) add(rows ...report.Row) {
	for _, r := range rows {
		b.report.Rows = append(b.report.Rows, r)
		b.say("%s %s: %s %s %s", r.ID, r.What, r.ValueText(), r.BarText(), r.Verdict())
	}
}

// keep remembers raw samples for the JSON output.
func (b *bench) keep(experiment, variant string, samples []float64) {
	if b.report.Samples[experiment] == nil {
		b.report.Samples[experiment] = map[string][]float64{}
	}
	b.report.Samples[experiment][variant] = samples
}

// ratioRow is the row of one variant over another.
func ratioRow(id, what string, a, b []float64, seen string) report.Row {
	return report.Row{ID: id, What: what, Unit: report.Ratio, Value: stats.Bootstrap(stats.Ratios(a, b)), Seen: seen}
}

func atMost(r report.Row, bar float64) report.Row {
	r.Bar, r.Most = bar, true
	return r
}
