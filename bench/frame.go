package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/bench/rig"
)

// linkIn returns a link of an end's namespace. A veth's ParentIndex is the number of its other end, where that is.
func linkIn(e rig.End, name string) (*netlink.LinkAttrs, error) {
	var attrs *netlink.LinkAttrs
	err := rig.In(e.NS, func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find link %s: %w", name, err)
		}
		attrs = link.Attrs()
		return nil
	})
	return attrs, err
}

// Flags of TCP.
const (
	syn = 0x02
	ack = 0x10
)

// frame is a TCP segment without data of a connection that is there, to port 80, in a frame as a pod sends it. Nobody
// checks its checksums.
func frame(from net.HardwareAddr, src, dst netip.Addr, sourcePort uint16) []byte {
	return segment(from, netip.AddrPortFrom(src, sourcePort), netip.AddrPortFrom(dst, 80), ack)
}

// segment is any segment without data.
func segment(from net.HardwareAddr, source, target netip.AddrPort, flags byte) []byte {
	src, dst := source.Addr(), target.Addr()
	b := append([]byte{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}, from...)
	if src.Is4() {
		b = append(b, 0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 255, 6, 0, 0)
	} else {
		b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 255)
	}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, source.Port())
	b = binary.BigEndian.AppendUint16(b, target.Port())
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0)
}
