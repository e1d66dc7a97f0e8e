package health

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/testnet"
)

type checks = map[cluster.ServiceName]Check

// node is a namespace with a server in it.
type node struct {
	*testnet.NS
	t     *testing.T
	proxy *Proxy
	srv   *Server
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{NS: testnet.New(t), t: t, proxy: &Proxy{}}
	n.srv = NewServer(n.proxy)
	t.Cleanup(n.srv.Close)
	return n
}

func (n *node) sync(want checks) (errs []error) {
	n.Do(func() { errs = n.srv.Sync(want) })
	return errs
}

func (n *node) mustSync(want checks) {
	n.t.Helper()
	if errs := n.sync(want); len(errs) > 0 {
		n.t.Fatal(errs)
	}
}

// shop names a Service.
func shop(name string) cluster.ServiceName { return cluster.ServiceName{Namespace: "shop", Name: name} }

func TestAServiceWithReadyEndpointsHereIsHealthyOnBothFamilies(t *testing.T) {
	n := newNode(t)
	n.mustSync(checks{shop("web"): {Port: 30100, LocalReady: 2}})
	const body = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
	for _, at := range []string{"127.0.0.1:30100", "[::1]:30100"} {
		got := mustAsk(t, n.NS, at, "/healthz", 200)
		if got.body != body {
			t.Errorf("%s answers %q, want %q", at, got.body, body)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": "2",
		} {
			if got := got.header.Get(name); got != want {
				t.Errorf("%s: header %s is %q, want %q", at, name, got, want)
			}
		}
		mustAsk(t, n.NS, at, "/any/path", 200)
	}
}

func TestAServiceWithoutReadyEndpointsHereIsNotHealthy(t *testing.T) {
	n := newNode(t)
	n.mustSync(checks{shop("web"): {Port: 30100}})
	got := mustAsk(t, n.NS, "127.0.0.1:30100", "/", 503)
	if weight := got.header.Get("X-Load-Balancing-Endpoint-Weight"); weight != "0" {
		t.Errorf("weight is %q, want 0", weight)
	}
	n.mustSync(checks{shop("web"): {Port: 30100, LocalReady: 1}})
	mustAsk(t, n.NS, "127.0.0.1:30100", "/", 200)
	n.mustSync(checks{shop("web"): {Port: 30100}})
	mustAsk(t, n.NS, "127.0.0.1:30100", "/", 503)
}

func TestNoServiceIsHealthyWhileTheProxyIsStale(t *testing.T) {
	n := newNode(t)
	n.mustSync(checks{shop("web"): {Port: 30100, LocalReady: 1}})
	n.proxy.Updated(time.Now())
	n.proxy.Queued(time.Now().Add(-Stale))
	got := mustAsk(t, n.NS, "127.0.0.1:30100", "/", 503)
	if !strings.Contains(got.body, "\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": false") {
		t.Errorf("answers %s", got.body)
	}
	n.proxy.Updated(time.Now())
	mustAsk(t, n.NS, "127.0.0.1:30100", "/", 200)
}

func TestServicesStayHealthyOnANodeThatLeaves(t *testing.T) {
	n := newNode(t)
	n.mustSync(checks{shop("web"): {Port: 30100, LocalReady: 1}})
	n.proxy.SetEligible(false)
	mustAsk(t, n.NS, "127.0.0.1:30100", "/", 200)
}

func TestAPortGoesWithItsService(t *testing.T) {
	n := newNode(t)
	n.mustSync(checks{shop("web"): {Port: 30100}, shop("api"): {Port: 30101}})
	n.mustSync(checks{shop("api"): {Port: 30101}})
	mustRefuse(t, n.NS, "127.0.0.1:30100")
	mustRefuse(t, n.NS, "[::1]:30100")
	mustAsk(t, n.NS, "127.0.0.1:30101", "/", 503)
	n.mustSync(checks{shop("api"): {Port: 0, LocalReady: 1}}) // externalTrafficPolicy is Cluster now
	mustRefuse(t, n.NS, "127.0.0.1:30101")
}

func TestServicesMaySwapPortsAtOnce(t *testing.T) {
	n := newNode(t)
	for i := range 20 { // often: a port that is freed a little later would show sometimes
		a, b := uint16(30100+i%2), uint16(30101-i%2)
		n.mustSync(checks{shop("a"): {Port: a, LocalReady: 1}, shop("b"): {Port: b, LocalReady: 1}})
	}
	if got := mustAsk(t, n.NS, "127.0.0.1:30101", "/", 200); !strings.Contains(got.body, `"name": "a"`) {
		t.Errorf("port 30101 answers for another Service: %s", got.body)
	}
}

func TestTheSameAgainKeepsConnections(t *testing.T) {
	n := newNode(t)
	want := checks{shop("web"): {Port: 30100, LocalReady: 1}}
	n.mustSync(want)
	before := n.srv.open[shop("web")].site
	n.mustSync(want)
	if n.srv.open[shop("web")].site != before {
		t.Error("the port was opened again")
	}
}

func TestAPortInUseIsAnErrorThatNamesTheServiceAndIsTriedAgain(t *testing.T) {
	for _, taken := range []string{"127.0.0.1:30100", "[::1]:30100"} {
		t.Run(taken, func(t *testing.T) {
			n := newNode(t)
			free := occupy(t, n.NS, taken)
			want := checks{shop("web"): {Port: 30100, LocalReady: 1}, shop("api"): {Port: 30101, LocalReady: 1}}
			errs := n.sync(want)
			if len(errs) != 1 || !errors.Is(errs[0], syscall.EADDRINUSE) || !strings.Contains(errs[0].Error(), "shop/web") {
				t.Fatalf("errors are %v, want one that names shop/web", errs)
			}
			mustAsk(t, n.NS, "127.0.0.1:30101", "/", 200) // the other does not suffer
			free()
			n.mustSync(want)
			mustAsk(t, n.NS, "127.0.0.1:30100", "/", 200)
			mustAsk(t, n.NS, "[::1]:30100", "/", 200)
		})
	}
}

func TestTwoServicesWithOnePortAreServedOneAtATime(t *testing.T) {
	n := newNode(t)
	want := checks{shop("b"): {Port: 30100, LocalReady: 1}, shop("a"): {Port: 30100, LocalReady: 1}}
	if errs := n.sync(want); len(errs) != 1 || !strings.Contains(errs[0].Error(), "shop/b") {
		t.Fatalf("errors are %v, want one about shop/b", errs)
	}
	delete(want, shop("a"))
	n.mustSync(want)
}

func TestAListenerThatBrokeIsOpenedAgain(t *testing.T) {
	n := newNode(t)
	want := checks{shop("web"): {Port: 30100, LocalReady: 1}}
	n.mustSync(want)
	broken := n.srv.open[shop("web")].site
	broken.listeners[1].Close()
	<-broken.ended
	n.mustSync(want)
	mustAsk(t, n.NS, "[::1]:30100", "/", 200)
}

func TestANodeThatHasIPv6SwitchedOffIsServedOnIPv4(t *testing.T) {
	n := newNode(t)
	n.Do(func() {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	n.mustSync(checks{shop("web"): {Port: 30100, LocalReady: 1}})
	mustAsk(t, n.NS, "127.0.0.1:30100", "/", 200)
}

func TestCloseFreesAllPorts(t *testing.T) {
	n := newNode(t)
	n.mustSync(checks{shop("web"): {Port: 30100}, shop("api"): {Port: 30101}})
	n.srv.Close()
	occupy(t, n.NS, "0.0.0.0:30100")
	occupy(t, n.NS, "[::]:30101")
}
