package lab_test

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/traffic"
)

// raw is a packet socket on a link: it sends frames as they are, and sees all that the link sees.
type raw struct {
	file *os.File
	link net.Interface
}

// captured is a frame that a link saw.
type captured struct {
	frame    []byte
	outgoing bool // sent by this link, not received
	partial  bool // its last checksum is left to the device that will send it (TP_STATUS_CSUMNOTREADY, packet(7))
	gso      bool // it stands for several frames
}

// openRaw opens a packet socket on a link; the test's end closes it.
func openRaw(t testing.TB, p traffic.Place, name string) *raw {
	t.Helper()
	r := &raw{}
	err := p.Do(func() error {
		link, err := net.InterfaceByName(name)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		r.link, r.file = *link, os.NewFile(uintptr(fd), "packets of "+name)
		for _, set := range []func() error{
			func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) },
			func() error { return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1) },
			func() error {
				return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: link.Index})
			},
		} {
			if err := set(); err != nil {
				return err
			}
		}
		return nil
	})
	if r.file != nil {
		t.Cleanup(func() { r.file.Close() })
	}
	if err != nil {
		t.Fatalf("open packet socket on %s: %v", name, err)
	}
	return r
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

func (r *raw) mac() (m mac) {
	copy(m[:], r.link.HardwareAddr)
	return m
}

func (r *raw) send(t testing.TB, frame []byte) {
	t.Helper()
	if _, err := r.file.Write(frame); err != nil {
		t.Fatalf("send %d bytes by %s: %v", len(frame), r.link.Name, err)
	}
}

// receive returns what the link has seen and was not taken yet, without waiting. Frames that found no room make it
// fail: what is not seen must not have been there.
func (r *raw) receive(t testing.TB) []captured {
	t.Helper()
	control, err := r.file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var list []captured
	var recvErr error
	buf, oob := make([]byte, 1<<17), make([]byte, 256)
	control.Control(func(fd uintptr) {
		for {
			n, oobn, _, from, err := unix.Recvmsg(int(fd), buf, oob, unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				recvErr = err
				return
			}
			c := captured{frame: append([]byte{}, buf[:n]...)}
			if ll, ok := from.(*unix.SockaddrLinklayer); ok {
				c.outgoing = ll.Pkttype == unix.PACKET_OUTGOING
			}
			c.readAuxdata(oob[:oobn])
			list = append(list, c)
		}
		stats, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil && stats.Drops > 0 {
			recvErr = errors.New("there was no room for all frames")
		}
	})
	if recvErr != nil {
		t.Fatalf("capture on %s: %v", r.link.Name, recvErr)
	}
	return list
}

// readAuxdata reads struct tpacket_auxdata, and puts a VLAN tag back where it was.
func (c *captured) readAuxdata(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		c.partial = status&unix.TP_STATUS_CSUMNOTREADY != 0
		c.gso = status&unix.TP_STATUS_GSO_TCP != 0
	}
}
