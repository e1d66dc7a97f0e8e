package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/polder-net/polder/internal/datapath"
)

// policyMetrics are what there is to know of policies in figures. No label depends on a peer.
type policyMetrics struct {
	sync  prometheus.Histogram
	gauge [4]prometheus.Gauge
	shut  prometheus.Gauge
}

func newPolicyMetrics() *policyMetrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "polder", Subsystem: "policy", Name: name, Help: help})
	}
	return &policyMetrics{
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "polder", Subsystem: "policy", Name: "sync_duration_seconds",
			Help: "How long it took to bring a change of policies, or of the pods that they are about, into the kernel.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
		gauge: [4]prometheus.Gauge{
			gauge("rules", "Rows of rules in the kernel."),
			gauge("rulesets", "Different sets of rules that pods of this node have, for a direction."),
			gauge("classes", "Classes of addresses that rules of pods of this node tell apart."),
			gauge("subjects", "Pods of this node whose policies are known."),
		},
		shut: gauge("closed_pods", "Pods of this node that are closed, as their policies are not known yet or could not be put in force."),
	}
}

func (m *policyMetrics) observe(took time.Duration) { m.sync.Observe(took.Seconds()) }

func (m *policyMetrics) set(sizes datapath.PolicySizes, subjects, shut int) {
	for i, n := range []int{sizes.Rules, sizes.Rulesets, sizes.Classes, subjects} {
		m.gauge[i].Set(float64(n))
	}
	m.shut.Set(float64(shut))
}

func (m *policyMetrics) collectors() []prometheus.Collector {
	list := []prometheus.Collector{m.sync, m.shut}
	for _, g := range m.gauge {
		list = append(list, g)
	}
	return list
}

// denials are the counters of what policies did not let pass: of the node, and of each of its pods.
func (m *metrics) denials(ch chan<- prometheus.Metric, counters map[string]uint64) {
	node := desc("policy_denied_packets_total", "Packets that a policy of a pod of this node did not let pass.", "direction")
	for _, direction := range []string{"ingress", "egress"} {
		ch <- prometheus.MustNewConstMetric(node, prometheus.CounterValue, float64(counters["drop "+direction+" denied"]), direction)
	}
	denied, err := m.agent.datapath.Denied()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(node, err)
		return
	}
	type pod struct{ namespace, name string }
	sums := map[pod]uint64{}
	if v := m.agent.policies.drops.view.Load(); v != nil {
		for key, n := range denied {
			if p := v.pods[key.Index]; p.Name != "" {
				sums[pod{p.Namespace, p.Name}] += n
			}
		}
	}
	of := desc("policy_denied_pod_packets_total", "Packets from or to a pod of this node that its policies did not let pass.", "namespace", "pod")
	for p, n := range sums {
		ch <- prometheus.MustNewConstMetric(of, prometheus.CounterValue, float64(n), p.namespace, p.name)
	}
}
