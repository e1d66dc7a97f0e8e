package lab_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/testnet"
	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
)

// tunnelVNI and tunnelPort are what docs/datapath.md says; an attacker can read it, too.
const (
	tunnelVNI  = 0x706f
	tunnelPort = 4789
)

// tunnelMAC is that of every node's tunnel device.
func tunnelMAC() mac { return mac{2, 'p', 'o', 'l', 'd', 'r'} }

// outsider is a machine on a rack's switch that is no node.
type outsider struct {
	*testnet.NS
	addresses []netip.Addr
}

// Do runs f on the machine.
func (o outsider) Do(f func() error) (err error) {
	o.NS.Do(func() { err = f() })
	return err
}

// newOutsider connects a machine to the switch of the first rack.
func newOutsider(t *testing.T, c *lab.Cluster) outsider {
	t.Helper()
	ns := testnet.New(t)
	err := c.Fabric().Do(func() error {
		bridge, err := netlink.LinkByName("rack-0")
		if err != nil {
			return err
		}
		attrs := netlink.LinkAttrs{Name: "outsider", MasterIndex: bridge.Attrs().Index}
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.File().Fd())})
	})
	if err == nil {
		err = c.Fabric().Do(func() error {
			l, err := netlink.LinkByName("outsider")
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(l)
		})
	}
	if err != nil {
		t.Fatalf("connect outsider: %v", err)
	}
	ns.Up("eth0")
	ns.Addr("eth0", "172.30.0.99/24")
	ns.Addr("eth0", "fd30::99/64")
	return outsider{ns, []netip.Addr{netip.MustParseAddr("172.30.0.99"), netip.MustParseAddr("fd30::99")}}
}

// inject is a frame with a packet in the tunnel's clothes.
func inject(to, from mac, outerSrc, outerDst netip.Addr, vni uint32, inner []byte) []byte {
	return ipFrame(to, from, ip(outerSrc, outerDst, protoUDP, header{}, udp(outerSrc, outerDst, 40000, tunnelPort, vxlan(vni, inner))))
}

// inner is the frame within: a marked datagram from one pod to another.
func inner(src, dst netip.Addr, m []byte) []byte {
	return ipFrame(tunnelMAC(), mac{6, 'p', 'o', 'l', 'd', 'r'}, ip(src, dst, protoUDP, header{}, udp(src, dst, 5000, 5001, m)))
}

func TestNobodyButNodesSpeaksInTheTunnel(t *testing.T) {
	w := newWorld(t)
	g := newGuard(t, w)

	t.Run("no pod", func(t *testing.T) {
		g.t = t
		g.podInjects(t)
	})
	t.Run("no pod in fragments, which hide the port", func(t *testing.T) {
		g.t = t
		g.podInjectsFragments(t)
	})
	t.Run("pods may speak it among themselves", func(t *testing.T) {
		g.t = t
		for i, own := range w.one.Addresses {
			m := g.mark("a pod's own tunnel")
			g.out.send(t, inject(gatewayMAC(), g.out.mac(), own, w.native.Addresses[i], tunnelVNI, inner(own, own, m)))
			g.arrives(t, m)
		}
	})
	machine := newOutsider(t, w.Cluster)
	wire := openRaw(t, machine, "eth0")
	t.Run("no machine of the fabric", func(t *testing.T) {
		g.t = t
		g.outsiderInjects(t, machine, wire)
	})
	t.Run("nor does one send in the name of a node's own pods", func(t *testing.T) {
		g.t = t
		for i := range 2 {
			for _, src := range []netip.Addr{w.one.Addresses[i], w.two.Addresses[i]} {
				name := "from outside, source " + src.String()
				dst := w.two.Addresses[i]
				g.refused(name, wire, w.near, "drop spoofed source", ipFrame(g.taps[w.near.Name].mac(), wire.mac(),
					ip(src, dst, protoUDP, header{}, udp(src, dst, 5000, 5001, g.mark(name)))))
			}
		}
		g.nothingArrivedBut(w.near.Name) // whose tap sees what comes in, before it is dropped
	})
}

// arrives waits for a marked frame at any tap.
func (g *guard) arrives(t *testing.T, m []byte) {
	t.Helper()
	eventually(t, 10e9, g.marks[string(m)]+" arrives", func() error {
		if len(g.arrivals()[string(m)]) == 0 {
			return fmt.Errorf("no tap has seen it")
		}
		return nil
	})
}

// nothingArrivedBut is nothingArrived but for the taps of some links that the frames came in by.
func (g *guard) nothingArrivedBut(taps ...string) {
	g.t.Helper()
	all := g.taps
	defer func() { g.taps = all }()
	g.taps = map[string]*raw{}
	for name, tap := range all {
		g.taps[name] = tap
	}
	for _, name := range taps {
		all[name].receive(g.t)
		delete(g.taps, name)
	}
	g.nothingArrived()
}

