package probe

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probeTimeout is how long a probe may take. Nothing that is lost is sent again within it but one datagram, after
// half the time, to tell a path that loses its first packet from one that is closed.
const probeTimeout = 2 * time.Second

// try carries a probe out, in the calling thread's network namespace.
func (d dial) try() result {
	var r result
	var err error
	switch d.Kind {
	case tcp:
		r, err = d.tryTCP()
	case udp:
		r, err = d.tryUDP()
	case full:
		r, err = d.tryFull()
	case reachTCP:
		r, err = d.tryReachTCP()
	case reachUDP:
		r, err = d.tryReachUDP()
	default:
		err = fmt.Errorf("unknown kind of probe %q", d.Kind)
	}
	r.ID = d.ID
	if err != nil {
		r.Error = plain(err)
	}
	return r
}

// plain says an error without the addresses that Go's net package puts around it: the report names them.
func plain(err error) string {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %s", probeTimeout)
	}
	var number syscall.Errno
	if errors.As(err, &number) {
		return number.Error()
	}
	return err.Error()
}

func (d dial) target() string { return netip.AddrPortFrom(d.To, d.Port).String() }

func sourceOf(conn net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// tryTCP opens a connection, sends a number and reads the answer.
func (d dial) tryTCP() (result, error) {
	var r result
	dialer := net.Dialer{Timeout: probeTimeout}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.Dial("tcp", d.target())
	if err != nil {
		return r, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(probeTimeout))
	r.Source = sourceOf(conn)
	if r.LostFirst, err = retransmitted(conn.(*net.TCPConn)); err != nil {
		return r, err
	}
	nonce := rand.Uint64()
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, nonce)); err != nil {
		return r, err
	}
	var a answer
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return r, err
	}
	if a.Nonce != nonce {
		return r, errors.New("the answer belongs to another probe")
	}
	r.Answer = &a
	return r, nil
}

// retransmitted says whether the connection's first packet had to be sent again. Later ones are not looked at: a busy
// machine sends those again after 200 ms without any loss.
func retransmitted(conn *net.TCPConn) (bool, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, err
	}
	var info *unix.TCPInfo
	var sockErr error
	err = raw.Control(func(fd uintptr) { info, sockErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err := errors.Join(err, sockErr); err != nil {
		return false, fmt.Errorf("read state of connection: %w", err)
	}
	return info.Total_retrans > 0, nil
}

// tryUDP sends a small datagram and reads the answer.
func (d dial) tryUDP() (result, error) {
	var r result
	conn, _, err := d.connect(false)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	r.Source = sourceOf(conn)
	for _, again := range []bool{false, true} {
		if r.Answer, err = exchange(conn, 32, probeTimeout/2); err == nil {
			r.LostFirst = again
			return r, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return r, err
		}
	}
	return r, err
}

// tryFull sends one datagram that fills the path's MTU as the kernel knows it. Where a router answers by ICMP that
// this is too big, the kernel knows better from then on, and so the next one is smaller: that is how paths tell their
// MTU. A path that swallows it without an answer fails.
func (d dial) tryFull() (result, error) {
	var r result
	var last error
	for range 5 { // paths of more than a few ever smaller MTUs are not made
		conn, mtu, err := d.connect(true)
		if err != nil {
			return r, err
		}
		smaller := r.MTU != 0 && mtu < r.MTU
		switch {
		case smaller:
			r.Learned, r.LostFirst = true, false
		case errors.Is(last, os.ErrDeadlineExceeded) && !r.LostFirst:
			r.LostFirst = true
		case last != nil:
			conn.Close()
			return r, last
		}
		r.MTU, r.Source = mtu, sourceOf(conn)
		r.Answer, last = exchange(conn, d.payload(mtu), probeTimeout/2)
		conn.Close()
		if last == nil {
			return r, nil
		}
	}
	return r, last
}

// payload is how many bytes a UDP datagram carries in an IP packet of a size.
func (d dial) payload(mtu int) int {
	const ipv4Header, ipv6Header, udpHeader = 20, 40, 8
	if d.To.Is4() {
		return mtu - ipv4Header - udpHeader
	}
	return mtu - ipv6Header - udpHeader
}

// connect opens a UDP socket to the target and says the path's MTU. With whole, nothing it sends is ever fragmented.
func (d dial) connect(whole bool) (*net.UDPConn, int, error) {
	level, discover, pathMTU := unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_MTU
	if d.To.Is4() {
		level, discover, pathMTU = unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_MTU
	}
	dialer := net.Dialer{Timeout: probeTimeout}
	if whole {
		dialer.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			control := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, discover, unix.IP_PMTUDISC_DO) })
			return errors.Join(control, err)
		}
	}
	conn, err := dialer.Dial("udp", d.target())
	if err != nil {
		return nil, 0, err
	}
	udpConn := conn.(*net.UDPConn)
	raw, err := udpConn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, 0, err
	}
	var mtu int
	var sockErr error
	err = raw.Control(func(fd uintptr) { mtu, sockErr = unix.GetsockoptInt(int(fd), level, pathMTU) })
	if err := errors.Join(err, sockErr); err != nil {
		conn.Close()
		return nil, 0, fmt.Errorf("read the path's MTU: %w", err)
	}
	return udpConn, mtu, nil
}

// exchange sends a datagram of a size and waits for its answer.
func exchange(conn *net.UDPConn, size int, timeout time.Duration) (*answer, error) {
	if size < 8 {
		return nil, fmt.Errorf("no room for a probe in %d bytes", size)
	}
	conn.SetDeadline(time.Now().Add(timeout))
	nonce := rand.Uint64()
	packet := make([]byte, size)
	binary.BigEndian.PutUint64(packet, nonce)
	if _, err := conn.Write(packet); err != nil {
		return nil, err
	}
	buf := make([]byte, 2048)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		var a answer
		if json.Unmarshal(buf[:n], &a) == nil && a.Nonce == nonce {
			return &a, nil
		}
	}
}
