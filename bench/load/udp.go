package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// payload makes a frame of 64 bytes on the wire: 14 Ethernet, 20 IPv4, 8 UDP, 18, 4 checksum.
const payload = 18

// firstSourcePort is the first of the client's ports: one for each flow.
const firstSourcePort = 10000

// quiet is how long nothing arrives before a server takes the load for ended.
const quiet = 300 * time.Millisecond

// serveUDP counts what arrives, from the first datagram to the last.
func serveUDP(j job) (reply, error) {
	s, err := newSocket(family(j.server.Addr()), unix.SOCK_DGRAM, 0)
	if err != nil {
		return reply{}, err
	}
	defer s.close()
	if err := s.set(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20); err != nil {
		return reply{}, err
	}
	if err := unix.Bind(int(s), sockaddr(j.server)); err != nil {
		return reply{}, fmt.Errorf("bind %s: %w", j.server, err)
	}
	announce()
	return s.countDatagrams()
}

// countDatagrams begins with the first that comes.
func (s socket) countDatagrams() (reply, error) {
	b := make([]byte, 64)
	if _, err := s.receive(b); err != nil {
		return reply{}, err
	}
	if err := s.timeout(quiet); err != nil {
		return reply{}, err
	}
	m, err := begin()
	if err != nil {
		return reply{}, err
	}
	r, last := reply{}, m.began
	for {
		if _, err := s.receive(b); errors.Is(err, unix.EAGAIN) {
			break
		} else if err != nil {
			return r, err
		}
		r.Ops++
		if int(r.Ops)%64 == 0 {
			last = time.Now()
		}
	}
	if r, err = m.end(r); err != nil {
		return r, err
	}
	r.Seconds, r.Work = last.Sub(m.began).Seconds(), r.Ops
	return r, nil
}

// requestUDP sends by a raw socket that writes the UDP header itself, so that one flow and ten thousand cost the
// sender the same: one socket, one route.
func requestUDP(j job) (reply, error) {
	s, err := newSocket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_UDP)
	if err != nil {
		return reply{}, err
	}
	defer s.close()
	if err := unix.Bind(int(s), &unix.SockaddrInet4{Addr: j.own.As4()}); err != nil {
		return reply{}, fmt.Errorf("bind %s: %w", j.own, err)
	}
	if err := unix.Connect(int(s), &unix.SockaddrInet4{Addr: j.server.Addr().As4()}); err != nil {
		return reply{}, fmt.Errorf("connect to %s: %w", j.server.Addr(), err)
	}
	b := make([]byte, 8+payload) // the checksum stays 0: there is none (RFC 768)
	binary.BigEndian.PutUint16(b[2:], j.server.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	flow := 0
	r, err := j.measure(64, func() error {
		binary.BigEndian.PutUint16(b, uint16(firstSourcePort+flow))
		if flow++; flow == j.flows {
			flow = 0
		}
		_, err := s.send(b)
		if errors.Is(err, unix.ENOBUFS) {
			return nil // dropped on the way: the server counts
		}
		return err
	})
	r.Sent, r.Ops, r.Work = r.Ops, 0, 0
	return r, err
}
