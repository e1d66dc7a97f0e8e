package lab_test

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/lab"
)

// shot is one try to open a connection, and what came of it.
type shot struct {
	from     *lab.Pod
	to       netip.AddrPort
	protocol uint8 // IPPROTO_TCP or IPPROTO_UDP

	opened bool   // the handshake is done, or a datagram is answered
	failed string // what else the network said; empty: it was silent
}

// fire takes all shots at once and waits for their outcomes, as long as patience: no TCP handshake is tried a second
// time before a second has passed. All sockets are opened in their pods' network namespaces, one thread for each pod.
func fire(t testing.TB, shots []*shot, patience time.Duration) {
	t.Helper()
	sockets := make([]int, len(shots))
	places := map[string]*lab.Pod{}
	for i, s := range shots {
		sockets[i] = -1
		places[s.from.Name] = s.from
	}
	defer func() {
		for _, fd := range sockets {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	}()
	for _, place := range places {
		err := place.Do(func() error {
			for i, s := range shots {
				if s.from.Name != place.Name {
					continue
				}
				s.opened, s.failed = false, ""
				fd, err := s.open()
				sockets[i] = fd
				if err != nil {
					s.failed = err.Error()
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := collect(shots, sockets, time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}

// open begins a shot in the calling thread's network namespace. The socket is there even if it failed.
func (s *shot) open() (fd int, err error) {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	if s.to.Addr().Is4() {
		family = unix.AF_INET
	}
	if s.protocol == unix.IPPROTO_UDP {
		kind = unix.SOCK_DGRAM
	}
	if fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if kind == unix.SOCK_STREAM { // it ends by a reset, and leaves nothing behind
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return fd, os.NewSyscallError("set linger", err)
		}
	}
	if err := unix.Connect(fd, sockaddr(s.to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fd, os.NewSyscallError("connect", err)
	}
	if kind == unix.SOCK_DGRAM {
		_, err = unix.Write(fd, []byte("who\n"))
	}
	return fd, err
}

func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
}

// collect waits for the outcomes of shots that are under way.
func collect(shots []*shot, sockets []int, deadline time.Time) error {
	var waiting []unix.PollFd
	var whose []*shot
	for i, s := range shots {
		events := int16(unix.POLLOUT)
		if s.protocol == unix.IPPROTO_UDP {
			events = unix.POLLIN
		}
		if s.failed == "" {
			waiting, whose = append(waiting, unix.PollFd{Fd: int32(sockets[i]), Events: events}), append(whose, s)
		}
	}
	for len(waiting) > 0 {
		left := time.Until(deadline)
		if left <= 0 {
			return nil
		}
		if _, err := unix.Poll(waiting, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		for i := len(waiting) - 1; i >= 0; i-- {
			if waiting[i].Revents != 0 {
				whose[i].end(int(waiting[i].Fd))
				waiting, whose = slices.Delete(waiting, i, i+1), slices.Delete(whose, i, i+1)
			}
		}
	}
	return nil
}

// end reads what has become of a shot whose socket has something to say.
func (s *shot) end(fd int) {
	number, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		s.failed = err.Error()
	case number != 0:
		s.failed = unix.Errno(number).Error()
	default:
		s.opened = true
	}
}
