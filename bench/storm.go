package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/stats"
)

// stormRate is how many endpoints change in a second of S7.
const stormRate = 1000

// stormChange is one that an agent is to follow.
type stormChange struct {
	number, service int
	at              time.Time
}

// storm measures S7: how far an agent is behind when endpoints change all the time, and what it has missed at the end.
func (b *bench) storm(ctx context.Context, _ *worlds) (err error) {
	c, lasts := b.manyServices(), time.Minute
	if b.quick {
		lasts = 10 * time.Second
	}
	l, err := b.startAPILab(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.awaitAll(ctx, c); err != nil {
		return err
	}
	b.say("S7 %d changes a second for %s", stormRate, lasts)
	changes := make(chan stormChange, int(lasts.Seconds()+1)*stormRate)
	var lags []float64
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { defer close(changes); return l.makeStorm(ctx, c, lasts, changes) })
	group.Go(func() (err error) { lags, err = l.followStorm(ctx, c, changes); return err })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("S7: %w", err)
	}
	memory, err := residentMemory(l.agent)
	if err != nil {
		return err
	}
	b.addStorm(l.missed(c, len(lags)), lags, memory, lasts)
	return nil
}

func (b *bench) addStorm(missed int, lags []float64, memory float64, lasts time.Duration) {
	b.keep("S7 ms", "lag", lags)
	rate := float64(len(lags)) / lasts.Seconds()
	b.add(atMost(report.Row{ID: "S7", What: fmt.Sprintf("%d endpoint changes a second for %s: lag from the API server to the maps, p99", stormRate, lasts),
		Unit: report.Milliseconds, Value: report.Single(stats.Quantile(lags, 0.99)),
		Seen: fmt.Sprintf("%s, longest %.1f ms; %.0f changes a second; agent %.0f MB", fineQuantiles(lags), stats.Quantile(lags, 1), rate, memory)}, 100),
		atMost(report.Row{ID: "S7", What: "Services that do not lead to their last endpoint", Value: report.Single(float64(missed))}, 0))
}

// makeStorm changes one Service's endpoint after the other's.
func (l *apiLab) makeStorm(ctx context.Context, c objects.Content, lasts time.Duration, changes chan<- stormChange) error {
	began := time.Now()
	for k := 0; time.Since(began) < lasts; {
		for due := int(time.Since(began).Seconds() * stormRate); k < due && len(changes) < cap(changes); k++ {
			changes <- stormChange{k, k % c.Size.Services, time.Now()}
			c.PutEndpoint(l.api, k%c.Size.Services, changedEndpoint(k))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Microsecond):
		}
	}
	return nil
}

// followStorm says how long each change took until the maps had it.
func (l *apiLab) followStorm(ctx context.Context, c objects.Content, changes <-chan stormChange) (lags []float64, err error) {
	for change := range changes {
		if err := l.awaitChange(ctx, c, change.service, changedEndpoint(change.number)); err != nil {
			return nil, err
		}
		lags = append(lags, ms(time.Since(change.at)))
	}
	return lags, nil
}

// missed counts the Services that do not lead where the last of so many changes said.
func (l *apiLab) missed(c objects.Content, changes int) (missed int) {
	for k := max(0, changes-c.Size.Services); k < changes; k++ {
		if done, err := l.leadsTo(c, k%c.Size.Services, changedEndpoint(k)); !done || err != nil {
			missed++
		}
	}
	return missed
}
