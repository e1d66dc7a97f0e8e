package health

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// answer is what a client gets.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask gets a path from inside a namespace, on a connection of its own.
func ask(ns *testnet.NS, at, path string) (answer, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		ns.Do(func() { c, err = new(net.Dialer).DialContext(ctx, network, addr) })
		return c, err
	}}
	client := http.Client{Transport: transport, Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + at + path)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body)}, err
}

// mustAsk expects an answer with a status.
func mustAsk(t *testing.T, ns *testnet.NS, at, path string, status int) answer {
	t.Helper()
	got, err := ask(ns, at, path)
	if err != nil {
		t.Fatalf("%s%s: %v", at, path, err)
	}
	if got.status != status {
		t.Fatalf("%s%s answers %d, want %d: %s", at, path, got.status, status, got.body)
	}
	return got
}

// mustRefuse expects that nobody listens.
func mustRefuse(t *testing.T, ns *testnet.NS, at string) {
	t.Helper()
	if got, err := ask(ns, at, "/"); err == nil {
		t.Errorf("%s answers %d, want nobody there", at, got.status)
	}
}

// occupy listens on an address until the test ends or the returned function is called.
func occupy(t *testing.T, ns *testnet.NS, at string) (free func()) {
	t.Helper()
	var l net.Listener
	ns.Do(func() {
		var err error
		if l, err = net.Listen("tcp", netip.MustParseAddrPort(at).String()); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() { l.Close() })
	return func() { l.Close() }
}
