package lab_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/traffic"
)

// testFragments sends datagrams that are larger than any packet, by the kernel's hand and by ours.
func testFragments(t *testing.T, w *world) {
	for _, p := range w.podPaths() {
		t.Run(p.Name, func(t *testing.T) {
			socket := listenUDP(t, p.To)
			for _, size := range []int{8 << 10, 65000} {
				sendWhole(t, p, socket, size)
			}
			sendPieces(t, w, p, socket)
		})
	}
}

func listenUDP(t *testing.T, at traffic.End) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	err := at.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Addr, 0)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetReadBuffer(4 << 20); err != nil {
		t.Fatal(err)
	}
	return conn
}

func portOf(conn net.PacketConn) uint16 { return uint16(conn.LocalAddr().(*net.UDPAddr).Port) }

// expect reads the next datagram. Nil: none comes.
func expect(t *testing.T, socket *net.UDPConn, patience time.Duration) []byte {
	t.Helper()
	buf := make([]byte, 1<<16)
	socket.SetReadDeadline(time.Now().Add(patience))
	n, err := socket.Read(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// sendWhole has the kernel cut datagrams up; each must arrive.
func sendWhole(t *testing.T, p traffic.Path, socket *net.UDPConn, size int) {
	t.Helper()
	var conn *net.UDPConn
	err := p.From.Do(func() (err error) {
		conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.From.Addr, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.To.Addr, portOf(socket))))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const count = 50
	for i := range count {
		data := pattern(size, byte(i))
		if _, err := conn.Write(data); err != nil {
			t.Fatalf("send %d bytes: %v", size, err)
		}
		if got := expect(t, socket, 5*time.Second); !bytes.Equal(got, data) {
			t.Fatalf("datagram %d of %d with %d bytes: %d bytes arrived, or others", i, count, size, len(got))
		}
	}
}

func pattern(size int, seed byte) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i*7) + byte(i>>8) + seed
	}
	return b
}

// piece is a part of a datagram with its UDP header, [from, to), or something else in its place.
type piece struct {
	from, to int
	other    bool
}

// sendPieces cuts datagrams up in every way that is said to have fooled somebody.
func sendPieces(t *testing.T, w *world, p traffic.Path, socket *net.UDPConn) {
	t.Helper()
	out := openRaw(t, w.one.Place, "eth0")
	const total = 8 + 4000
	whole := []piece{{from: 0, to: 1200}, {from: 1200, to: 2400}, {from: 2400, to: 3600}, {from: 3600, to: total}}
	for _, c := range []struct {
		name    string
		pieces  []piece
		arrives bool
	}{
		{"in order", whole, true},
		{"reversed", []piece{whole[3], whole[2], whole[1], whole[0]}, true},
		{"shuffled", []piece{whole[2], whole[0], whole[3], whole[1]}, true},
		{"a tiny first one", append([]piece{{from: 0, to: 8}, {from: 8, to: 1200}}, whole[1:]...), true},
		{"each twice", []piece{whole[0], whole[0], whole[1], whole[1], whole[2], whole[2], whole[3]}, true},
		{"without the first", whole[1:], false},
		{"without the last", whole[:3], false},
		{"overlapping", []piece{whole[0], {from: 1000, to: 2200, other: true}, whole[1], whole[2], whole[3]}, false},
		{"overlapping backwards", []piece{whole[3], whole[2], {from: 2000, to: 2600, other: true}, whole[1], whole[0]}, false},
		{"one that tells another story of what came already", []piece{whole[0], whole[1], {from: 0, to: 1200, other: true},
			{from: 400, to: 800, other: true}, whole[2], whole[3]}, true},
	} {
		src, dst := p.From.Addr, p.To.Addr
		data := pattern(total-8, byte(len(c.name)))
		datagram := udp(src, dst, 7000, portOf(socket), data)
		id := rand.Uint32()
		for _, part := range c.pieces {
			h := header{id: id, offset: part.from, more: part.to < total, fragment: true}
			body := datagram[part.from:part.to]
			if part.other {
				body = make([]byte, len(body))
			}
			out.send(t, ipFrame(gatewayMAC(), out.mac(), ip(src, dst, protoUDP, h, body)))
		}
		patience := 10 * time.Second
		if !c.arrives {
			patience = 50 * time.Millisecond
		}
		got := expect(t, socket, patience)
		if c.arrives && !bytes.Equal(got, data) {
			t.Errorf("fragments %s: %d bytes arrived, want %d", c.name, len(got), len(data))
		}
		if !c.arrives && got != nil {
			t.Errorf("fragments %s: %d bytes arrived, want none", c.name, len(got))
		}
	}
	if got := expect(t, socket, 50*time.Millisecond); got != nil {
		t.Errorf("a datagram of %d bytes came twice, or late", len(got))
	}
}
