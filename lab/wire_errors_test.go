package lab_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/traffic"
)

// testErrors provokes ICMP errors and looks who is told.
func testErrors(t *testing.T, w *world) {
	for _, p := range w.podPaths() {
		t.Run(p.Name, func(t *testing.T) {
			tap := openRaw(t, p.From.Place, "eth0")
			t.Run("a trace shows the nodes, then the pod", func(t *testing.T) {
				route := append(w.hops(p), p.To.Addr)
				for ttl, want := range route {
					s := openErrors(t, p.From)
					s.send(t, p.To.Addr, 33434, ttl+1, 100)
					e := s.next(t, 10*time.Second)
					if e.offender != want || e.isUnreachable() != (ttl+1 == len(route)) {
						t.Errorf("with %d hops to live: %v, want an error from %s", ttl+1, e, want)
					}
				}
			})
			t.Run("an unreachable port is told to the socket that tried it", func(t *testing.T) {
				other := openErrors(t, p.From)
				other.send(t, p.To.Addr, portOf(listenUDP(t, p.To)), 64, 10)
				s := openErrors(t, p.From)
				s.send(t, p.To.Addr, 9, 64, 10)
				if e := s.next(t, 10*time.Second); e.offender != p.To.Addr || !e.isUnreachable() {
					t.Errorf("%v, want that the port is unreachable, from %s", e, p.To.Addr)
				}
				if e := other.next(t, 50*time.Millisecond); e.err != 0 {
					t.Errorf("another socket was told %v", e)
				}
			})
			t.Run("a forged error about a flow that there is not is told to nobody", func(t *testing.T) {
				s := openErrors(t, p.From)
				port := portOf(listenUDP(t, p.To))
				s.connect(t, p.To.Addr, port)
				s.send(t, p.To.Addr, port, 64, 10)
				attacker := openRaw(t, p.To.Place, "eth0")
				for _, ports := range [][2]uint16{{s.port + 1, port}, {s.port, port + 1}, {port, s.port}} {
					quoted := ip(p.From.Addr, p.To.Addr, protoUDP, header{}, udp(p.From.Addr, p.To.Addr, ports[0], ports[1], nil))
					kind, code := byte(3), byte(3)
					if p.From.Addr.Is6() {
						kind, code = 1, 4
					}
					attacker.send(t, ipFrame(gatewayMAC(), attacker.mac(), ip(p.To.Addr, p.From.Addr, icmpProto(p.To.Addr), header{},
						icmp(p.To.Addr, p.From.Addr, kind, code, append(make([]byte, 4), quoted...)))))
				}
				if e := s.next(t, 100*time.Millisecond); e.err != 0 {
					t.Errorf("the socket was told %v", e)
				}
			})
			t.Run("every error had right checksums", func(t *testing.T) {
				var audit audit
				for _, c := range tap.receive(t) {
					audit.frame(c)
				}
				if audit.bad != nil || audit.good[icmpName(p.From.Addr)] < 3 {
					t.Errorf("%+v", audit)
				}
			})
		})
	}
}

func icmpName(a netip.Addr) string {
	if a.Is4() {
		return "ICMP"
	}
	return "ICMPv6"
}

// errorSocket is a UDP socket that hears what ICMP says about its packets (IP_RECVERR, ip(7)).
type errorSocket struct {
	conn      *net.UDPConn
	port      uint16
	ipv4      bool
	connected bool
}

// icmpError is struct sock_extended_err, and who sent the error.
type icmpError struct {
	err        syscall.Errno
	kind, code byte
	mtu        uint32
	offender   netip.Addr
}

func (e icmpError) String() string {
	if e.err == 0 {
		return "no error"
	}
	return fmt.Sprintf("%v (type %d, code %d, MTU %d) from %s", e.err, e.kind, e.code, e.mtu, e.offender)
}

// isUnreachable says whether it is about a port.
func (e icmpError) isUnreachable() bool { return e.err == unix.ECONNREFUSED }

func openErrors(t *testing.T, at traffic.End) *errorSocket {
	t.Helper()
	s := &errorSocket{ipv4: at.Addr.Is4()}
	err := at.Do(func() (err error) {
		s.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Addr, 0)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	s.port = portOf(s.conn)
	if s.ipv4 {
		s.set(t, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		s.set(t, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	} else {
		s.set(t, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
		s.set(t, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	}
	return s
}

func (s *errorSocket) set(t *testing.T, level, name, value int) {
	t.Helper()
	if err := s.control(func(fd int) error { return unix.SetsockoptInt(fd, level, name, value) }); err != nil {
		t.Fatal(err)
	}
}

// connect makes the socket send to one address alone, and hear of no other.
func (s *errorSocket) connect(t *testing.T, to netip.Addr, port uint16) {
	t.Helper()
	if err := s.control(func(fd int) error { return unix.Connect(fd, socketAddress(to, port)) }); err != nil {
		t.Fatalf("connect to %s: %v", to, err)
	}
	s.connected = true
}

func socketAddress(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: int(port), Addr: a.As16()}
}

func (s *errorSocket) control(f func(fd int) error) error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// send sends a datagram with so many hops to live and so many bytes, which may not be fragmented.
func (s *errorSocket) send(t *testing.T, to netip.Addr, port uint16, ttl, size int) {
	t.Helper()
	if s.ipv4 {
		s.set(t, unix.IPPROTO_IP, unix.IP_TTL, ttl)
	} else {
		s.set(t, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl)
	}
	err := s.control(func(fd int) error {
		if s.connected {
			_, err := unix.Write(fd, make([]byte, size))
			return err
		}
		return unix.Sendto(fd, make([]byte, size), 0, socketAddress(to, port))
	})
	if err != nil {
		t.Fatalf("send datagram to %s: %v", to, err)
	}
}

// next waits for an error; the zero one says that none came.
func (s *errorSocket) next(t *testing.T, patience time.Duration) (e icmpError) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && e.err == 0; time.Sleep(2 * time.Millisecond) {
		err := s.control(func(fd int) error {
			buf, oob := make([]byte, 2048), make([]byte, 512)
			_, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if errors.Is(err, unix.EAGAIN) || err != nil && err == unix.ECONNREFUSED {
				return nil
			}
			if err != nil {
				return err
			}
			return e.parse(oob[:oobn])
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return e
}

func (e *icmpError) parse(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return err
	}
	for _, m := range messages {
		isErr := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR ||
			m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !isErr || len(m.Data) < 16+16 {
			continue
		}
		e.err, e.kind, e.code = syscall.Errno(binary.NativeEndian.Uint32(m.Data)), m.Data[5], m.Data[6]
		e.mtu = binary.NativeEndian.Uint32(m.Data[8:])
		offender := m.Data[16:] // a socket address
		switch binary.NativeEndian.Uint16(offender) {
		case unix.AF_INET:
			e.offender, _ = netip.AddrFromSlice(offender[4:8])
		case unix.AF_INET6:
			if len(offender) >= 24 {
				e.offender, _ = netip.AddrFromSlice(offender[8:24])
			}
		}
	}
	return nil
}
