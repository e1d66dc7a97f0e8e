package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/polder-net/polder/bench/load"
	"github.com/polder-net/polder/bench/rig"
)

// traffic measures P1 to P8.
func (b *bench) traffic(ctx context.Context) (err error) {
	w := newWorlds(b)
	defer func() { err = errors.Join(err, w.close()) }()
	for _, p := range []struct {
		id      string
		measure func(context.Context, *worlds) error
	}{
		{"P1", b.requestsNear}, {"P2", b.streamNear}, {"P3", b.requestsFar}, {"P4", b.streamFar},
		{"P5", b.tunnel}, {"P6", b.connections}, {"P7", b.datagrams}, {"P8", b.programCosts},
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

// pair is a load between two ends, on two processors where there are two.
func pair(kind load.Kind, from, to rig.End) load.Spec {
	return load.Spec{Kind: kind, From: from, To: to, FromCPU: 0, ToCPU: min(1, runtime.NumCPU()-1)}
}

// nearPairs are Polder and the baselines, client and server on one node.
func (w *worlds) nearPairs(ctx context.Context, kind load.Kind) ([]variant, error) {
	p, err := w.polder(ctx, "auto")
	if err != nil {
		return nil, err
	}
	variants := []variant{{polder, pair(kind, p.client, p.near)}}
	for _, base := range []struct {
		name  string
		build func() (*network, error)
	}{
		{b0, func() (*network, error) { return w.direct(ctx) }},
		{b1, func() (*network, error) { return w.near(ctx, false) }},
		{b2, func() (*network, error) { return w.near(ctx, true) }},
	} {
		n, err := base.build()
		if err != nil {
			return nil, err
		}
		variants = append(variants, variant{base.name, pair(kind, n.client, n.near)})
	}
	return variants, nil
}

// farPairs are Polder and the baselines across nodes; hosts are B1's nodes themselves, without pods or Polder.
func (w *worlds) farPairs(ctx context.Context, kind load.Kind) ([]variant, error) {
	p, err := w.polder(ctx, "auto")
	if err != nil {
		return nil, err
	}
	plain, err := w.far(ctx, false)
	if err != nil {
		return nil, err
	}
	proxied, err := w.far(ctx, true)
	if err != nil {
		return nil, err
	}
	return []variant{
		{polder, pair(kind, p.client, p.far)},
		{hosts, pair(kind, plain.nodes[0], plain.nodes[1])},
		{polderNodes, pair(kind, p.nodes[0], p.nodes[1])},
		{b1, pair(kind, plain.client, plain.far)},
		{b2, pair(kind, proxied.client, proxied.far)},
	}, nil
}

func (b *bench) requestsNear(ctx context.Context, w *worlds) error {
	variants, err := w.nearPairs(ctx, load.RR)
	if err != nil {
		return err
	}
	e := experiment{id: "P1", what: "RR, same node", unit: "/s", metric: load.Result.Rate, variants: variants,
		ratios: []ratio{{polder, b0, 0.95}, {polder, b2, 1.15}, {polder, b1, 0}}}
	if err := b.compare(ctx, e); err != nil {
		return err
	}
	for i := range e.variants {
		e.variants[i].spec.ToCPU = e.variants[i].spec.FromCPU
	}
	e.what += ", one CPU"
	return b.compare(ctx, e)
}

func (b *bench) streamNear(ctx context.Context, w *worlds) error {
	variants, err := w.nearPairs(ctx, load.Stream)
	if err != nil {
		return err
	}
	return b.compare(ctx, experiment{id: "P2", what: "STREAM, same node", unit: "B/s", metric: load.Result.Throughput,
		variants: variants, ratios: []ratio{{polder, b0, 0.97}, {polder, b2, 0}}})
}

func (b *bench) requestsFar(ctx context.Context, w *worlds) error {
	variants, err := w.farPairs(ctx, load.RR)
	if err != nil {
		return err
	}
	return b.compare(ctx, experiment{id: "P3", what: "RR, across nodes", unit: "/s", metric: load.Result.Rate,
		variants: variants, ratios: []ratio{{polder, hosts, 0.88}, {polderNodes, hosts, 0}, {polder, b1, 0}, {polder, b2, 0}}})
}

func (b *bench) streamFar(ctx context.Context, w *worlds) error {
	variants, err := w.farPairs(ctx, load.Stream)
	if err != nil {
		return err
	}
	return b.compare(ctx, experiment{id: "P4", what: "STREAM, across nodes, bytes per CPU second", unit: "B",
		metric: load.Result.PerCPU, perCPU: true, variants: variants,
		ratios: []ratio{{polder, b2, 1.10}, {polder, b1, 0}, {polder, hosts, 0}}})
}

func (b *bench) tunnel(ctx context.Context, w *worlds) error {
	p, err := w.polder(ctx, "tunnel")
	if err != nil {
		return err
	}
	k, err := w.vxlan(ctx)
	if err != nil {
		return err
	}
	for _, e := range []experiment{
		{what: "RR through VXLAN", unit: "/s", metric: load.Result.Rate,
			variants: []variant{{polder, pair(load.RR, p.client, p.far)}, {kernelVXLAN, pair(load.RR, k.client, k.far)}}},
		{what: "STREAM through VXLAN", unit: "B/s", metric: load.Result.Throughput,
			variants: []variant{{polder, pair(load.Stream, p.client, p.far)}, {kernelVXLAN, pair(load.Stream, k.client, k.far)}}},
	} {
		e.id, e.ratios = "P5", []ratio{{polder, kernelVXLAN, 1.00}}
		if err := b.compare(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) connections(ctx context.Context, w *worlds) error {
	near, err := w.nearPairs(ctx, load.CRR)
	if err != nil {
		return err
	}
	err = b.compare(ctx, experiment{id: "P6", what: "CRR, same node", unit: "/s", metric: load.Result.Rate,
		variants: near, ratios: []ratio{{polder, b2, 1.20}, {polder, b1, 0}, {polder, b0, 0}}})
	if err != nil {
		return err
	}
	far, err := w.farPairs(ctx, load.CRR)
	if err != nil {
		return err
	}
	err = b.compare(ctx, experiment{id: "P6", what: "CRR, across nodes", unit: "/s", metric: load.Result.Rate,
		variants: far, ratios: []ratio{{polder, b2, 1.20}, {polder, b1, 0}, {polder, hosts, 0}}})
	if err != nil {
		return err
	}
	return b.connectionsServed(ctx, w)
}

// manyFlows is the other number of flows of P7.
const manyFlows = 10000

func (b *bench) datagrams(ctx context.Context, w *worlds) error {
	p, err := w.polder(ctx, "auto")
	if err != nil {
		return err
	}
	d, err := w.direct(ctx)
	if err != nil {
		return err
	}
	many := func(s load.Spec) load.Spec { s.Flows = manyFlows; return s }
	one, direct := pair(load.UDP, p.client, p.near), pair(load.UDP, d.client, d.near)
	name := func(base string) string { return fmt.Sprintf("%s, 10k flows", base) }
	return b.compare(ctx, experiment{id: "P7", what: "UDP of 64 bytes, same node", unit: "p/s", metric: load.Result.Rate,
		variants: []variant{{polder, one}, {b0, direct}, {name(polder), many(one)}, {name(b0), many(direct)}},
		ratios: []ratio{{polder, b0, 0.90}, {name(polder), name(b0), 0.90}, {name(polder), polder, 0.90},
			{name(b0), b0, 0}}})
}
