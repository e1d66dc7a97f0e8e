package main

import (
	"context"
	"errors"
)

// policies measures N1 to N5.
func (b *bench) policies(ctx context.Context) (err error) {
	w := newWorlds(b)
	defer func() { err = errors.Join(err, w.close()) }()
	for _, p := range []struct {
		id      string
		measure func(context.Context, *worlds) error
	}{
		{"N1", b.verdicts}, {"N2", b.established}, {"N2", b.isolatedTraffic}, {"N3", b.policyEvents}, {"N4", b.policyTable}, {"N5", b.manyBlocks},
	} {
		if !b.measures(p.id) {
			continue
		}
		if err := p.measure(ctx, w); err != nil {
			return err
		}
	}
	return nil
}
