package agent

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/polder-net/polder/internal/health"
)

// proxyMetrics are those of kube-proxy's metrics that mean the same here, by its names, so that dashboards and alerts
// go on. The label ip_family is missing: one sync is for both families. Its methods are the loop's to call.
type proxyMetrics struct {
	proxy *health.Proxy

	sync, programming, conntrack      prometheus.Histogram
	lastQueued, lastSync              prometheus.Gauge
	serviceChanges, endpointChanges   prometheus.Counter
	servicesPending, endpointsPending prometheus.Gauge
	noLocalEndpoints                  *prometheus.GaugeVec
	conntrackDeleted                  prometheus.Counter
	healthzAnswers, livezAnswers      *prometheus.Desc
}

func newProxyMetrics(proxy *health.Proxy) *proxyMetrics {
	short := prometheus.ExponentialBuckets(0.001, 2, 15)
	return &proxyMetrics{
		proxy:            proxy,
		sync:             proxyHistogram("sync_proxy_rules_duration_seconds", "How long it took to bring Services into the kernel.", short),
		programming:      proxyHistogram("network_programming_duration_seconds", "From a change of a Service's pods until the kernel had it.", programmingBuckets()),
		conntrack:        proxyHistogram("conntrack_reconciler_sync_duration_seconds", "How long it took to look for flows whose endpoint is gone.", short),
		lastQueued:       proxyGauge("sync_proxy_rules_last_queued_timestamp_seconds", "When a change of Services or endpoints last came."),
		lastSync:         proxyGauge("sync_proxy_rules_last_timestamp_seconds", "When the kernel last had all Services."),
		serviceChanges:   proxyCounter("sync_proxy_rules_service_changes_total", "Changes of Services."),
		endpointChanges:  proxyCounter("sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices."),
		servicesPending:  proxyGauge("sync_proxy_rules_service_changes_pending", "Changes of Services that the kernel does not have yet."),
		endpointsPending: proxyGauge("sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices that the kernel does not have yet."),
		conntrackDeleted: proxyCounter("conntrack_reconciler_deleted_entries_total", "Flows ended because their endpoint is gone."),
		noLocalEndpoints: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "kubeproxy", Name: "sync_proxy_rules_no_local_endpoints_total",
			Help: "Service ports whose traffic policy is Local and whose endpoints are all elsewhere."}, []string{"traffic_policy"}),
		healthzAnswers: proxyDesc("proxy_healthz_total", "Answers to /healthz by HTTP status."),
		livezAnswers:   proxyDesc("proxy_livez_total", "Answers to /livez by HTTP status."),
	}
}

func proxyHistogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "kubeproxy", Name: name, Help: help, Buckets: buckets})
}

func proxyGauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "kubeproxy", Name: name, Help: help})
}

func proxyCounter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "kubeproxy", Name: name, Help: help})
}

func proxyDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kubeproxy_"+name, help, []string{"code"}, nil)
}

// programmingBuckets are kube-proxy's: quantiles over nodes with either need the same ones.
func programmingBuckets() []float64 {
	buckets := []float64{0}
	buckets = append(buckets, prometheus.LinearBuckets(0.25, 0.25, 2)...)
	buckets = append(buckets, prometheus.LinearBuckets(1, 1, 59)...)
	buckets = append(buckets, prometheus.LinearBuckets(60, 5, 12)...)
	return append(buckets, prometheus.LinearBuckets(120, 30, 7)...)
}

// observeChanges says that some objects have changed and that a sync is to bring it into the kernel.
func (m *proxyMetrics) observeChanges(services, endpointSlices int) {
	m.serviceChanges.Add(float64(services))
	m.endpointChanges.Add(float64(endpointSlices))
	m.servicesPending.Add(float64(services))
	m.endpointsPending.Add(float64(endpointSlices))
	m.lastQueued.SetToCurrentTime()
}

// observeSync says that a sync took some time, and whether the kernel has everything now.
func (m *proxyMetrics) observeSync(took time.Duration, whole bool) {
	m.sync.Observe(took.Seconds())
	if whole {
		m.servicesPending.Set(0)
		m.endpointsPending.Set(0)
		m.lastSync.SetToCurrentTime()
	}
}

// observeProgramming says that the kernel has a change of endpoints, and how long after it happened: since the
// EndpointSlice's annotation endpoints.kubernetes.io/last-change-trigger-time.
func (m *proxyMetrics) observeProgramming(took time.Duration) { m.programming.Observe(took.Seconds()) }

// observeConntrack says that the flows were looked through, and how many were ended.
func (m *proxyMetrics) observeConntrack(took time.Duration, deleted int) {
	m.conntrack.Observe(took.Seconds())
	m.conntrackDeleted.Add(float64(deleted))
}

// setNoLocalEndpoints says how many Service ports, of both families, have endpoints but none here, though
// internalTrafficPolicy or externalTrafficPolicy is Local.
func (m *proxyMetrics) setNoLocalEndpoints(internal, external int) {
	m.noLocalEndpoints.WithLabelValues("internal").Set(float64(internal))
	m.noLocalEndpoints.WithLabelValues("external").Set(float64(external))
}

func (m *proxyMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.sync, m.programming, m.conntrack, m.lastQueued, m.lastSync, m.serviceChanges, m.endpointChanges,
		m.servicesPending, m.endpointsPending, m.noLocalEndpoints, m.conntrackDeleted}
}

// Describe names the metrics.
func (m *proxyMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
	ch <- m.healthzAnswers
	ch <- m.livezAnswers
}

// Collect sends the figures of this moment.
func (m *proxyMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
	for answer, n := range m.proxy.Answers() {
		d := m.livezAnswers
		if answer.Path == "/healthz" {
			d = m.healthzAnswers
		}
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), strconv.Itoa(answer.Status))
	}
}

// handler serves these metrics, and the process's, where kube-proxy's are scraped.
func (m *proxyMetrics) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
