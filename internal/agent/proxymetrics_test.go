package agent

import (
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/health"
)

// samples are the lines that the status port shows, without comments.
func samples(t *testing.T, m *proxyMetrics) []string {
	t.Helper()
	w := httptest.NewRecorder()
	health.Status(m.handler()).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("/metrics answers %d: %s", w.Code, w.Body)
	}
	return slices.DeleteFunc(strings.Split(w.Body.String(), "\n"), func(l string) bool { return strings.HasPrefix(l, "#") })
}

func wantSamples(t *testing.T, m *proxyMetrics, want ...string) {
	t.Helper()
	got := samples(t, m)
	for _, w := range want {
		if !slices.Contains(got, "kubeproxy_"+w) {
			name := regexp.MustCompile(`^\w+`).FindString("kubeproxy_" + w)
			t.Errorf("lacks %q; has %q", "kubeproxy_"+w, slices.DeleteFunc(slices.Clone(got), func(l string) bool { return !strings.HasPrefix(l, name) }))
		}
	}
}

func TestTheProxysMetricsAreThereBeforeTheFirstSync(t *testing.T) {
	wantSamples(t, newProxyMetrics(&health.Proxy{}), "sync_proxy_rules_duration_seconds_count 0",
		"network_programming_duration_seconds_count 0", "conntrack_reconciler_sync_duration_seconds_count 0",
		"conntrack_reconciler_deleted_entries_total 0", "sync_proxy_rules_last_queued_timestamp_seconds 0",
		"sync_proxy_rules_last_timestamp_seconds 0", "sync_proxy_rules_service_changes_total 0",
		"sync_proxy_rules_endpoint_changes_total 0")
}

func TestChangesArePendingUntilASyncIsWhole(t *testing.T) {
	m := newProxyMetrics(&health.Proxy{})
	m.observeChanges(1, 3)
	m.observeChanges(0, 2)
	m.observeSync(3*time.Millisecond, false)
	wantSamples(t, m, "sync_proxy_rules_service_changes_total 1", "sync_proxy_rules_endpoint_changes_total 5",
		"sync_proxy_rules_service_changes_pending 1", "sync_proxy_rules_endpoint_changes_pending 5",
		"sync_proxy_rules_last_timestamp_seconds 0")
	m.observeSync(30*time.Millisecond, true)
	wantSamples(t, m, "sync_proxy_rules_service_changes_total 1", "sync_proxy_rules_endpoint_changes_total 5",
		"sync_proxy_rules_service_changes_pending 0", "sync_proxy_rules_endpoint_changes_pending 0",
		`sync_proxy_rules_duration_seconds_bucket{le="0.004"} 1`, `sync_proxy_rules_duration_seconds_bucket{le="16.384"} 2`,
		"sync_proxy_rules_duration_seconds_count 2")
	for _, l := range samples(t, m) {
		if strings.HasSuffix(l, "timestamp_seconds 0") {
			t.Errorf("%s after a whole sync", l)
		}
	}
}

func TestProgrammingAndConntrackAreObserved(t *testing.T) {
	m := newProxyMetrics(&health.Proxy{})
	m.observeProgramming(1500 * time.Millisecond)
	m.observeConntrack(time.Millisecond, 7)
	wantSamples(t, m, `network_programming_duration_seconds_bucket{le="1"} 0`, `network_programming_duration_seconds_bucket{le="2"} 1`,
		`network_programming_duration_seconds_bucket{le="300"} 1`, "conntrack_reconciler_deleted_entries_total 7",
		"conntrack_reconciler_sync_duration_seconds_count 1")
}

func TestServicePortsWithoutLocalEndpointsAreCountedByPolicy(t *testing.T) {
	m := newProxyMetrics(&health.Proxy{})
	m.setNoLocalEndpoints(2, 1)
	wantSamples(t, m, `sync_proxy_rules_no_local_endpoints_total{traffic_policy="internal"} 2`,
		`sync_proxy_rules_no_local_endpoints_total{traffic_policy="external"} 1`)
}

func TestAnswersOfTheProxysHealthAreMetrics(t *testing.T) {
	proxy := &health.Proxy{}
	for _, path := range []string{"/healthz", "/livez", "/livez"} {
		proxy.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
	}
	wantSamples(t, newProxyMetrics(proxy), `proxy_healthz_total{code="503"} 1`, `proxy_livez_total{code="200"} 2`)
}
