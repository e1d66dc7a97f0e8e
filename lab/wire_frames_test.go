package lab_test

import (
	"encoding/binary"
	"net/netip"
)

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherVLAN = 0x8100
	etherIPv6 = 0x86dd

	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoFragment = 44
	protoICMP6    = 58
	protoOptions  = 60
)

type mac [6]byte

// ether is an Ethernet frame.
func ether(to, from mac, kind uint16, payload []byte) []byte {
	b := append(append([]byte{}, to[:]...), from[:]...)
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

// ipFrame is an Ethernet frame with an IP packet.
func ipFrame(to, from mac, packet []byte) []byte {
	if packet[0]>>4 == 4 {
		return ether(to, from, etherIPv4, packet)
	}
	return ether(to, from, etherIPv6, packet)
}

// header is what an IP packet says besides its addresses. The zero value is a whole packet of 64 hops.
type header struct {
	ttl      byte
	id       uint32
	offset   int  // of a fragment, in bytes
	more     bool // fragments follow
	fragment bool // IPv6: there is a fragment header, also of a whole packet
	df       bool
}

// ip is an IP packet of either family.
func ip(src, dst netip.Addr, proto byte, h header, payload []byte) []byte {
	if h.ttl == 0 {
		h.ttl = 64
	}
	if src.Is4() {
		return ipv4(src, dst, proto, h, payload)
	}
	next := proto
	if h.fragment || h.more || h.offset > 0 {
		word := uint16(h.offset)
		if h.more {
			word |= 1
		}
		f := []byte{proto, 0}
		f = binary.BigEndian.AppendUint16(f, word)
		payload = append(binary.BigEndian.AppendUint32(f, h.id), payload...)
		next = protoFragment
	}
	b := []byte{0x60, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, next, h.ttl)
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	return append(b, payload...)
}

func ipv4(src, dst netip.Addr, proto byte, h header, payload []byte) []byte {
	b := make([]byte, 20)
	b[0] = 0x45
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(b[4:], uint16(h.id))
	word := uint16(h.offset / 8)
	if h.more {
		word |= 0x2000
	}
	if h.df {
		word |= 0x4000
	}
	binary.BigEndian.PutUint16(b[6:], word)
	b[8], b[9] = h.ttl, proto
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^sum(0, b))
	return append(b, payload...)
}

// udp is a UDP datagram with its checksum.
func udp(src, dst netip.Addr, sport, dport uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	check := ^sum(pseudo(src, dst, protoUDP, len(b)), b)
	if check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], check)
	return b
}

// icmp is an ICMP or ICMPv6 message with its checksum.
func icmp(src, dst netip.Addr, kind, code byte, body []byte) []byte {
	b := append([]byte{kind, code, 0, 0}, body...)
	var start uint32
	if src.Is6() {
		start = pseudo(src, dst, protoICMP6, len(b))
	}
	binary.BigEndian.PutUint16(b[2:], ^sum(start, b))
	return b
}

func icmpProto(a netip.Addr) byte {
	if a.Is4() {
		return protoICMP
	}
	return protoICMP6
}

// arp is an ARP packet: 1 asks, 2 answers.
func arp(operation byte, senderMAC mac, sender netip.Addr, targetMAC mac, target netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, operation}
	b = append(append(b, senderMAC[:]...), sender.AsSlice()...)
	return append(append(b, targetMAC[:]...), target.AsSlice()...)
}

// vxlan is the tunnel's header before an inner frame.
func vxlan(vni uint32, inner []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0x08, 0, 0, 0}, vni<<8)
	return append(b, inner...)
}

// pseudo is the sum over the pseudo-header of a transport checksum (RFC 768, RFC 8200 8.1).
func pseudo(src, dst netip.Addr, proto byte, length int) uint32 {
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	b = binary.BigEndian.AppendUint32(b, uint32(proto))
	return uint32(sum(0, b))
}

// sum is the ones' complement sum of the Internet checksum (RFC 1071).
func sum(start uint32, b []byte) uint16 {
	s := uint64(start)
	for ; len(b) >= 2; b = b[2:] {
		s += uint64(b[0])<<8 | uint64(b[1])
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
