package load

import (
	"fmt"
	"io"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is a blocking socket whose calls go past Go's scheduler: it has nothing else to run.
type socket int

func newSocket(family, kind, protocol int) (socket, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, fmt.Errorf("open socket: %w", err)
	}
	s := socket(fd)
	timeout := unix.NsecToTimeval(stuck.Nanoseconds())
	for _, opt := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, opt, &timeout); err != nil {
			s.close()
			return -1, fmt.Errorf("set socket's timeout: %w", err)
		}
	}
	return s, nil
}

func (s socket) set(level, option, value int) error {
	if err := unix.SetsockoptInt(int(s), level, option, value); err != nil {
		return fmt.Errorf("set socket option %d: %w", option, err)
	}
	return nil
}

// timeout changes how long receiving may take.
func (s socket) timeout(d time.Duration) error {
	t := unix.NsecToTimeval(d.Nanoseconds())
	return unix.SetsockoptTimeval(int(s), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &t)
}

func (s socket) close() { unix.RawSyscall(unix.SYS_CLOSE, uintptr(s), 0, 0) }

func (s socket) send(b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, fmt.Errorf("send: %w", errno)
	}
	return int(n), nil
}

// receive returns io.EOF when the other side has closed.
func (s socket) receive(b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(s), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	if errno != 0 {
		return 0, fmt.Errorf("receive: %w", errno)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return int(n), nil
}

func (s socket) accept() (socket, error) {
	fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(s), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, fmt.Errorf("accept: %w", errno)
	}
	return socket(fd), nil
}

func listen(a netip.AddrPort) (socket, error) {
	s, err := newSocket(family(a.Addr()), unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	if err := s.set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, err
	}
	if err := unix.Bind(int(s), sockaddr(a)); err != nil {
		return -1, fmt.Errorf("bind %s: %w", a, err)
	}
	if err := unix.Listen(int(s), 128); err != nil {
		return -1, fmt.Errorf("listen on %s: %w", a, err)
	}
	return s, nil
}

// dial connects. The socket sends what it has at once.
func dial(a netip.AddrPort, to unix.Sockaddr) (socket, error) {
	s, err := newSocket(family(a.Addr()), unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(int(s), to); err != nil {
		s.close()
		return -1, fmt.Errorf("connect to %s: %w", a, err)
	}
	return s, s.set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
