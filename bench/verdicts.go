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

// The sizes of N1: as many peers for few policies as for many.
const (
	manyPeers    = 100_000
	fewPolicies  = 10
	manyPolicies = 10_000
	newFlows     = 1 << 16 // frames of a measurement, each of a flow of its own
)

// The packets of N1 and N5.
const (
	firstPacket = "first packet of a flow"
	strayPacket = "packet of a flow that nobody saw begin: judged, not remembered"
)

// peerPods are pods of another node. Each has one of so many labels.
func peerPods(count, kinds int) []*cluster.Pod {
	all := make([]*cluster.Pod, count)
	for i := range all {
		all[i] = &cluster.Pod{Namespace: namespace, Name: fmt.Sprint("peer-", i), Node: "node-2", Addresses: []netip.Addr{peerAddr(i)},
			Labels: cluster.Labels{{Key: "app", Value: fmt.Sprint("app-", i%kinds)}}}
	}
	return all
}

// peerAddr is that of a pod of the other node.
func peerAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 128 + byte(i>>16), byte(i >> 8), byte(i)})
}

// peerPolicies isolate the pod "web" both ways. Each lets one kind of peers ask, and be asked, at port 80.
func peerPolicies(count int) []*cluster.NetworkPolicy {
	all := make([]*cluster.NetworkPolicy, count)
	for i := range all {
		peer := cluster.PolicyPeer{Pods: labels.SelectorFromSet(labels.Set{"app": fmt.Sprint("app-", i)})}
		rules := &cluster.PolicyRules{Rules: []cluster.PolicyRule{{Peers: []cluster.PolicyPeer{peer},
			Ports: []cluster.PolicyPort{{Protocol: cluster.TCP, First: 80, Last: 80}}}}}
		all[i] = &cluster.NetworkPolicy{Name: cluster.Name{Namespace: namespace, Name: fmt.Sprint("policy-", i)},
			Subject: labels.SelectorFromSet(labels.Set{"app": "web"}), Ingress: rules, Egress: rules}
	}
	return all
}

// verdicts measures N1: what the first packet of a flow costs, by the number of policies that isolate the pod.
func (b *bench) verdicts(ctx context.Context, _ *worlds) (err error) {
	var courts []*court
	defer func() {
		for _, c := range courts {
			err = errors.Join(err, c.close())
		}
	}()
	for _, policies := range []int{fewPolicies, manyPolicies} {
		c, err := b.newCourt(fmt.Sprint(policies))
		if err != nil {
			return err
		}
		courts = append(courts, c)
		if err := b.fillCourt(c, "N1", fmt.Sprintf("%d policies of one pod, %d peers", policies, manyPeers),
			peerPods(manyPeers, policies), peerPolicies(policies)); err != nil {
			return err
		}
	}
	first := []*passage{courts[0].comingIn(isolated, syn), courts[1].comingIn(isolated, syn), courts[1].comingIn(free, syn)}
	stray := []*passage{courts[0].comingIn(isolated, ack), courts[1].comingIn(isolated, ack), courts[1].comingIn(free, ack)}
	if err := b.measurePassages(ctx, "N1", append(first, stray...)...); err != nil {
		return err
	}
	b.addVerdicts(firstPacket, 1.3, first)
	b.addVerdicts(strayPacket, 0, stray)
	return nil
}

// fillCourt gives a court its policies, and says what that took.
func (b *bench) fillCourt(c *court, id, what string, peers []*cluster.Pod, policies []*cluster.NetworkPolicy) error {
	compiled, written, err := c.decide(peers, policies)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", id, what, err)
	}
	b.add(report.Row{ID: id, What: what + ": from objects to maps", Unit: report.Seconds, Value: report.Single((compiled + written).Seconds()),
		Seen: fmt.Sprintf("%.2f s to compile, %.2f s to write; %d rows of rules, %d classes, %d places", compiled.Seconds(), written.Seconds(),
			c.sizes.Rules, c.sizes.Classes, c.sizes.Places)})
	return nil
}

// comingIn are packets to a pod, from all peers in turn, each of a flow of its own.
func (c *court) comingIn(pod int, flags byte) *passage {
	return &passage{court: c, program: desired.FromNetwork, ifindex: wire, want: "to pod", fresh: true, count: newFlows,
		frame: func(round, i int) []byte {
			n := round*newFlows + i
			return segment(c.pods[free].mac, netip.AddrPortFrom(peerAddr(n%manyPeers), uint16(32768+n/manyPeers)),
				netip.AddrPortFrom(c.pods[pod].addr, 80), flags)
		}}
}

// addVerdicts adds the rows of passages to a pod with few policies, with many and with none.
func (b *bench) addVerdicts(packet string, bar float64, p []*passage) {
	few, lots, none := p[0].samples, p[1].samples, p[2].samples
	what := fmt.Sprintf("%s, from_network, %d peers: ", packet, manyPeers)
	nanoseconds := func(of string, samples []float64) report.Row {
		b.keep("N1 "+packet+", ns", of, samples)
		return report.Row{ID: "N1", What: what + of, Unit: report.Nanoseconds, Value: stats.Bootstrap(samples)}
	}
	fewText, lotsText := fmt.Sprintf("%d policies", fewPolicies), fmt.Sprintf("%d policies", manyPolicies)
	row := ratioRow("N1", what+lotsText+" / "+fewText, lots, few, fmt.Sprintf("%.0f ns / %.0f ns", stats.Median(lots), stats.Median(few)))
	if bar > 0 {
		row = atMost(row, bar)
	}
	b.add(nanoseconds("a pod without", none), nanoseconds(fewText, few), nanoseconds(lotsText, lots), row)
}

// differences are a less b, sample by sample.
func differences(a, b []float64) []float64 {
	all := make([]float64, min(len(a), len(b)))
	for i := range all {
		all[i] = a[i] - b[i]
	}
	return all
}
