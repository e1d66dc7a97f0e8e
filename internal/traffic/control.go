package traffic

import (
	"net/netip"
	"testing"

	"github.com/polder-net/polder/internal/testnet"
)

// Control returns a path over a plain veth pair between two fresh namespaces, both gone when the test ends. What goes
// wrong there is the machine's doing.
func Control(t testing.TB) Path {
	t.Helper()
	a, b := testnet.New(t), testnet.New(t)
	testnet.Pair(t, a, "a", b, "b")
	a.Addr("a", "192.0.2.1/30")
	b.Addr("b", "192.0.2.2/30")
	return Path{Name: "control", From: End{Place: namespace{a}, Addr: netip.MustParseAddr("192.0.2.1")},
		To: End{Place: namespace{b}, Addr: netip.MustParseAddr("192.0.2.2")}}
}

// namespace is a test's namespace as a place.
type namespace struct{ ns *testnet.NS }

func (n namespace) Do(f func() error) (err error) {
	n.ns.Do(func() { err = f() })
	return err
}
