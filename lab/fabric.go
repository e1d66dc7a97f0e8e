package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The fabric is what a cloud's network is to its nodes: a switch a rack (a bridge), and between the racks a router
// which knows the nodes' addresses and nothing of pods. What comes from or goes to another address it drops. It has
// no way out to the machine's own network.

// newNetns makes a network namespace. It lives as long as the descriptor, or a process in it: whoever is killed in
// between leaves nothing.
func newNetns() (*os.File, error) {
	var file *os.File
	err := OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		var err error
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return file, err
}

// inNetns runs f on a thread of its own in a network namespace.
func inNetns(file *os.File, f func() error) error {
	return OnThread(func() error {
		defer runtime.KeepAlive(file)
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

func bridgeName(rack int) string { return fmt.Sprintf("rack-%d", rack) }

// buildFabric makes the bridges in the fabric's namespace and, with several racks, the router between them.
func buildFabric(fabric *os.File, r record) error {
	return inNetns(fabric, func() error {
		if err := setUp("lo"); err != nil {
			return err
		}
		// Packets on a bridge are the switch's business, not that of its machine's firewall. Without the module
		// there is nothing to turn off.
		for _, name := range []string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"} {
			os.WriteFile("/proc/sys/net/bridge/"+name, []byte("0"), 0)
		}
		for rack := range max(r.Racks, r.Outside.Rack+1) {
			if err := addBridge(rack, r.Racks > 1); err != nil {
				return fmt.Errorf("add bridge of rack %d: %w", rack, err)
			}
		}
		if r.Racks > 1 {
			return routeBetweenRacks(append(r.Nodes[:len(r.Nodes):len(r.Nodes)], r.Outside))
		}
		return nil
	})
}

func addBridge(rack int, router bool) error {
	noSnooping := false // ours floods: there is no querier
	bridge := &netlink.Bridge{
		LinkAttrs:         netlink.LinkAttrs{Name: bridgeName(rack), TxQLen: -1, HardwareAddr: bridgeMAC(rack)},
		MulticastSnooping: &noSnooping,
	}
	if err := netlink.LinkAdd(bridge); err != nil {
		return err
	}
	// As for a node's: the router asks for neighbours from its link-local address, and drops packets while it has none.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+bridge.Name+"/accept_dad", []byte("0"), 0); err != nil {
		return err
	}
	if router {
		for i, p := range rackPrefixes(rack) {
			if err := addAddress(bridge, netip.PrefixFrom(routers(rack)[i], p.Bits())); err != nil {
				return err
			}
		}
	}
	return netlink.LinkSetUp(bridge)
}

// bridgeMAC is the address of a rack's router. A bridge that is given none takes the least of its ports', and so another
// when a port comes; until all who know the old one ask again, what they send to the router is lost.
func bridgeMAC(rack int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'r', 'a', 'c', 'k', byte(rack)}
}

// routeBetweenRacks makes the namespace forward packets from one node's address to another's, and none else: the main
// routing table, which knows the racks' subnets, is consulted only for packets of a node or of the router itself.
func routeBetweenRacks(nodes []nodeRecord) error {
	for _, family := range []string{"ipv4", "ipv6"} {
		if err := os.WriteFile("/proc/sys/net/"+family+"/conf/all/forwarding", []byte("1"), 0); err != nil {
			return fmt.Errorf("forward between racks: %w", err)
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		own := netlink.NewRule()
		own.Family, own.Priority, own.Table, own.IifName = family, 100, unix.RT_TABLE_MAIN, "lo"
		if err := netlink.RuleAdd(own); err != nil {
			return fmt.Errorf("add rule for the router: %w", err)
		}
		all := netlink.NewRule()
		all.Family, all.Priority, all.Table = family, 32766, unix.RT_TABLE_MAIN
		if err := netlink.RuleDel(all); err != nil {
			return fmt.Errorf("delete rule for everybody: %w", err)
		}
	}
	for _, n := range nodes {
		for _, a := range n.addresses() {
			if err := forwardFrom(netip.PrefixFrom(a, a.BitLen())); err != nil {
				return fmt.Errorf("add rule for %s: %w", n.Name, err)
			}
		}
	}
	return nil
}

// forwardFrom makes the router forward what comes from a source. Doing it twice is fine.
func forwardFrom(source netip.Prefix) error {
	rule := netlink.NewRule()
	rule.Priority, rule.Table, rule.Src = 200, unix.RT_TABLE_MAIN, ipNet(source)
	if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// connectNode joins a node's namespace to its rack's bridge by a veth pair, eth0 in the node, and gives it its
// addresses; with several racks also the default routes to the router.
func connectNode(fabric, node *os.File, n nodeRecord, router bool) error {
	err := inNetns(fabric, func() error {
		bridge, err := netlink.LinkByName(bridgeName(n.Rack))
		if err != nil {
			return err
		}
		attrs := netlink.LinkAttrs{Name: n.Name, MasterIndex: bridge.Attrs().Index, TxQLen: 1000}
		err = netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:        attrs,
			PeerName:         "eth0",
			PeerNamespace:    netlink.NsFd(node.Fd()),
			PeerHardwareAddr: nodeMAC(n.Number),
		})
		if err != nil {
			return err
		}
		// No addresses on a switch's ports.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+n.Name+"/disable_ipv6", []byte("1"), 0); err != nil {
			return err
		}
		return setUp(n.Name)
	})
	if err != nil {
		return fmt.Errorf("connect %s to the fabric: %w", n.Name, err)
	}
	return inNetns(node, func() error {
		if err := addressNode(n, router); err != nil {
			return fmt.Errorf("give %s its addresses: %w", n.Name, err)
		}
		return nil
	})
}

// nodeMAC makes captures readable: the last bytes are the node's number.
func nodeMAC(number int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'l', 'a', 'b', 0, byte(number)}
}

func addressNode(n nodeRecord, router bool) error {
	if err := setUp("lo"); err != nil {
		return err
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	// The link-local address, too, is usable at once: neighbours are asked for from it.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0); err != nil {
		return err
	}
	for _, p := range n.Addresses {
		if err := addAddress(link, p); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil || !router {
		return err
	}
	for _, via := range routers(n.Rack) {
		err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: via.AsSlice()})
		if err != nil {
			return fmt.Errorf("add default route via %s: %w", via, err)
		}
	}
	return nil
}

// awaitAddresses waits until the kernel has joined the groups by which the IPv6 addresses of the calling thread's
// namespace are asked for: it does so in the background, and clears the flag then.
func awaitAddresses(ctx context.Context) error {
	for {
		list, err := netlink.AddrList(nil, unix.AF_INET6)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list addresses: %w", err)
		}
		tentative := slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
		if err == nil && !tentative {
			return nil
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("wait for addresses: %w", err)
		}
	}
}

// addAddress adds an address that is usable at once: nobody else can have it, so duplicates are not looked for.
func addAddress(link netlink.Link, p netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("add address %s: %w", p, err)
	}
	return nil
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// ipNet says a prefix as the netlink library wants it.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
