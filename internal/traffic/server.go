package traffic

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// server is the answering end of a path: it echoes connections, and has the socket that datagrams go to.
type server struct {
	listener *net.TCPListener
	packets  *net.UDPConn

	mu    sync.Mutex
	conns map[net.Conn]bool
	done  bool
}

func listen(at End, port uint16) (*server, error) {
	s := &server{conns: map[net.Conn]bool{}}
	err := at.Do(func() error {
		here := netip.AddrPortFrom(at.Addr, port)
		var lc net.ListenConfig
		lc.SetMultipathTCP(false) // plain TCP, as nearly everybody speaks it
		l, err := lc.Listen(context.Background(), "tcp", here.String())
		if err != nil {
			return err
		}
		s.listener = l.(*net.TCPListener)
		if s.packets, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(here)); err != nil {
			s.listener.Close()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", at.Addr, err)
	}
	if err := s.prepareDatagrams(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// prepareDatagrams makes room for what arrives while this process does not run, and has the kernel say when each
// datagram came: how late it is read does not count.
func (s *server) prepareDatagrams() error {
	raw, err := s.packets.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
		if set == nil {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
		}
	})
	if err == nil {
		err = set
	}
	if err != nil {
		return fmt.Errorf("prepare datagram socket: %w", err)
	}
	return nil
}

func (s *server) tcpAddr() netip.AddrPort { return s.listener.Addr().(*net.TCPAddr).AddrPort() }
func (s *server) udpAddr() netip.AddrPort { return s.packets.LocalAddr().(*net.UDPAddr).AddrPort() }

// accept echoes every connection until the server is closed.
func (s *server) accept() {
	var echoes sync.WaitGroup
	defer echoes.Wait()
	for {
		conn, err := s.listener.AcceptTCP()
		if err != nil {
			return
		}
		if !s.keep(conn) {
			conn.Close()
			return
		}
		echoes.Go(func() {
			defer s.forget(conn)
			buf := make([]byte, 4*recordLen)
			for {
				n, err := conn.Read(buf)
				if err == nil {
					_, err = conn.Write(buf[:n])
				}
				if err != nil {
					return
				}
			}
		})
	}
}

func (s *server) keep(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[conn] = true
	return !s.done
}

func (s *server) forget(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
	conn.Close()
}

func (s *server) close() {
	s.listener.Close()
	s.packets.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	for conn := range s.conns {
		conn.Close()
	}
}
