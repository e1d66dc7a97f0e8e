package health

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/testnet"
)

// get asks a handler without a network.
func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

// status is what both paths answer.
func status(p *Proxy) (healthz, livez int) {
	return get(p.Handler(), "/healthz").Code, get(p.Handler(), "/livez").Code
}

func TestAProxyIsUnhealthyOnceAChangeHasWaitedTooLong(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name           string
		says           func(*Proxy)
		healthz, livez int
	}{
		{"it has not begun, on a node that nobody knows", func(p *Proxy) {}, 503, 200},
		{"it has not begun", func(p *Proxy) { p.SetEligible(true) }, 200, 200},
		{"its first update takes long", func(p *Proxy) { p.SetEligible(true); p.Queued(now.Add(-time.Hour)) }, 200, 200},
		{"nothing to do for long", func(p *Proxy) { p.SetEligible(true); p.Updated(now.Add(-time.Hour)) }, 200, 200},
		{"a change waits a moment", func(p *Proxy) {
			p.SetEligible(true)
			p.Updated(now.Add(-time.Hour))
			p.Queued(now.Add(-Stale / 2))
		}, 200, 200},
		{"a change waits too long, though others have come since", func(p *Proxy) {
			p.SetEligible(true)
			p.Updated(now.Add(-time.Hour))
			p.Queued(now.Add(-Stale))
			p.Queued(now)
		}, 503, 503},
		{"the node leaves", func(p *Proxy) { p.SetEligible(true); p.Updated(now); p.SetEligible(false) }, 503, 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &Proxy{}
			c.says(p)
			if healthz, livez := status(p); healthz != c.healthz || livez != c.livez {
				t.Errorf("/healthz and /livez answer %d and %d, want %d and %d", healthz, livez, c.healthz, c.livez)
			}
			p.Updated(now)
			p.SetEligible(true)
			if healthz, livez := status(p); healthz != 200 || livez != 200 {
				t.Errorf("/healthz and /livez answer %d and %d after an update, want 200", healthz, livez)
			}
		})
	}
}

func TestTheBodyIsKubeProxys(t *testing.T) {
	p := &Proxy{}
	p.SetEligible(true)
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	for _, c := range []struct {
		name      string
		aboutNode bool
		before    func()
		want      string
	}{
		{"healthz before the first update", true, func() {},
			`{"lastUpdated":"2026-01-02T03:04:05.0000006Z","currentTime":"2026-01-02T03:04:05.0000006Z","nodeEligible":true,"healthy":true}`},
		{"livez of a healthy proxy", false, func() { p.Updated(at.Add(-2 * Stale)) },
			`{"lastUpdated":"2026-01-02T03:04:05.0000006Z","currentTime":"2026-01-02T03:04:05.0000006Z","healthy":true,"status":{` +
				`"IPv4":{"lastUpdated":"2026-01-02T03:02:05.0000006Z","healthy":true},"IPv6":{"lastUpdated":"2026-01-02T03:02:05.0000006Z","healthy":true}}}`},
		{"healthz of a stale proxy on a node that leaves", true, func() { p.Queued(at.Add(-Stale)); p.SetEligible(false) },
			`{"lastUpdated":"2026-01-02T03:02:05.0000006Z","currentTime":"2026-01-02T03:04:05.0000006Z","nodeEligible":false,"healthy":false,"status":{` +
				`"IPv4":{"lastUpdated":"2026-01-02T03:02:05.0000006Z","healthy":false},"IPv6":{"lastUpdated":"2026-01-02T03:02:05.0000006Z","healthy":false}}}`},
	} {
		c.before()
		body, _ := p.body(at, c.aboutNode)
		if text, err := json.Marshal(body); err != nil || string(text) != c.want {
			t.Errorf("%s:\n%s\nwant\n%s (%v)", c.name, text, c.want, err)
		}
	}
}

func TestAnswersAreCounted(t *testing.T) {
	p := &Proxy{}
	status(p)
	p.SetEligible(true)
	status(p)
	got := p.Answers()
	if got[Answer{"/healthz", 503}] != 1 || got[Answer{"/healthz", 200}] != 1 || got[Answer{"/livez", 200}] != 2 || len(got) != 3 {
		t.Errorf("counted %v", got)
	}
}

func TestTheProxyMayBeAskedWhileItWorks(t *testing.T) {
	p := &Proxy{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 100 {
			p.Queued(time.Now())
			p.Updated(time.Now())
			p.SetEligible(true)
		}
	})
	for range 100 {
		status(p)
		p.Healthy()
		p.Answers()
	}
	wg.Wait()
}

func TestTheStatusPortNamesAModeThatKubeProxyHasNot(t *testing.T) {
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "some_total 1\n") })
	for path, want := range map[string]string{"/proxyMode": "polder", "/healthz": "ok", "/metrics": "some_total 1\n"} {
		if got := get(Status(metrics), path); got.Code != 200 || got.Body.String() != want {
			t.Errorf("%s answers %d %q, want %q", path, got.Code, got.Body, want)
		}
	}
}

// lines are a log's.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// serveHealth runs Serve, impatiently, inside a namespace until the returned function is called.
func serveHealth(t *testing.T, ns *testnet.NS, p *Proxy) (log *lines, stop func()) {
	t.Helper()
	log = &lines{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		ns.Do(func() {
			serve(ctx, slog.New(slog.NewTextHandler(log, nil)), ProxyAddr(), p.Handler(), 10*time.Millisecond)
		})
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return log, stop
}

// eventually waits for something to become so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestTheProxysHealthIsServedOnAllAddressesUntilTheEnd(t *testing.T) {
	ns := testnet.New(t)
	p := &Proxy{}
	p.SetEligible(true)
	log, stop := serveHealth(t, ns, p)
	for _, at := range []string{"127.0.0.1:10256", "[::1]:10256"} {
		eventually(t, at, func() bool { _, err := ask(ns, at, "/livez"); return err == nil })
		got := mustAsk(t, ns, at, "/healthz", 200)
		if got.header.Get("Content-Type") != "application/json" || got.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers are %v", at, got.header)
		}
	}
	stop()
	mustRefuse(t, ns, "127.0.0.1:10256")
	if log.String() != "" {
		t.Errorf("logged %s", log)
	}
}

func TestAnAddressThatAKubeProxyHasIsSaidOnceAndTakenWhenItGoes(t *testing.T) {
	ns := testnet.New(t)
	free := occupy(t, ns, "0.0.0.0:10256")
	p := &Proxy{}
	log, _ := serveHealth(t, ns, p)
	eventually(t, "a warning", func() bool { return strings.Contains(log.String(), "does a kube-proxy run on this node?") })
	time.Sleep(100 * time.Millisecond) // for some more tries
	free()
	eventually(t, "an answer", func() bool { _, err := ask(ns, "127.0.0.1:10256", "/livez"); return err == nil })
	if n := strings.Count(log.String(), "WARN"); n != 1 {
		t.Errorf("warned %d times:\n%s", n, log)
	}
	if !strings.Contains(log.String(), "after all") {
		t.Errorf("does not say that it answers now:\n%s", log)
	}
}
