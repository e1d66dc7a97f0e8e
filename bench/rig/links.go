package rig

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
)

// end is one end of a veth pair.
type end struct {
	netns *os.File
	name  string
	mac   net.HardwareAddr
}

// mtu is that of every link here, and of the lab's, but for pods behind a tunnel.
const mtu = 1500

// joinPods makes a veth pair as Polder makes those of its pods: one queue each way.
func joinPods(a, b end, mtu int) error { return join(a, b, mtu, 1) }

// join makes a veth pair, both ends up. Zero queues: as many as the kernel likes.
func join(a, b end, mtu, queues int) error {
	err := In(a.netns, func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{
				Name: a.name, MTU: mtu, HardwareAddr: a.mac, TxQLen: 1000, NumTxQueues: queues, NumRxQueues: queues,
			},
			PeerName: b.name, PeerNamespace: netlink.NsFd(b.netns.Fd()), PeerHardwareAddr: b.mac,
		})
	})
	if err != nil {
		return fmt.Errorf("join %s and %s: %w", a.name, b.name, err)
	}
	for _, e := range []end{a, b} {
		if err := In(e.netns, func() error { return setUp(e.name) }); err != nil {
			return err
		}
	}
	return nil
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

// addAddress gives a link of the current namespace an address.
func addAddress(name string, p netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p)})
	}
	if err != nil {
		return fmt.Errorf("add address %s to %s: %w", p, name, err)
	}
	return nil
}

// addRoute adds a route; an invalid via is none.
func addRoute(name string, dst netip.Prefix, via netip.Addr) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	route := netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst), Scope: netlink.SCOPE_LINK}
	if via.IsValid() {
		route.Gw, route.Flags, route.Scope = via.AsSlice(), int(netlink.FLAG_ONLINK), netlink.SCOPE_UNIVERSE
	}
	if err := netlink.RouteAdd(&route); err != nil {
		return fmt.Errorf("add route to %s by %s: %w", dst, name, err)
	}
	return nil
}

// addNeighbour tells a link who has an address, for good: nobody asks in the middle of a measurement.
func addNeighbour(name string, a netip.Addr, mac net.HardwareAddr) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
		})
	}
	if err != nil {
		return fmt.Errorf("add neighbour %s to %s: %w", a, name, err)
	}
	return nil
}

// setForwarding makes the current namespace a router.
func setForwarding() error {
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("forward packets: %w", err)
	}
	return nil
}

// addSwitch makes the bridge between nodes, as the lab's fabric has it.
func addSwitch(name string) error {
	for _, sysctl := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
		os.WriteFile("/proc/sys/net/bridge/"+sysctl, []byte("0"), 0) // without the module there is nothing to turn off
	}
	noSnooping := false
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}, MulticastSnooping: &noSnooping}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	return setUp(name)
}

func setMaster(name, bridge string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	master, err := netlink.LinkByName(bridge)
	if err != nil {
		return err
	}
	return netlink.LinkSetMaster(link, master)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
