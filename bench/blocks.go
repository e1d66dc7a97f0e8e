package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
)

// The size of N5, and its bar in ns.
const (
	blockRules = 12_500
	blockBar   = 500
)

// manyBlocks measures N5: a pod with as many rules as there are blocks of addresses, each with a port of its own.
func (b *bench) manyBlocks(ctx context.Context, _ *worlds) (err error) {
	c, err := b.newCourt("blocks")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	what := fmt.Sprintf("a pod with %d rules, of a block each", blockRules)
	if err := b.fillCourt(c, "N5", what, nil, blockPolicies()); err != nil {
		return err
	}
	first, stray, none := c.goingOut(isolated, syn), c.goingOut(isolated, ack), c.goingOut(free, syn)
	again := c.goingOut(isolated, ack)
	again.fresh, again.count = false, 1
	if err := b.measurePassages(ctx, "N5", first, stray, again, none); err != nil {
		return err
	}
	row := func(packet string, p *passage) report.Row {
		b.keep("N5 ns", packet, p.samples)
		return report.Row{ID: "N5", What: what + ": " + packet + ", from_pod", Unit: report.Nanoseconds, Value: stats.Bootstrap(p.samples),
			Seen: fmt.Sprintf("a pod without %.0f ns", stats.Median(none.samples))}
	}
	b.add(atMost(row(firstPacket, first), blockBar), row(strayPacket, stray), row(strayPacket+", one block again and again", again))
	return nil
}

// blockPolicies let the pod "web" ask anybody in blocks outside, in as many objects as people would write.
func blockPolicies() []*cluster.NetworkPolicy {
	const perPolicy = 250
	var all []*cluster.NetworkPolicy
	for i := range blockRules {
		if i%perPolicy == 0 {
			all = append(all, &cluster.NetworkPolicy{Name: cluster.Name{Namespace: namespace, Name: fmt.Sprint("blocks-", i/perPolicy)},
				Subject: labels.SelectorFromSet(labels.Set{"app": "web"}), Egress: &cluster.PolicyRules{}})
		}
		rules, port := all[len(all)-1].Egress, blockPort(i)
		rules.Rules = append(rules.Rules, cluster.PolicyRule{Peers: []cluster.PolicyPeer{{Block: netip.PrefixFrom(blockAddr(i), 24).Masked()}},
			Ports: []cluster.PolicyPort{{Protocol: cluster.TCP, First: port, Last: port}}})
	}
	return all
}

func blockAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 7}) }

func blockPort(i int) uint16 { return uint16(10000 + i) }

// goingOut are first packets of flows from a pod, to all blocks in turn.
func (c *court) goingOut(pod int, flags byte) *passage {
	return &passage{court: c, program: desired.FromPod, ifindex: c.pods[pod].index, want: "to stack", fresh: true, count: newFlows,
		frame: func(round, i int) []byte {
			n := round*newFlows + i
			return segment(c.pods[pod].mac, netip.AddrPortFrom(c.pods[pod].addr, uint16(32768+n/blockRules)),
				netip.AddrPortFrom(blockAddr(n%blockRules), blockPort(n%blockRules)), flags)
		}}
}
