package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// stalled is how long the loop may stay away before the agent calls itself ill.
const stalled = 60 * time.Second

// serveHTTP answers health checks and metrics until ctx is done.
func (a *Agent) serveHTTP(ctx context.Context) error {
	if a.cfg.Listen == "" {
		return nil
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(&metrics{a}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if a.proxy != nil {
		registry.MustRegister(a.proxy)
	}
	if a.policies.table != nil {
		registry.MustRegister(a.policies.metrics.collectors()...)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", a.healthz)
	mux.HandleFunc("GET /readyz", a.readyz)
	l, err := net.Listen("tcp", a.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for health checks: %w: choose another address with --listen", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health checks: %w", err)
	}
	return nil
}

func (a *Agent) healthz(w http.ResponseWriter, _ *http.Request) {
	if since := time.Since(time.Unix(a.beat.Load(), 0)); since > stalled {
		http.Error(w, fmt.Sprintf("the loop has been away for %s", since.Round(time.Second)), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// readyz is ready once pods can be added; what is wrong later is for `polder status` and STATUS to say.
func (a *Agent) readyz(w http.ResponseWriter, _ *http.Request) {
	if !a.status.Load().Ready {
		http.Error(w, "not ready: see polder status", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// metrics reads the published state when it is asked. No label depends on a peer.
type metrics struct{ agent *Agent }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("polder_"+name, help, labels, nil)
}

// Describe sends nothing: which outcomes there are is the datapath's to say.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect sends the figures of this moment.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	r := m.agent.status.Load()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	addresses := desc("addresses", "Addresses of this node's pod CIDRs, by family and state.", "family", "state")
	for _, p := range r.Addresses {
		family := "ipv6"
		if p.CIDR.Addr().Is4() {
			family = "ipv4"
		}
		gauge(addresses, float64(p.Used), family, "used")
		gauge(addresses, float64(p.Free), family, "free")
		gauge(addresses, float64(p.Cooling), family, "cooling")
	}
	gauge(desc("pods", "Pods with a link of Polder's on this node."), float64(len(r.Pods)))
	gauge(desc("peers", "Other nodes of the cluster."), float64(len(r.Peers)))
	gauge(desc("problems", "Objects that Polder cannot honour: see polder status."), float64(len(r.Problems)))
	gauge(desc("ready", "1 if a pod could be added now."), boolValue(r.Ready))
	gauge(desc("synced_timestamp_seconds", "When the node was last compared with what it should be."), float64(r.Synced.Unix()))
	ch <- prometheus.MustNewConstMetric(desc("repairs_total", "Rows that foreign hands changed and the agent set right."),
		prometheus.CounterValue, float64(m.agent.repaired.Load()))
	counters, err := m.agent.datapath.Counters()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(desc("packets_total", "Packets by outcome."), err)
		return
	}
	if m.agent.policies.table != nil {
		m.denials(ch, counters)
	}
	packets := desc("packets_total", "Packets by outcome.", "outcome")
	for outcome, n := range counters {
		ch <- prometheus.MustNewConstMetric(packets, prometheus.CounterValue, float64(n), outcome)
	}
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
