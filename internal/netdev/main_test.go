package netdev

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// open returns the kernel state of a namespace.
func open(t testing.TB, ns *testnet.NS) *Kernel {
	t.Helper()
	var k *Kernel
	ns.Do(func() {
		var err error
		if k, err = Open(slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
			t.Fatal(err)
		}
	})
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// aPod is a pod with an address in both families.
func aPod(id string) cluster.LocalPod {
	return cluster.LocalPod{
		Network: "polder", ContainerID: id, Ifname: "eth0", Namespace: "default", Name: "web-" + id, MTU: 1450,
		Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("fd00:1::7")},
	}
}
