package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/internal/desired"
)

// established measures the first half of N2: what a packet of a flow that is known costs, with and without policies. One
// flow: as programs meet it in a stream of packets. Many: what is remembered of the last few is of no use to them.
func (b *bench) established(ctx context.Context, _ *worlds) (err error) {
	c, err := b.newCourt("established")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if _, _, err := c.decide(peerPods(manyPeers, fewPolicies), peerPolicies(fewPolicies)); err != nil {
		return fmt.Errorf("N2: %w", err)
	}
	for _, flows := range []int{1, 1000, 50_000} {
		if err := b.establishedFlows(ctx, c, flows); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) establishedFlows(ctx context.Context, c *court, flows int) error {
	for _, p := range []*passage{c.asking(isolated, flows, syn), c.answering(isolated, flows, syn|ack), c.asking(isolated, flows, ack)} {
		if err := p.pass(); err != nil {
			return fmt.Errorf("N2: open %d flows: %w", flows, err)
		}
	}
	all := []*passage{c.asking(isolated, flows, ack), c.asking(free, flows, ack), c.answering(isolated, flows, ack), c.answering(free, flows, ack)}
	if err := b.measurePassages(ctx, "N2", all...); err != nil {
		return err
	}
	for i := 0; i < len(all); i += 2 {
		judged, free := all[i].samples, all[i+1].samples
		what := fmt.Sprintf("packet of %d established flows, %s: with policies - without", flows, all[i].program)
		b.keep("N2 ns", what, differences(judged, free))
		row := report.Row{ID: "N2", What: what, Unit: report.Nanoseconds, Value: stats.Bootstrap(differences(judged, free)),
			Seen: fmt.Sprintf("%.1f ns / %.1f ns", stats.Median(judged), stats.Median(free))}
		if flows == 1 {
			row = atMost(row, 10)
		}
		b.add(row)
	}
	return nil
}

// asking are packets of clients' flows to a pod.
func (c *court) asking(pod, flows int, flags byte) *passage {
	return &passage{court: c, program: desired.FromNetwork, ifindex: wire, want: "to pod", count: flows, frame: func(_, i int) []byte {
		return segment(c.pods[free].mac, netip.AddrPortFrom(peerAddr(i), 40000), netip.AddrPortFrom(c.pods[pod].addr, 80), flags)
	}}
}

// answering are the pod's own of the same flows.
func (c *court) answering(pod, flows int, flags byte) *passage {
	return &passage{court: c, program: desired.FromPod, ifindex: c.pods[pod].index, want: "to native", count: flows, frame: func(_, i int) []byte {
		return segment(c.pods[pod].mac, netip.AddrPortFrom(c.pods[pod].addr, 80), netip.AddrPortFrom(peerAddr(i), 40000), flags)
	}}
}
