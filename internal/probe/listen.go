package probe

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// station is the listening half of a prober: sockets in the namespaces of a node, and what answers on them.
type station struct {
	node    string
	sockets []io.Closer
	running sync.WaitGroup
}

// open listens on all addresses of all endpoints. What cannot listen says why in the endpoint: the coordinator judges.
func (s *station) open(own *os.File, node []netip.Addr, pods []Namespace) ([]endpoint, error) {
	endpoints := make([]endpoint, 1+len(pods))
	err := away(func() {
		endpoints[0].Listeners = s.listenAll(own, nil, node, 0)
		for i, p := range pods {
			endpoints[i+1] = endpoint{Link: p.Link, Ifname: p.Ifname, MTU: p.MTU}
			endpoints[i+1].Listeners = s.listenAll(own, p.Netns, p.Addresses, i+1)
		}
	})
	return endpoints, err
}

func (s *station) listenAll(own, netns *os.File, addresses []netip.Addr, id int) []listener {
	var list []listener
	for _, a := range addresses {
		if a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() {
			continue
		}
		l := listener{Address: a}
		err := enter(own, netns)
		if err == nil {
			l.TCP, l.UDP, err = s.listen(a, fmt.Sprintf("%s/%d", s.node, id))
		}
		if err != nil {
			l.Error = err.Error()
		}
		list = append(list, l)
	}
	return list
}

// listen opens a TCP and a UDP socket on an address, at ports that the kernel chooses.
func (s *station) listen(a netip.Addr, who string) (tcpPort, udpPort uint16, err error) {
	streams := net.ListenConfig{}
	streams.SetMultipathTCP(false)
	datagrams := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return reportFragments(c, a.Is4()) }}
	at := netip.AddrPortFrom(a, 0).String()
	stream, err := streams.Listen(context.Background(), "tcp", at)
	if err != nil {
		return 0, 0, err
	}
	s.sockets = append(s.sockets, stream)
	packets, err := datagrams.ListenPacket(context.Background(), "udp", at)
	if err != nil {
		return 0, 0, err
	}
	s.sockets = append(s.sockets, packets)
	s.running.Go(func() { s.answerTCP(stream.(*net.TCPListener), who) })
	s.running.Go(func() { s.answerUDP(packets.(*net.UDPConn), who) })
	return port(stream.Addr()), port(packets.LocalAddr()), nil
}

func port(a net.Addr) uint16 {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return 0
	}
	return p.Port()
}

// close ends all answering and waits for it.
func (s *station) close() {
	for _, c := range s.sockets {
		c.Close()
	}
	s.running.Wait()
}

// answerTCP answers once on each connection. A connection may take as long as a probe may, not longer.
func (s *station) answerTCP(l *net.TCPListener, who string) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors; those in use will be closed
			continue
		}
		s.running.Go(func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(probeTimeout))
			nonce := make([]byte, 8)
			if _, err := io.ReadFull(conn, nonce); err != nil {
				return
			}
			from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
			if err != nil {
				return
			}
			json.NewEncoder(conn).Encode(answer{
				Nonce: binary.BigEndian.Uint64(nonce), Who: who, Seen: from.Addr().Unmap(), Got: len(nonce),
			})
		})
	}
}

// answerUDP answers each datagram.
func (s *station) answerUDP(conn *net.UDPConn, who string) {
	buf, oob := make([]byte, 1<<16), make([]byte, 256)
	for {
		n, oobn, _, from, err := conn.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 8 {
			continue // an ICMP error for an answer of ours, or a datagram that is no probe
		}
		b, err := json.Marshal(answer{
			Nonce: binary.BigEndian.Uint64(buf), Who: who, Seen: from.Addr().Unmap(), Got: n,
			Fragmented: wasFragmented(oob[:oobn]),
		})
		if err == nil {
			conn.WriteToUDPAddrPort(b, from)
		}
	}
}

// reportFragments makes a socket tell of each datagram whether it came in fragments.
func reportFragments(c syscall.RawConn, ipv4 bool) error {
	level, option := unix.IPPROTO_IPV6, unix.IPV6_RECVFRAGSIZE
	if ipv4 {
		level, option = unix.IPPROTO_IP, unix.IP_RECVFRAGSIZE
	}
	var err error
	if control := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); control != nil {
		return control
	}
	return err
}

// wasFragmented reads the control messages that reportFragments asks for: they come with fragmented datagrams only.
func wasFragmented(oob []byte) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVFRAGSIZE,
			m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVFRAGSIZE:
			return true
		}
	}
	return false
}
