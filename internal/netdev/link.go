package netdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

const (
	skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS: half of what a link's answer weighs

	addrGenNone = 1 // IN6_ADDR_GEN_MODE_NONE

	confAcceptRA = 3 // DEVCONF_ACCEPT_RA, in linux/ipv6.h

	vethInfoPeer = 1 // VETH_INFO_PEER
)

// link is a device as RTM_GETLINK shows it.
type link struct {
	name     string
	index    int
	mtu      int
	flags    uint32
	mac      cluster.MAC
	alias    string
	kind     string
	port     bool // of a bridge or bond, which has what it sends before it does
	peer     int  // index of the far end, or of the device below
	netnsID  int  // of the namespace of the far end; -1: it is in the same one
	noAddr6  bool
	acceptRA bool
	vxlan    vxlan
}

func (l link) up() bool { return l.flags&unix.IFF_UP != 0 }

// vxlan is what a VXLAN device was created with.
type vxlan struct {
	port     uint16
	external bool // IFLA_VXLAN_COLLECT_METADATA
	learning bool
}

func parseLink(b []byte) (link, bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return link{}, false
	}
	l := link{
		index:   int(int32(binary.NativeEndian.Uint32(b[4:]))),
		flags:   binary.NativeEndian.Uint32(b[8:]),
		netnsID: -1,
	}
	for typ, v := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = text(v)
		case unix.IFLA_MTU:
			l.mtu = num(v)
		case unix.IFLA_ADDRESS:
			copy(l.mac[:], v)
		case unix.IFLA_IFALIAS:
			l.alias = text(v)
		case unix.IFLA_LINK:
			l.peer = num(v)
		case unix.IFLA_LINK_NETNSID:
			l.netnsID = num(v)
		case unix.IFLA_LINKINFO:
			l.parseInfo(v)
		case unix.IFLA_AF_SPEC:
			l.parseFamilies(v)
		}
	}
	return l, true
}

func (l *link) parseInfo(b []byte) {
	var data []byte
	for typ, v := range attributes(b) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			l.kind = text(v)
		case unix.IFLA_INFO_DATA:
			data = v
		case unix.IFLA_INFO_SLAVE_KIND:
			l.port = slices.Contains([]string{"bridge", "bond", "team"}, text(v))
		}
	}
	if l.kind != "vxlan" {
		return
	}
	for typ, v := range attributes(data) {
		switch typ {
		case unix.IFLA_VXLAN_PORT:
			if len(v) == 2 {
				l.vxlan.port = binary.BigEndian.Uint16(v)
			}
		case unix.IFLA_VXLAN_COLLECT_METADATA:
			l.vxlan.external = num(v) != 0
		case unix.IFLA_VXLAN_LEARNING:
			l.vxlan.learning = num(v) != 0
		}
	}
}

func (l *link) parseFamilies(b []byte) {
	for fam, v := range attributes(b) {
		if fam != unix.AF_INET6 {
			continue
		}
		for typ, v := range attributes(v) {
			switch typ {
			case unix.IFLA_INET6_ADDR_GEN_MODE:
				l.noAddr6 = num(v) == addrGenNone
			case unix.IFLA_INET6_CONF:
				l.acceptRA = len(v) >= 4*(confAcceptRA+1) && num(v[4*confAcceptRA:4*confAcceptRA+4]) > 0
			}
		}
	}
}

// getLink asks for one link by index.
func getLink(index int) *message {
	return newMessage(unix.RTM_GETLINK, 0, linkBody(index, 0, 0)).u32(unix.IFLA_EXT_MASK, skipStats)
}

// getLinkAt asks for one link by index in the namespace that has an id in ours.
func getLinkAt(netnsID, index int) *message {
	return getLink(index).u32(unix.IFLA_TARGET_NETNSID, uint32(netnsID))
}

// getLinkNamed asks for one link by name.
func getLinkNamed(name string) *message { return getLink(0).text(unix.IFLA_IFNAME, name) }

func (r reply) link() (link, error) {
	if errors.Is(r.err, unix.ENODEV) {
		return link{}, ErrNotFound
	}
	if r.err != nil {
		return link{}, r.err
	}
	for _, b := range r.data {
		if l, ok := parseLink(b); ok {
			return l, nil
		}
	}
	return link{}, errShort
}

// linkNamed returns the link of that name, or ErrNotFound.
func (k *Kernel) linkNamed(name string) (link, error) {
	replies, err := k.batch(getLinkNamed(name))
	if err != nil {
		return link{}, err
	}
	return replies[0].link()
}

// links lists the links, those of one kind or all.
func (k *Kernel) links(kind string) ([]link, error) {
	m := newMessage(unix.RTM_GETLINK, 0, linkBody(0, 0, 0)).u32(unix.IFLA_EXT_MASK, skipStats)
	if kind != "" {
		m.nest(unix.IFLA_LINKINFO, func(m *message) { m.text(unix.IFLA_INFO_KIND, kind) })
	}
	var list []link
	err := k.dump(m, func() { list = list[:0] }, func(b []byte) {
		// The kernel ignores the kind while no module has registered it.
		if l, ok := parseLink(b); ok && (kind == "" || l.kind == kind) {
			list = append(list, l)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return list, nil
}

// indexOf asks for a link's index without taking the kernel's network lock.
func (c *conn) indexOf(name string) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, fmt.Errorf("link %q: %w", name, err)
	}
	if err := unix.IoctlIfreq(c.fd, unix.SIOCGIFINDEX, ifr); err != nil {
		if errors.Is(err, unix.ENODEV) {
			err = ErrNotFound
		}
		return 0, fmt.Errorf("link %s: %w", name, err)
	}
	return int(ifr.Uint32()), nil
}

// nameOf returns the name of the link with an index, empty if there is none.
func (c *conn) nameOf(index int) string {
	var ifr [40]byte // struct ifreq; unix.Ifreq has no way to set an index and read a name
	binary.NativeEndian.PutUint32(ifr[16:], uint32(index))
	if err := ioctl(c.fd, unix.SIOCGIFNAME, &ifr); err != nil {
		return ""
	}
	name, _, _ := bytes.Cut(ifr[:16], []byte{0})
	return string(name)
}
