package main

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/desired"
)

// turnsAtOnce is how many frames pass between two looks at the clock: so few that what disturbs the machine spoils some
// looks, and not their median.
const turnsAtOnce = 2048

// passage is frames that a program of a court is run on.
type passage struct {
	court   *court
	program desired.Program
	ifindex int
	want    string                // what becomes of each
	frame   func(n, i int) []byte // the i-th of the n-th measurement: new ones each time, or not
	fresh   bool                  // each passes once: it begins a flow
	count   int                   // of frames, all of another flow
	turns   *datapath.InTurn      // made by the first measurement
	samples []float64             // ns a packet, a sample for each measurement
}

// measurePassages measures all of them in turn, so many times, and keeps a sample of each time.
func (b *bench) measurePassages(ctx context.Context, id string, all ...*passage) error {
	defer func() {
		for _, p := range all {
			if p.turns != nil {
				p.turns.Close()
			}
		}
	}()
	for round := range b.rounds {
		for i := range all {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			p := all[order(round, i, len(all))]
			if err := rig.In(p.court.world.Nodes[0].NS, func() error { return p.measure(round) }); err != nil {
				return fmt.Errorf("%s: %w", id, err)
			}
		}
	}
	return nil
}

// measure takes one sample: on one processor, since what was judged a moment ago is remembered by each for itself.
func (p *passage) measure(round int) error {
	cpu := unix.CPUSet{}
	cpu.Set(0)
	if err := unix.SchedSetaffinity(0, &cpu); err != nil {
		return fmt.Errorf("stay on a processor: %w", err)
	}
	if err := p.prepare(round); err != nil {
		return err
	}
	looks := 16
	if p.fresh { // no frame may pass twice; those that the other program gets are used up, too
		looks = p.count / turnsAtOnce / 2
	}
	var took, nothing []float64
	for range looks {
		all, err := p.turns.Run(turnsAtOnce, p.want)
		if err != nil {
			return err
		}
		none, err := p.turns.Nothing(turnsAtOnce)
		if err != nil {
			return err
		}
		took, nothing = append(took, float64(all.Nanoseconds())), append(nothing, float64(none.Nanoseconds()))
	}
	p.samples = append(p.samples, (stats.Median(took)-stats.Median(nothing))/turnsAtOnce)
	return nil
}

// prepare puts the frames of a measurement in place.
func (p *passage) prepare(round int) (err error) {
	switch {
	case p.turns == nil:
		p.turns, err = p.court.datapath.InTurn(p.program, p.ifindex, p.frames(round))
	case p.fresh:
		err = p.turns.Set(p.frames(round))
	}
	return err
}

func (p *passage) frames(round int) [][]byte {
	all := make([][]byte, p.count)
	for i := range all {
		all[i] = p.frame(round, i)
	}
	return all
}

// pass runs each frame once, and takes no sample.
func (p *passage) pass() error {
	return rig.In(p.court.world.Nodes[0].NS, func() error {
		turns, err := p.court.datapath.InTurn(p.program, p.ifindex, p.frames(0))
		if err != nil {
			return err
		}
		defer turns.Close()
		_, err = turns.Run(p.count, p.want)
		return err
	})
}
