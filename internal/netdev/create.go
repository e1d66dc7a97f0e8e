package netdev

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

// Gateway is the next hop inside every pod, in a family. No node holds the IPv4 one: pods never ask who has it.
func Gateway(ipv4 bool) netip.Addr {
	if ipv4 {
		return netip.AddrFrom4([4]byte{169, 254, 1, 1})
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1})
}

// HostMAC is the address of the host side of every pod's link.
func HostMAC() cluster.MAC { return cluster.MAC{0xee, 0xee, 0xee, 0xee, 0xee, 0xee} }

// CreatePod makes a pod's link, with everything that a link can have while it is down. The caller fills in Network,
// ContainerID, Ifname, Namespace, Name, Addresses and MTU; the result has the rest. Nothing passes before
// ActivatePod. On an error nothing is left behind.
//
// The record is the first thing written to the new link: a crash before leaves a link that Pods calls unfinished, a
// crash after leaves one that says what it was to be.
func (k *Kernel) CreatePod(p cluster.LocalPod, netns *os.File) (cluster.LocalPod, error) {
	p.Link = LinkName(p.Network, p.ContainerID, p.Ifname)
	p.HostMAC, p.PodMAC = HostMAC(), podMAC(p.Network, p.ContainerID, p.Ifname)
	record, err := encodeRecord(p)
	if err != nil {
		return p, err
	}
	if err := k.possible(p, netns); err != nil {
		return p, fmt.Errorf("create link %s: %w", p.Link, err)
	}
	host, err := k.createVeth(p, netns)
	if err != nil {
		return p, fmt.Errorf("create link %s: %w", p.Link, err)
	}
	p.Index, p.Up = host.index, false
	if err := k.furnish(p, host.peer, record, netns); err != nil {
		err = fmt.Errorf("create link %s: %w", p.Link, err)
		return p, errors.Join(err, k.deleteLink(host.index, p.Link))
	}
	return p, nil
}

// possible says why a pod's link cannot be made, before anything is.
func (k *Kernel) possible(p cluster.LocalPod, netns *os.File) error {
	var own, pod unix.Stat_t
	if err := errors.Join(unix.Fstat(int(k.netns.Fd()), &own), unix.Fstat(int(netns.Fd()), &pod)); err != nil {
		return fmt.Errorf("look at the pod's network namespace: %w", err)
	}
	switch {
	case own.Dev == pod.Dev && own.Ino == pod.Ino:
		return ErrOwnNamespace
	case hasIPv6(p) && !k.ipv6:
		return fmt.Errorf("address %v: %w", p.Addresses, ErrNoIPv6)
	case hasIPv6(p) && p.MTU < minMTU6:
		return fmt.Errorf("address %v: IPv6 needs an MTU of %d, not %d: %w", p.Addresses, minMTU6, p.MTU, unix.EINVAL)
	}
	return nil
}

// speaksIPv6 says whether the kernel has anything to do with IPv6 on a pod's link.
func (k *Kernel) speaksIPv6(p cluster.LocalPod) bool { return k.ipv6 && p.MTU >= minMTU6 }

// createVeth makes the pair, down, the pod's end directly in its namespace and under its final name. One queue is
// all a veth uses without XDP; the kernel's default of one a CPU (commit 9d3684c24a52) costs two sysfs directories
// a CPU and end.
func (k *Kernel) createVeth(p cluster.LocalPod, netns *os.File) (link, error) {
	create := newMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, linkBody(0, 0, 0)).
		text(unix.IFLA_IFNAME, p.Link)
	vethEnd(create, p.HostMAC, p.MTU)
	create.nest(unix.IFLA_LINKINFO, func(m *message) {
		m.text(unix.IFLA_INFO_KIND, "veth")
		m.nest(unix.IFLA_INFO_DATA, func(m *message) {
			m.nest(vethInfoPeer, func(m *message) {
				m.body = append(m.body, linkBody(0, 0, 0)...)
				m.text(unix.IFLA_IFNAME, p.Ifname).u32(unix.IFLA_NET_NS_FD, uint32(netns.Fd()))
				vethEnd(m, p.PodMAC, p.MTU)
			})
		})
	})
	replies, err := k.batch(create, getLinkNamed(p.Link))
	if err != nil {
		return link{}, err
	}
	found, lookup := replies[1].link()
	switch err := replies[0].err; {
	case errors.Is(err, unix.EEXIST) && lookup == nil:
		return link{}, ErrAttached
	case errors.Is(err, unix.EEXIST):
		return link{}, fmt.Errorf("interface %s: %w", p.Ifname, ErrExists)
	case err != nil:
		return link{}, err
	}
	return found, lookup // not found any more: the pod's namespace went away at once, and took the link along
}

func vethEnd(m *message, mac cluster.MAC, mtu int) {
	m.raw(unix.IFLA_ADDRESS, mac[:]).u32(unix.IFLA_MTU, uint32(mtu))
	m.u32(unix.IFLA_NUM_TX_QUEUES, 1).u32(unix.IFLA_NUM_RX_QUEUES, 1)
}

