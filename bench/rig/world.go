package rig

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
)

// World is a baseline: two pods, and the nodes between them where there are any.
type World struct {
	Pods  [2]End
	Nodes []End // none in Direct; one or two otherwise
	files []*os.File
}

// Options says what lies between the pods.
type Options struct {
	Nodes int  // 1 or 2
	Proxy bool // connection tracking and a table like kube-proxy's, on every node
	Rules bool // policies by nftables: connection tracking, and rules for both pods, on every node
	VXLAN bool // two nodes: packets go from node to node in the kernel's own tunnel
}

func (o Options) podMTU() int {
	if o.VXLAN {
		return vxlanMTU
	}
	return mtu
}

// Close lets go of the namespaces, and so ends them.
func (w *World) Close() {
	for _, f := range w.files {
		f.Close()
	}
}

func (w *World) netns() (*os.File, error) {
	f, err := NewNetns()
	if err == nil {
		w.files = append(w.files, f)
	}
	return f, err
}

// Direct is B0: two pods, joined by one veth pair.
func Direct() (*World, error) {
	w := &World{}
	for i := range w.Pods {
		f, err := w.netns()
		if err != nil {
			w.Close()
			return nil, err
		}
		w.Pods[i] = End{NS: f, Addr: podAddress(i)}
	}
	err := joinPods(end{w.Pods[0].NS, "eth0", podMAC(0)}, end{w.Pods[1].NS, "eth0", podMAC(1)}, mtu)
	for i := 0; i < 2 && err == nil; i++ {
		err = In(w.Pods[i].NS, func() error {
			if err := addAddress("eth0", netip.PrefixFrom(podAddress(i), 8)); err != nil {
				return err
			}
			return addNeighbour("eth0", podAddress(1-i), podMAC(1-i))
		})
	}
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("build direct pair: %w", err)
	}
	return w, nil
}

// Routed is B1 and, with Proxy, B2: a veth pair for each pod, and the kernel's forwarding between them.
func Routed(o Options) (*World, error) {
	w := &World{}
	if err := w.routed(o); err != nil {
		w.Close()
		return nil, fmt.Errorf("build routed pods: %w", err)
	}
	return w, nil
}

func (w *World) routed(o Options) error {
	for i := range o.Nodes {
		f, err := w.netns()
		if err != nil {
			return err
		}
		w.Nodes = append(w.Nodes, End{NS: f, Addr: nodeAddress(i)})
		if err := In(f, setForwarding); err != nil {
			return err
		}
		if o.Proxy {
			if err := In(f, loadProxy); err != nil {
				return err
			}
		}
		if o.Rules {
			if err := In(f, loadRules); err != nil {
				return err
			}
		}
	}
	if o.Nodes == 2 {
		if err := w.joinNodes(o); err != nil {
			return err
		}
	}
	for i := range w.Pods {
		if err := w.addPod(o, i, w.Nodes[i*(o.Nodes-1)].NS); err != nil {
			return err
		}
	}
	return nil
}

// addPod makes pod i and connects it to its node as Polder does: a gateway that is on no link, an address alone.
func (w *World) addPod(o Options, i int, node *os.File) error {
	f, err := w.netns()
	if err != nil {
		return err
	}
	w.Pods[i] = End{NS: f, Addr: podAddress(i)}
	host := "pod" + strconv.Itoa(i)
	if err := joinPods(end{node, host, hostMAC()}, end{f, "eth0", podMAC(i)}, o.podMTU()); err != nil {
		return err
	}
	gateway := netip.AddrFrom4([4]byte{169, 254, 1, 1})
	err = In(f, func() error {
		if err := addAddress("eth0", whole(podAddress(i))); err != nil {
			return err
		}
		if err := addNeighbour("eth0", gateway, hostMAC()); err != nil {
			return err
		}
		return addRoute("eth0", netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway)
	})
	if err != nil {
		return err
	}
	return In(node, func() error {
		if err := addRoute(host, whole(podAddress(i)), netip.Addr{}); err != nil {
			return err
		}
		return addNeighbour(host, podAddress(i), podMAC(i))
	})
}

// joinNodes connects two nodes by a switch, as the lab's fabric does, and tells each how to reach the other's pods.
func (w *World) joinNodes(o Options) error {
	fabric, err := w.netns()
	if err != nil {
		return err
	}
	if err := In(fabric, func() error { return addSwitch("rack") }); err != nil {
		return err
	}
	for i, n := range w.Nodes {
		port := "node" + strconv.Itoa(i)
		if err := join(end{fabric, port, nil}, end{n.NS, "eth0", nodeMAC(i)}, mtu, 0); err != nil {
			return err
		}
		if err := In(fabric, func() error { return setMaster(port, "rack") }); err != nil {
			return err
		}
		if err := In(n.NS, func() error { return routeToPeer(i, o.VXLAN) }); err != nil {
			return err
		}
	}
	return nil
}

// routeToPeer sets node i's addresses and its way to the other node's pod.
func routeToPeer(i int, tunnel bool) error {
	other := 1 - i
	if err := addAddress("eth0", netip.PrefixFrom(nodeAddress(i), 24)); err != nil {
		return err
	}
	if err := addNeighbour("eth0", nodeAddress(other), nodeMAC(other)); err != nil {
		return err
	}
	if !tunnel {
		return addRoute("eth0", whole(podAddress(other)), nodeAddress(other))
	}
	if err := addVXLAN(nodeAddress(i), tunnelMAC(i)); err != nil {
		return err
	}
	if err := addTunnelPeer(tunnelMAC(other), nodeAddress(other)); err != nil {
		return err
	}
	// The far device's own address is the next hop, as flannel has it.
	if err := addNeighbour(vxlanName, tunnelAddress(other), tunnelMAC(other)); err != nil {
		return err
	}
	return addRoute(vxlanName, whole(podAddress(other)), tunnelAddress(other))
}

func podAddress(i int) netip.Addr    { return netip.AddrFrom4([4]byte{10, 244, byte(1 + i), 2}) }
func tunnelAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 244, byte(1 + i), 0}) }
func nodeAddress(i int) netip.Addr   { return netip.AddrFrom4([4]byte{172, 30, 0, byte(11 + i)}) }

func hostMAC() net.HardwareAddr { return net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee} }

func podMAC(i int) net.HardwareAddr    { return net.HardwareAddr{2, 'b', 'n', 'c', 1, byte(i)} }
func nodeMAC(i int) net.HardwareAddr   { return net.HardwareAddr{2, 'b', 'n', 'c', 2, byte(i)} }
func tunnelMAC(i int) net.HardwareAddr { return net.HardwareAddr{2, 'b', 'n', 'c', 3, byte(i)} }

func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
