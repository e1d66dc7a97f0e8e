package lab_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/traffic"
)

// audit recomputes every checksum of the frames that it is shown. The zero value is ready.
type audit struct {
	good    map[string]int // checksums that are right, by protocol
	partial int            // frames whose last checksum is left to a device
	bad     []string
}

func (a *audit) count(what string) {
	if a.good == nil {
		a.good = map[string]int{}
	}
	a.good[what]++
}

// frame checks an Ethernet frame, and the one within if it is the tunnel's.
func (a *audit) frame(c captured) {
	if c.partial {
		a.partial++
	}
	if len(c.frame) < 14 {
		return
	}
	packet := c.frame[14:]
	switch binary.BigEndian.Uint16(c.frame[12:]) {
	case etherIPv4:
		a.ipv4(packet, c)
	case etherIPv6:
		a.ipv6(packet, c)
	}
}

func (a *audit) ipv4(b []byte, c captured) {
	length := int(b[0]&15) * 4
	if sum(0, b[:length]) != 0xffff {
		a.bad = append(a.bad, fmt.Sprintf("IPv4 header %x", b[:length]))
		return
	}
	a.count("IPv4 header")
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return // a fragment has no checksum of its own
	}
	src, _ := netip.AddrFromSlice(b[12:16])
	dst, _ := netip.AddrFromSlice(b[16:20])
	a.transport(src, dst, b[9], b[length:binary.BigEndian.Uint16(b[2:])], c)
}

func (a *audit) ipv6(b []byte, c captured) {
	src, _ := netip.AddrFromSlice(b[8:24])
	dst, _ := netip.AddrFromSlice(b[24:40])
	rest := b[40:min(len(b), 40+int(binary.BigEndian.Uint16(b[4:])))]
	if b[6] == 0 && len(rest) > 8 { // hop-by-hop options, of multicast reports
		a.transport(src, dst, rest[0], rest[8*(int(rest[1])+1):], c)
		return
	}
	a.transport(src, dst, b[6], rest, c)
}

func (a *audit) transport(src, dst netip.Addr, proto byte, b []byte, c captured) {
	name := map[byte]string{protoTCP: "TCP", protoUDP: "UDP", protoICMP: "ICMP", protoICMP6: "ICMPv6"}[proto]
	if name == "" || len(b) < 8 {
		return
	}
	if proto == protoUDP && binary.BigEndian.Uint16(b[2:]) == tunnelPort {
		if unchecked := src.Is4() && b[6] == 0 && b[7] == 0; !unchecked && !c.partial {
			a.verify("outer UDP", src, dst, proto, b)
		}
		a.inner(b[16:], c)
		return
	}
	if !c.partial {
		a.verify(name, src, dst, proto, b)
	}
}

// inner checks the frame within a tunnel's packet. A checksum that is left to the device is the inner one.
func (a *audit) inner(frame []byte, c captured) {
	a.count("tunnelled frame")
	a.frame(captured{frame: frame, partial: c.partial})
	if c.partial {
		a.partial-- // counted with the outer frame
	}
}

func (a *audit) verify(name string, src, dst netip.Addr, proto byte, b []byte) {
	start := pseudo(src, dst, proto, len(b))
	if proto == protoICMP {
		start = 0
	}
	if sum(start, b) != 0xffff {
		a.bad = append(a.bad, fmt.Sprintf("%s from %s to %s: %x", name, src, dst, b[:min(len(b), 40)]))
		return
	}
	a.count(name)
}

// offload is what the links' devices are left to do.
type offload struct {
	name                string
	checksums, segments uint32
}

// testChecksums looks at every packet on the fabric while traffic of all kinds crosses it.
func testChecksums(t *testing.T, w *world) {
	for _, o := range []offload{
		{"all left to devices", 1, 1}, {"segmentation by the kernel", 1, 0}, {"checksums by the kernel", 0, 0},
	} {
		t.Run(o.name, func(t *testing.T) {
			for _, p := range w.pods() {
				setOffload(t, p.Place, "eth0", o)
			}
			for _, n := range w.Nodes() {
				setOffload(t, n.Place, "eth0", o)
			}
			var taps []*raw
			for _, n := range w.Nodes() {
				taps = append(taps, openRaw(t, w.Fabric(), n.Name))
			}
			for _, p := range w.paths() {
				mixture(t, p)
			}
			var all audit
			for _, tap := range taps {
				for _, c := range tap.receive(t) {
					all.frame(c)
				}
			}
			t.Logf("right: %v; left to a device: %d", all.good, all.partial)
			for _, bad := range all.bad {
				t.Error("wrong checksum:", bad)
			}
			for _, kind := range []string{"IPv4 header", "tunnelled frame", "ICMP", "ICMPv6"} {
				if all.good[kind] == 0 {
					t.Errorf("no %s was seen", kind)
				}
			}
			if o.checksums == 0 && (all.partial > 0 || all.good["TCP"] == 0 || all.good["UDP"] == 0) {
				t.Error("checksums were left to devices that do not make any")
			}
		})
	}
}

// mixture sends a bit of everything along a path: a connection with much data, datagrams, a large one, and one that
// is answered by an error.
func mixture(t *testing.T, p traffic.Path) {
	t.Helper()
	var l net.Listener
	err := p.To.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(p.To.Addr, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			io.Copy(conn, conn)
			conn.Close()
		}
	}()
	data := pattern(200_000, 1)
	err = p.From.Do(func() error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.From.Addr, 0)), Timeout: 10 * time.Second}
		conn, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		go func() {
			conn.Write(data)
			conn.(*net.TCPConn).CloseWrite()
		}()
		back, err := io.ReadAll(conn)
		if err == nil && !bytes.Equal(back, data) {
			err = fmt.Errorf("%d bytes came back, or others", len(back))
		}
		return err
	})
	if err != nil {
		t.Errorf("%s: %v", p.Name, err)
		return
	}
	socket := listenUDP(t, p.To)
	sender := openErrors(t, p.From)
	for _, size := range []int{1, 100, 1001, 1399} {
		sender.send(t, p.To.Addr, portOf(socket), 64, size)
		if got := expect(t, socket, 10*time.Second); len(got) != size {
			t.Errorf("%s: a datagram of %d bytes arrived with %d", p.Name, size, len(got))
		}
	}
	sender.send(t, p.To.Addr, 9, 64, 33)
	if e := sender.next(t, 10*time.Second); !e.isUnreachable() {
		t.Errorf("%s: %v, want that the port is unreachable", p.Name, e)
	}
}

// setOffload sets what a device does, by ethtool's requests (include/uapi/linux/ethtool.h).
func setOffload(t *testing.T, place traffic.Place, name string, o offload) {
	t.Helper()
	const setTxChecksum, setTSO, setGSO, setGRO = 0x17, 0x1f, 0x24, 0x2c
	err := place.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, set := range [][2]uint32{{setTxChecksum, o.checksums}, {setTSO, o.segments}, {setGSO, o.segments}, {setGRO, o.segments}} {
			if err := ethtool(fd, name, set); err != nil {
				return fmt.Errorf("request %#x: %w", set[0], err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("set offload of %s: %v", name, err)
	}
}

// ethtool sends struct ethtool_value in struct ifreq.
func ethtool(fd int, name string, value [2]uint32) error {
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(request.name[:], name)
	request.data = unsafe.Pointer(&value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}
