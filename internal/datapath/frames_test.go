package datapath

import (
	"encoding/binary"
	"net/netip"
)

// frame is a made-up Ethernet frame; bytes() writes it out. The zero value of a field leaves the usual.
type frame struct {
	from, to  [6]byte
	ethertype uint16
	src, dst  string
	ttl       byte // 64
	proto     byte // UDP
	fragment  uint16
	id        uint16 // of an IPv4 packet
	options   bool   // an IPv4 header of 24 bytes
	extension []byte // IPv6 extension headers, before proto; the first one's kind is firstNext
	firstNext byte
	l4        []byte
}

const (
	protoICMP  = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58
	protoSCTP  = 132
)

func (f frame) bytes() []byte {
	b := append(append([]byte{}, f.to[:]...), f.from[:]...)
	if f.src == "" {
		return append(binary.BigEndian.AppendUint16(b, f.ethertype), f.l4...)
	}
	if f.ttl == 0 {
		f.ttl = 64
	}
	if f.proto == 0 {
		f.proto = protoUDP
	}
	if f.l4 == nil {
		f.l4 = ports(1000, 2000)
	}
	src, dst := netip.MustParseAddr(f.src), netip.MustParseAddr(f.dst)
	if src.Is4() {
		return append(b, f.ipv4(src, dst)...)
	}
	return append(b, f.ipv6(src, dst)...)
}

func (f frame) ipv4(src, dst netip.Addr) []byte {
	length := 20
	if f.options {
		length = 24
	}
	h := make([]byte, length)
	h[0] = 0x40 | byte(length/4)
	binary.BigEndian.PutUint16(h[2:], uint16(length+len(f.l4)))
	binary.BigEndian.PutUint16(h[4:], f.id)
	binary.BigEndian.PutUint16(h[6:], f.fragment)
	h[8], h[9] = f.ttl, f.proto
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(append([]byte{0x08, 0x00}, h...), f.l4...)
}

func (f frame) ipv6(src, dst netip.Addr) []byte {
	h := make([]byte, 40)
	h[0] = 0x60
	binary.BigEndian.PutUint16(h[4:], uint16(len(f.extension)+len(f.l4)))
	h[6], h[7] = f.proto, f.ttl
	if f.extension != nil {
		h[6] = f.firstNext
	}
	s, d := src.As16(), dst.As16()
	copy(h[8:], s[:])
	copy(h[24:], d[:])
	return append(append(append([]byte{0x86, 0xdd}, h...), f.extension...), f.l4...)
}

// checksum is the Internet checksum (RFC 1071) of bytes of even length.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func ports(src, dst uint16) []byte {
	b := make([]byte, 8)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	binary.BigEndian.PutUint16(b[4:], 8)
	return b
}

// icmp is an ICMP message of a type, with a body.
func icmp(kind byte, body ...byte) []byte { return append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, body...) }

// nd is a neighbour discovery message about a target.
func nd(kind byte, target string) []byte {
	a := netip.MustParseAddr(target).As16()
	return icmp(kind, a[:]...)
}

// arp is the body of an ARP frame.
func arp(operation uint16, senderMAC [6]byte, sender, target string) []byte {
	b := []byte{0, 1, 8, 0, 6, 4}
	b = binary.BigEndian.AppendUint16(b, operation)
	b = append(b, senderMAC[:]...)
	b = append(b, netip.MustParseAddr(sender).AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	return append(b, netip.MustParseAddr(target).AsSlice()...)
}

// extension is one IPv6 extension header of 8 bytes.
func extension(next byte) []byte { return []byte{next, 0, 0, 0, 0, 0, 0, 0} }
