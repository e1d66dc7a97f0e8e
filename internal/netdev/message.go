package netdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"net/netip"

	"golang.org/x/sys/unix"
)

// message is one netlink request: a type, a fixed header and attributes (man 7 netlink, man 7 rtnetlink).
type message struct {
	typ, flags uint16
	body       []byte
}

// newMessage starts a request; fixed is the header that its type has.
func newMessage(typ, flags int, fixed []byte) *message {
	return &message{uint16(typ), uint16(flags), fixed}
}

func (m *message) appendTo(b []byte, flags int, seq uint32) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.SizeofNlMsghdr+len(m.body)))
	b = binary.NativeEndian.AppendUint16(b, m.typ)
	b = binary.NativeEndian.AppendUint16(b, m.flags|unix.NLM_F_REQUEST|uint16(flags))
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return pad(append(b, m.body...))
}

// raw adds an attribute.
func (m *message) raw(typ int, value []byte) *message {
	m.body = binary.NativeEndian.AppendUint16(m.body, uint16(4+len(value)))
	m.body = binary.NativeEndian.AppendUint16(m.body, uint16(typ))
	m.body = pad(append(m.body, value...))
	return m
}

func (m *message) u8(typ int, v uint8) *message { return m.raw(typ, []byte{v}) }

func (m *message) u32(typ int, v uint32) *message {
	return m.raw(typ, binary.NativeEndian.AppendUint32(nil, v))
}

func (m *message) be16(typ int, v uint16) *message {
	return m.raw(typ, binary.BigEndian.AppendUint16(nil, v))
}

func (m *message) text(typ int, s string) *message { return m.raw(typ, append([]byte(s), 0)) }

func (m *message) addr(typ int, a netip.Addr) *message { return m.raw(typ, a.AsSlice()) }

// nest adds an attribute that holds what inside adds.
func (m *message) nest(typ int, inside func(m *message)) *message {
	start := len(m.body)
	m.raw(typ|unix.NLA_F_NESTED, nil)
	inside(m)
	binary.NativeEndian.PutUint16(m.body[start:], uint16(len(m.body)-start))
	return m
}

// linkBody is struct ifinfomsg.
func linkBody(index int, flags, change uint32) []byte {
	b := make([]byte, 4, 256)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, change)
}

// addrBody is struct ifaddrmsg.
func addrBody(family uint8, bits int, index int) []byte {
	b := []byte{family, uint8(bits), 0, 0}
	return binary.NativeEndian.AppendUint32(b, uint32(index))
}

// neighBody is struct ndmsg.
func neighBody(family uint8, index int, state uint16) []byte {
	b := []byte{family, 0, 0, 0}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint16(b, state)
	return append(b, 0, 0)
}

// rtBody is struct rtmsg, which routes and rules share.
type rtBody struct {
	family, dstLen, srcLen, tos, table, protocol, scope, kind uint8
	flags                                                     uint32
}

func (r rtBody) bytes() []byte {
	b := []byte{r.family, r.dstLen, r.srcLen, r.tos, r.table, r.protocol, r.scope, r.kind}
	return binary.NativeEndian.AppendUint32(b, r.flags)
}

func parseRtBody(b []byte) (r rtBody, attrs []byte, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return rtBody{}, nil, false
	}
	r = rtBody{b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], binary.NativeEndian.Uint32(b[8:])}
	return r, b[unix.SizeofRtMsg:], true
}

// header is struct nlmsghdr, but for its length.
type header struct {
	typ, flags uint16
	seq, port  uint32
}

var errShort = errors.New("netlink answer is cut short")

// split calls each for every message in a datagram.
func split(b []byte, each func(h header, body []byte)) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return errShort
		}
		n := int(binary.NativeEndian.Uint32(b))
		if n < unix.SizeofNlMsghdr || n > len(b) {
			return errShort
		}
		each(header{binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:]),
			binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[12:])}, b[unix.SizeofNlMsghdr:n])
		b = b[min(align(n), len(b)):]
	}
	return nil
}

// attributes yields type and value of each attribute, up to the end or the first that is malformed.
func attributes(b []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for len(b) >= 4 {
			n := int(binary.NativeEndian.Uint16(b))
			if n < 4 || n > len(b) {
				return
			}
			typ := int(binary.NativeEndian.Uint16(b[2:])) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(typ, b[4:n]) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

func align(n int) int { return (n + 3) &^ 3 }

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// num reads an attribute of up to four bytes in native order; a malformed one is 0.
func num(b []byte) int {
	switch len(b) {
	case 1:
		return int(b[0])
	case 2:
		return int(binary.NativeEndian.Uint16(b))
	case 4:
		return int(int32(binary.NativeEndian.Uint32(b)))
	}
	return 0
}

func unsigned(b []byte) uint32 { return uint32(num(b)) }

func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// address reads an IP address; a malformed one is the zero Addr.
func address(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
