package main

import (
	"context"
	"fmt"

	"github.com/polder-net/polder/bench/kubeproxy"
	"github.com/polder-net/polder/bench/load"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/stats"
)

// connectCase is Services, and which of them a client connects by: always the same, or the next each time.
type connectCase struct {
	objects.Size
	inTurn bool
}

func connectCases() []connectCase {
	size := func(services int) objects.Size { return objects.Size{Services: services, Endpoints: load.Ports} }
	return []connectCase{{size(1), false}, {size(1000), false}, {size(30000), false}, {size(1000), true}, {size(30000), true}}
}

func (c connectCase) String() string {
	switch {
	case c.inTurn:
		return c.Size.String() + " Services in turn"
	case c.Services > 1:
		return "one of " + c.Size.String() + " Services"
	}
	return c.Size.String() + " Service"
}

// connects measures S1 and S2: what a Service costs a connect(). One process connects by a Service and to the pod itself
// in turn.
func (b *bench) connects(ctx context.Context, w *worlds) error {
	s, err := w.served(ctx, false)
	if err != nil {
		return err
	}
	cases := connectCases()
	rates, direct := map[connectCase][]float64{}, map[connectCase][]float64{}
	for round := range b.rounds {
		for i := range cases {
			c := cases[order(round, i, len(cases))]
			r, err := b.connectThrough(ctx, s, c)
			if err != nil {
				return fmt.Errorf("S1, %s: %w", c, err)
			}
			rates[c], direct[c] = append(rates[c], r.Service.Rate()), append(direct[c], r.Direct.Rate())
			b.say("S1 connect, %s, round %d of %d: %.2f µs, direct %.2f µs", c, round+1, b.rounds, r.Service.Mean, r.Direct.Mean)
		}
	}
	b.addConnects(rates, direct)
	return nil
}

// addConnects adds the rows: S1 of the first case, and S2, of the others beside it. What is compared there is ratios to
// the direct connections of the same moment: so the machine's mood is taken out.
func (b *bench) addConnects(rates, direct map[connectCase][]float64) {
	cases := connectCases()
	for i, c := range cases {
		b.keep("S1 connect/s", c.String(), rates[c])
		b.keep("S1 connect/s, direct", c.String(), direct[c])
		row := ratioRow("S1", fmt.Sprintf("connect(), %s: by ClusterIP / direct", c), rates[c], direct[c],
			report.Amount(stats.Median(rates[c]), "/s")+" / "+report.Amount(stats.Median(direct[c]), "/s"))
		if i == 0 {
			row.Bar = 0.97
		}
		b.add(row)
	}
	one := stats.Ratios(rates[cases[0]], direct[cases[0]])
	for _, c := range cases[1:] {
		row := ratioRow("S2", fmt.Sprintf("connect(), %s / %s", c, cases[0]), stats.Ratios(rates[c], direct[c]), one, "")
		if c.Services == 30000 && !c.inTurn {
			row.Bar = 0.98
		}
		b.add(row)
	}
}

// connectThrough makes a case's Services the node's, and connects by them.
func (b *bench) connectThrough(ctx context.Context, s *served, c connectCase) (load.Result, error) {
	content := s.live(c.Size)
	if _, err := s.serve(content.Services()); err != nil {
		return load.Result{}, err
	}
	if err := s.settle(); err != nil {
		return load.Result{}, err
	}
	spec := pair(load.Beside, s.client, s.near)
	spec.Via, spec.Time = via(content), b.slice
	if !c.inTurn {
		spec.Via.Count = 1
	}
	return load.Run(ctx, spec)
}

// requestsServed measures S3: RR on a connection that was made by a Service.
func (b *bench) requestsServed(ctx context.Context, w *worlds) error {
	s, err := w.served(ctx, false)
	if err != nil {
		return err
	}
	c := s.live(objects.Size{Services: 1, Endpoints: 1})
	if _, err := s.serve(c.Services()); err != nil {
		return err
	}
	served := pair(load.RR, s.client, s.near)
	served.Via = via(c)
	e := experiment{id: "S3", what: "RR, same node", unit: "/s", metric: load.Result.Rate,
		variants: []variant{{byService, served}, {"direct", pair(load.RR, s.client, s.near)}}, ratios: []ratio{{byService, "direct", 0.99}}}
	if err := b.compare(ctx, e); err != nil {
		return err
	}
	for i := range e.variants {
		e.variants[i].spec.ToCPU = e.variants[i].spec.FromCPU
	}
	e.what += ", one CPU"
	return b.compare(ctx, e)
}

// byService is a variant's name.
const byService = "by a Service"

// connectionsServed measures the rest of P6: connections of one request each, by one Service and by many in turn, beside
// those that kube-proxy's table translates.
func (b *bench) connectionsServed(ctx context.Context, w *worlds) error {
	s, err := w.served(ctx, false)
	if err != nil {
		return err
	}
	program, missing := kubeproxy.Program()
	if missing != nil {
		b.note("P6 has no kube-proxy beside it: " + missing.Error())
	}
	for _, services := range []int{1, b.packetSizes()[2].Services} {
		c := s.live(objects.Size{Services: services, Endpoints: 1})
		if _, err := s.serve(c.Services()); err != nil {
			return err
		}
		if err := s.settle(); err != nil {
			return err
		}
		e := experiment{id: "P6", what: fmt.Sprintf("CRR, same node, %d Services", services), unit: "/s", metric: load.Result.Rate,
			variants: []variant{{byService, pair(load.CRR, s.client, s.near)}, {"direct", pair(load.CRR, s.client, s.near)}},
			ratios:   []ratio{{byService, "direct", 0}}}
		e.variants[0].spec.Via = via(c)
		if missing == nil {
			theirs, content, err := w.proxied(ctx, program, c.Size)
			if err != nil {
				return err
			}
			v := variant{kubeProxy, pair(load.CRR, theirs.client, theirs.near)}
			v.spec.Via = via(content)
			e.variants, e.ratios = append(e.variants, v), append(e.ratios, ratio{byService, kubeProxy, 1.20})
		}
		if err := b.compare(ctx, e); err != nil {
			return err
		}
	}
	return nil
}
