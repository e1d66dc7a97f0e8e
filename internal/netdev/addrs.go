package netdev

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// heldAddress is an address of an interface.
type heldAddress struct {
	prefix    netip.Prefix // not masked
	index     int
	tentative bool
}

// parseAddress reads an address. The address of a point-to-point interface is IFA_LOCAL, and IFA_ADDRESS its peer's.
func parseAddress(b []byte) (heldAddress, bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return heldAddress{}, false
	}
	var local, addr netip.Addr
	h := heldAddress{index: int(binary.NativeEndian.Uint32(b[4:]))}
	for typ, v := range attributes(b[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_LOCAL:
			local = address(v)
		case unix.IFA_ADDRESS:
			addr = address(v)
		case unix.IFA_FLAGS:
			h.tentative = unsigned(v)&unix.IFA_F_TENTATIVE != 0
		}
	}
	if !local.IsValid() {
		local = addr
	}
	h.prefix = netip.PrefixFrom(local, int(b[1]))
	return h, local.IsValid()
}

// dumpAddresses lists the addresses of one interface, or of all with index 0.
func (c *conn) dumpAddresses(netnsID, index int) ([]heldAddress, error) {
	m := newMessage(unix.RTM_GETADDR, 0, addrBody(unix.AF_UNSPEC, 0, index))
	if netnsID >= 0 {
		m.u32(unix.IFA_TARGET_NETNSID, uint32(netnsID))
	}
	var list []heldAddress
	err := c.dump(m, func() { list = list[:0] }, func(b []byte) {
		if h, ok := parseAddress(b); ok {
			list = append(list, h)
		}
	})
	return list, err
}

// addressesAt lists the addresses of an interface in the namespace with an id in ours (-1: ours), without link-local
// ones.
func (k *Kernel) addressesAt(netnsID, index int) ([]netip.Prefix, error) {
	c, err := k.take()
	if err != nil {
		return nil, err
	}
	defer k.give(c)
	held, err := c.dumpAddresses(netnsID, index)
	var list []netip.Prefix
	for _, h := range held {
		if !h.prefix.Addr().IsLinkLocalUnicast() {
			list = append(list, h.prefix)
		}
	}
	return list, err
}