// podInjects has pod one speak to every node as if it were node-2, which has a pod behind the tunnel.
func (g *guard) podInjects(t *testing.T) {
	t.Helper()
	for i, own := range g.one.Addresses {
		for _, to := range g.Nodes() {
			for _, vni := range []uint32{tunnelVNI, 0, 1, 0xffffff} {
				for j := range 2 { // either family in either
					name := fmt.Sprintf("pod to %s, VNI %#x", to.Cluster().Addresses[i], vni)
					in := inner(g.tunnelled.Addresses[j], g.two.Addresses[j], g.mark(name))
					g.refused(name, g.out, g.near, "drop tunnel injection",
						inject(gatewayMAC(), g.out.mac(), own, to.Cluster().Addresses[i], vni, in))
				}
			}
		}
	}
	g.nothingArrived()
}

// podInjectsFragments does so in two fragments. They reach the node, which puts them together; its tunnel then knows
// their sender for no node.
func (g *guard) podInjectsFragments(t *testing.T) {
	t.Helper()
	for i, own := range g.one.Addresses {
		for _, to := range g.Nodes() {
			dst := to.Cluster().Addresses[i]
			name := fmt.Sprintf("pod to %s in fragments", dst)
			in := inner(g.native.Addresses[i], g.two.Addresses[i], append(g.mark(name), make([]byte, 64)...))
			whole := udp(own, dst, 40000, tunnelPort, vxlan(tunnelVNI, in))
			id := uint32(1000 + i)
			first := ipFrame(gatewayMAC(), g.out.mac(), ip(own, dst, protoUDP, header{more: true, id: id}, whole[:24]))
			rest := ipFrame(gatewayMAC(), g.out.mac(), ip(own, dst, protoUDP, header{offset: 24, id: id}, whole[24:]))
			before := reportOf(t, to).Counters["drop unknown tunnel peer"]
			g.out.send(t, first)
			g.out.send(t, rest)
			eventually(t, 10e9, name+" is refused", func() error {
				if got := reportOf(t, to).Counters["drop unknown tunnel peer"] - before; got != 1 {
					return fmt.Errorf("%d packets counted as %q, want 1", got, "drop unknown tunnel peer")
				}
				return nil
			})
		}
	}
	// The wire has seen the fragments on their way to the node. No pod may have seen anything.
	g.nothingArrivedBut("node-1", "node-2", "node-3", "tunnel of node-1")
}

// outsiderInjects guesses everything right but what it cannot have: a node's address as its own, or, with a
// neighbour's address, that neighbour's pods.
func (g *guard) outsiderInjects(t *testing.T, machine outsider, wire *raw) {
	t.Helper()
	to := g.taps[g.near.Name].mac()
	for i := range 2 {
		own, dst := machine.addresses[i], g.near.Cluster().Addresses[i]
		neighbour, far := g.neighbour.Cluster().Addresses[i], g.far.Cluster().Addresses[i]
		for _, c := range []struct {
			name  string
			outer netip.Addr
			vni   uint32
			inner []netip.Addr
		}{
			{"as itself, for a tunnelled pod", own, tunnelVNI, g.tunnelled.Addresses},
			{"as itself, for a neighbour's pod", own, tunnelVNI, g.native.Addresses},
			{"as itself, for the node's own pod", own, tunnelVNI, g.one.Addresses},
			{"as itself, for itself", own, tunnelVNI, machine.addresses},
			{"as itself, for the far node", own, tunnelVNI, g.far.Cluster().Addresses},
			{"as a neighbour, for the far node's pod", neighbour, tunnelVNI, g.tunnelled.Addresses},
			{"as a neighbour, for the node's own pod", neighbour, tunnelVNI, g.one.Addresses},
			{"as a neighbour, for the world", neighbour, tunnelVNI, machine.addresses},
			{"as the far node, for a neighbour's pod", far, tunnelVNI, g.native.Addresses},
			{"as the far node, with another number", far, tunnelVNI + 1, g.tunnelled.Addresses},
			{"as the far node, with number 0", far, 0, g.tunnelled.Addresses},
			{"as a pod of the far node's", g.tunnelled.Addresses[i], tunnelVNI, g.tunnelled.Addresses},
		} {
			for j := range 2 {
				name := fmt.Sprintf("%s (%s in %s)", c.name, c.inner[j], c.outer)
				in := inner(c.inner[j], g.two.Addresses[j], g.mark(name))
				g.refused(name, wire, g.near, "drop unknown tunnel peer", inject(to, wire.mac(), c.outer, dst, c.vni, in))
			}
		}
		name := "ARP as the far node"
		in := ether(tunnelMAC(), mac{6, 'p', 'o', 'l', 'd', 'r'}, etherARP, append(arp(1, wire.mac(), g.tunnelled.Addresses[0],
			mac{}, g.two.Addresses[0]), g.mark(name)...))
		g.refused(name, wire, g.near, "drop malformed", inject(to, wire.mac(), far, dst, tunnelVNI, in))
	}
	// The node's uplink and tunnel saw them come; what is behind must not have.
	g.nothingArrivedBut("node-1", "tunnel of node-1")
}

var _ traffic.Place = outsider{}
