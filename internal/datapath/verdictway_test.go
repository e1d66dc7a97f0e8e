package datapath

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/testnet"
)

// remotesOf are the rows of the other nodes of a random cluster, if they have all addresses that the dice give any. The
// last one is reached by a tunnel.
func remotesOf(self int) map[netip.Prefix]route.Remote {
	all := map[netip.Prefix]route.Remote{}
	for i := range 3 {
		if i == self {
			continue
		}
		node := netip.MustParseAddr(fmt.Sprint("192.0.2.", i))
		row := route.Remote{Kind: route.Native, Index: lo, Via: node, Node: node}
		if i == 2 {
			row = route.Remote{Kind: route.Tunnel, Node: node}
		}
		for _, p := range []string{"10.0.%d.0/24", "fd00:%d::/64"} {
			all[netip.MustParsePrefix(fmt.Sprintf(p, i))] = row
		}
		row.Host = true
		for _, p := range []string{"192.0.2.%d/32", "198.51.100.%d/32", "2001:db8::%d:1/128"} {
			all[netip.MustParsePrefix(fmt.Sprintf(p, i))] = row
		}
	}
	return all
}

// remote is the row of an address. The zero value: there is none.
func (r *verdictRig) remote(a netip.Addr) (found route.Remote) {
	longest := -1
	for p, row := range r.remotes {
		if p.Contains(a) && p.Bits() > longest {
			longest, found = p.Bits(), row
		}
	}
	return found
}

// hook is a program that sees a packet, and the links that it leaves or comes in by and had come in by before.
type hook struct {
	program          desired.Program
	ifindex, ingress int
	judges           bool
}

// way lists the programs that see a packet on this node.
func (r *verdictRig) way(p oracle.Packet) []hook {
	source, fromHere := r.rows[p.Src]
	destination, toHere := r.rows[p.Dst]
	from, to := source.Index, destination.Index
	far := r.remote(p.Dst)
	maybeTranslated := !toHere && (far.Kind == 0 || far.Host) && (p.Protocol == protoTCP || p.Protocol == protoUDP)
	switch {
	case from != 0 && r.config.AskConntrack && maybeTranslated:
		leaving := desired.ToNetwork
		if far.Kind == route.Tunnel {
			leaving = desired.ToTunnel
		}
		return []hook{{desired.FromPod, from, 0, false}, {leaving, lo, from, true}}
	case from != 0 && to != 0 && r.IntN(4) == 0: // through the stack
		return []hook{{desired.FromPod, from, 0, true}, {desired.ToPod, to, from, false}}
	case from != 0 && destination.Ingress != 0 && r.IntN(4) == 0:
		return []hook{{desired.ToPod, to, from, true}}
	case from != 0:
		return []hook{{desired.FromPod, from, 0, true}}
	case fromHere:
		return []hook{{desired.ToPod, to, 0, true}}
	case r.tunnel != nil && r.remote(p.Src).Kind == route.Tunnel && r.IntN(4) == 0:
		return []hook{{desired.FromTunnel, 0, 0, true}}
	case r.IntN(3) == 0:
		return []hook{{desired.ToPod, to, lo, true}}
	}
	return []hook{{desired.FromNetwork, lo, 0, true}}
}

// dig makes a tunnel to a node: BPF_PROG_RUN has none.
func (r *verdictRig) dig(t *testing.T, far *testnet.NS) {
	if _, err := exec.LookPath("ip"); err != nil || !r.UsesTCX() {
		return
	}
	testnet.Pair(t, r.ns, "fabric", far, "fabric")
	ip(t, r.ns, "addr add 192.0.2.250/24 dev fabric"+vxlanDevice)
	ip(t, far, "addr add 192.0.2.2/24 dev fabric")
	r.ns.Do(func() {
		vx := index(t, "vx")
		attachAll(t, r.Datapath, map[desired.Hook]int{{Link: "vx", Program: desired.FromTunnel}: vx})
	})
	far.Do(func() {
		var err error
		r.tunnel, err = net.Dial("udp", fmt.Sprintf("192.0.2.250:%d", route.TunnelPort))
		r.must(err)
	})
	t.Cleanup(func() { r.tunnel.Close() })
}

// carry sends a packet by the tunnel, and says whether the program behind it drops it.
func (r *verdictRig) carry(b []byte) bool {
	before, err := r.Counters()
	r.must(err)
	copy(b, []byte{2, 'p', 'o', 'l', 'd', 'r', 6, 'p', 'o', 'l', 'd', 'r'})
	header := []byte{8, 0, 0, 0, route.TunnelVNI >> 16, route.TunnelVNI >> 8 & 0xff, route.TunnelVNI & 0xff, 0}
	_, err = r.tunnel.Write(append(header, b...))
	r.must(err)
	for begun := time.Now(); time.Since(begun) < 10*time.Second; time.Sleep(20 * time.Microsecond) {
		after, err := r.Counters()
		r.must(err)
		for name, n := range after {
			if n != before[name] {
				return strings.HasPrefix(name, "drop")
			}
		}
	}
	r.t.Fatalf("-seed=%d: the tunnel loses a packet", r.seed)
	return false
}
