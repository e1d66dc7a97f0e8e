package lab_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
)

// neverMasqueraded is a prefix outside the cluster to which pods keep their addresses, in the labs of these tests.
const neverMasqueraded = "198.51.100.0/24,2001:db8:51::/48"

func TestPacketsCrossTheWireAsTheyShould(t *testing.T) {
	w := newWorld(t, "--never-masquerade", neverMasqueraded)
	t.Run("fragments", func(t *testing.T) { testFragments(t, w) })
	t.Run("errors", func(t *testing.T) { testErrors(t, w) })
	t.Run("checksums", func(t *testing.T) { testChecksums(t, w) })
	t.Run("masquerade", func(t *testing.T) { testMasquerade(t, w) })
	t.Run("nothing had to be repaired", func(t *testing.T) {
		for _, n := range w.Nodes() {
			if r := reportOf(t, n).Repairs; len(r) > 0 {
				t.Errorf("%s: %v", n.Name, r)
			}
		}
	})
}

// podPaths are the paths from pod one to other pods, in both families.
func (w *world) podPaths() []traffic.Path {
	var paths []traffic.Path
	for i, family := range []string{"IPv4", "IPv6"} {
		for _, to := range []struct {
			name string
			pod  *lab.Pod
		}{{"same node", w.two}, {"native", w.native}, {"tunnel", w.tunnelled}} {
			paths = append(paths, traffic.Path{Name: to.name + " " + family,
				From: traffic.End{Place: w.one.Place, Addr: w.one.Addresses[i]},
				To:   traffic.End{Place: to.pod.Place, Addr: to.pod.Addresses[i]}})
		}
	}
	return paths
}

// hops are the nodes that a packet of pod one passes on a path.
func (w *world) hops(p traffic.Path) []netip.Addr {
	i := family(p.From.Addr)
	first := w.near.Cluster().Addresses[i]
	for _, pod := range w.pods() {
		if pod.Addresses[i] == p.To.Addr && pod.Node != w.near.Name {
			n, err := w.Node(pod.Node)
			if err != nil {
				panic(fmt.Sprintf("pod %s is on no node", pod.Name)) // the world made it
			}
			return []netip.Addr{first, n.Cluster().Addresses[i]}
		}
	}
	return []netip.Addr{first}
}
