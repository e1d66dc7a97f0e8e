package health

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Stale is how long a change may wait before the proxy counts as unhealthy. kube-proxy gives it two sync periods, 60 s
// by default.
const Stale = 60 * time.Second

// ProxyPort and StatusPort are where kube-proxy answers: load balancers ask for the node's health at the first, people
// and Prometheus for the rest at the second.
const (
	ProxyPort  = 10256
	StatusPort = 10249
)

// ProxyAddr is where Proxy's handler belongs: on all addresses, of both families.
func ProxyAddr() netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), ProxyPort) }

// StatusAddr is where Status belongs: for the node itself alone.
func StatusAddr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), StatusPort)
}

// Proxy is the service proxy's own health: whether changes reach the kernel in time, and whether the node is to get
// traffic from load balancers. The zero value is a healthy proxy that has not begun, on a node that nobody knows.
// It may be used by several goroutines at once.
type Proxy struct {
	mu       sync.Mutex
	updated  time.Time // when the kernel last had everything; zero: not yet
	queued   time.Time // since when the oldest change waits; zero: none does
	eligible bool
	answers  map[Answer]uint64
}

// Answer is a kind of answer that Proxy's handler gives.
type Answer struct {
	Path   string // /healthz or /livez
	Status int
}

// Queued says that a change of Services or endpoints waits since at. It has to be called before the work begins: work
// that hangs is what health is about.
func (p *Proxy) Queued(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.queued.IsZero() {
		p.queued = at
	}
}

// Updated says that at some time the kernel had all changes.
func (p *Proxy) Updated(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queued, p.updated = time.Time{}, at
}

// SetEligible says whether load balancers may send to this node: it is known, and not about to be deleted.
func (p *Proxy) SetEligible(eligible bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.eligible = eligible
}

// Healthy says whether changes reach the kernel in time, whatever becomes of the node. A proxy that has not finished
// its first update is healthy.
func (p *Proxy) Healthy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.healthy(time.Now())
}

func (p *Proxy) healthy(now time.Time) bool {
	return p.updated.IsZero() || p.queued.IsZero() || now.Sub(p.queued) < Stale
}

// Answers counts what Handler has answered.
func (p *Proxy) Answers() map[Answer]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.answers)
}

// Handler answers /healthz, for load balancers, and /livez, for who would restart the proxy: a new one does not help a
// node that leaves.
func (p *Proxy) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { p.answer(w, "/healthz", true) })
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { p.answer(w, "/livez", false) })
	return mux
}

// proxyBody is kube-proxy's, field by field. Healthy is never about the node.
type proxyBody struct {
	LastUpdated  time.Time             `json:"lastUpdated"`
	CurrentTime  time.Time             `json:"currentTime"`
	NodeEligible *bool                 `json:"nodeEligible,omitempty"`
	Healthy      bool                  `json:"healthy"`
	Status       map[string]familyBody `json:"status,omitempty"` // by IPv4 and IPv6
}

type familyBody struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

func (p *Proxy) answer(w http.ResponseWriter, path string, aboutNode bool) {
	body, healthy := p.body(time.Now(), aboutNode)
	text, err := json.Marshal(body)
	status := respond(w, healthy, text, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answers == nil {
		p.answers = map[Answer]uint64{}
	}
	p.answers[Answer{path, status}]++
}

// body says what is so at now, and whether that is healthy. One update is for both families.
func (p *Proxy) body(now time.Time, aboutNode bool) (body proxyBody, healthy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	body = proxyBody{LastUpdated: p.updated, CurrentTime: now, Healthy: p.healthy(now)}
	if !p.updated.IsZero() {
		family := familyBody{p.updated, body.Healthy}
		body.Status = map[string]familyBody{"IPv4": family, "IPv6": family}
	}
	if aboutNode {
		eligible := p.eligible
		body.NodeEligible = &eligible
	}
	healthy = body.Healthy && (!aboutNode || p.eligible)
	if healthy {
		body.LastUpdated = now // with nothing to do, kube-proxy is up to date
	}
	return body, healthy
}
