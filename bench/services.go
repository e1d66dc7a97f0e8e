package main

import (
	"context"
	"errors"

	"github.com/polder-net/polder/bench/report"
)

// services measures S1 to S9.
func (b *bench) services(ctx context.Context) (err error) {
	w := newWorlds(b)
	defer func() { err = errors.Join(err, w.close()) }()
	for _, p := range []struct {
		ids     []string
		measure func(context.Context, *worlds) error
	}{
		{[]string{"S1", "S2"}, b.connects}, {[]string{"S3"}, b.requestsServed}, {[]string{"S4"}, b.firstPackets},
		{[]string{"S5"}, b.coldStarts}, {[]string{"S6"}, b.oneChange}, {[]string{"S7"}, b.storm},
		{[]string{"S8"}, b.spread}, {[]string{"S9"}, b.affinity},
	} {
		if !b.measures(p.ids...) {
			continue
		}
		if err := p.measure(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// note says what was left out, and why.
func (b *bench) note(text string) {
	b.report.Notes = append(b.report.Notes, text)
	b.say("note: %s", text)
}

// lower is the row of a ratio that is to be at most so much.
func lower(id, what string, x, y []float64, seen string, bar float64) report.Row {
	return atMost(ratioRow(id, what, x, y, seen), bar)
}