// furnish gives both ends what they have while down.
func (k *Kernel) furnish(p cluster.LocalPod, podIndex int, record string, netns *os.File) error {
	steps := []struct {
		name string
		do   func() error
	}{
		{"created", func() error { return k.writeRecord(p, record) }},
		{"recorded", func() error { return k.furnishHost(p) }},
		{"host furnished", func() error { return k.furnishPod(p, podIndex, netns) }},
		{"pod furnished", func() error { return nil }},
	}
	for _, s := range steps {
		if k.step != nil {
			if err := k.step(s.name); err != nil {
				return err
			}
		}
		if err := s.do(); err != nil {
			return err
		}
	}
	return nil
}

// writeRecord also keeps the host side from getting a link-local address of the kernel's making.
func (k *Kernel) writeRecord(p cluster.LocalPod, record string) error {
	m := newMessage(unix.RTM_SETLINK, 0, linkBody(p.Index, 0, 0)).text(unix.IFLA_IFALIAS, record)
	if k.speaksIPv6(p) {
		m.nest(unix.IFLA_AF_SPEC, func(m *message) {
			m.nest(unix.AF_INET6, func(m *message) { m.u8(unix.IFLA_INET6_ADDR_GEN_MODE, addrGenNone) })
		})
	}
	if err := k.do(m); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

// WriteRecord writes the record of a pod's link anew, where it was damaged.
func (k *Kernel) WriteRecord(p cluster.LocalPod) error {
	record, err := encodeRecord(p)
	if err == nil {
		err = k.do(newMessage(unix.RTM_SETLINK, 0, linkBody(p.Index, 0, 0)).text(unix.IFLA_IFALIAS, record))
	}
	if errors.Is(err, unix.ENODEV) {
		err = ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("write record of %s: %w", p.Link, err)
	}
	return nil
}

// furnishHost sets the host side: no router advertisement from a pod is ever taken (CVE-2020-10749), and a pod
// without an IPv6 address speaks no IPv6 at all.
func (k *Kernel) furnishHost(p cluster.LocalPod) error {
	if !k.speaksIPv6(p) {
		return nil
	}
	if err := visit(k.netns, func() error { return writeLinkSysctls(p.Link, hasIPv6(p)) }); err != nil {
		return err
	}
	if !hasIPv6(p) {
		return nil
	}
	if err := k.do(putAddress(p.Index, netip.PrefixFrom(Gateway(false), 64), unix.IFA_F_NODAD)); err != nil {
		return fmt.Errorf("add address %s: %w", Gateway(false), err)
	}
	return nil
}

// furnishPod sets the pod's side: loopback up, addresses, and the gateways' MAC address, so that a pod never asks.
func (k *Kernel) furnishPod(p cluster.LocalPod, index int, netns *os.File) error {
	return visit(netns, func() error {
		c, err := dial()
		if err != nil {
			return err
		}
		defer c.close()
		if k.speaksIPv6(p) {
			if err := writeLinkSysctls(p.Ifname, hasIPv6(p)); err != nil {
				return err
			}
		}
		// Loopback is 1 in every namespace.
		messages := []*message{setUp(1)}
		for _, a := range p.Addresses {
			flags := uint32(unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE)
			messages = append(messages, putAddress(index, netip.PrefixFrom(a, a.BitLen()), flags))
		}
		for _, ipv4 := range families(p) {
			messages = append(messages, putNeighbour(index, Gateway(ipv4), p.HostMAC))
		}
		if err := firstError(c.batch(messages)); err != nil {
			return fmt.Errorf("set up interface %s in the pod: %w", p.Ifname, err)
		}
		return nil
	})
}

// writeLinkSysctls sets an end of a pod's link, in the calling thread's namespace. Duplicate address detection would
// hold back the link-local address for a second.
func writeLinkSysctls(name string, ipv6 bool) error {
	dir := "net/ipv6/conf/" + name + "/"
	if !ipv6 {
		return writeSysctl(dir+"disable_ipv6", "1")
	}
	return errors.Join(
		writeSysctl(dir+"disable_ipv6", "0"),
		writeSysctl(dir+"accept_ra", "0"),
		writeSysctl(dir+"accept_dad", "0"))
}

func hasIPv6(p cluster.LocalPod) bool {
	return slices.ContainsFunc(p.Addresses, netip.Addr.Is6)
}

// families lists the address families of a pod: true for IPv4.
func families(p cluster.LocalPod) []bool {
	var list []bool
	if slices.ContainsFunc(p.Addresses, netip.Addr.Is4) {
		list = append(list, true)
	}
	if hasIPv6(p) {
		list = append(list, false)
	}
	return list
}

func setUp(index int) *message {
	return newMessage(unix.RTM_SETLINK, 0, linkBody(index, unix.IFF_UP, unix.IFF_UP))
}

func putAddress(index int, p netip.Prefix, flags uint32) *message {
	return newMessage(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		addrBody(family(p.Addr().Is4()), p.Bits(), index)).
		addr(unix.IFA_LOCAL, p.Addr()).addr(unix.IFA_ADDRESS, p.Addr()).u32(unix.IFA_FLAGS, flags)
}

func putNeighbour(index int, a netip.Addr, mac cluster.MAC) *message {
	return newMessage(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE,
		neighBody(family(a.Is4()), index, unix.NUD_PERMANENT)).
		addr(unix.NDA_DST, a).raw(unix.NDA_LLADDR, mac[:])
}
