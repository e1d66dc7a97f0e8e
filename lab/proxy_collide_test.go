package lab_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/lab"
)

// testCollisions has connections with one port of the client's come to one backend through several frontends: to the
// backend they would look the same.
func testCollisions(t *testing.T, p *proxy) {
	for n, node := range []string{"node-1", "node-2", "node-3"} {
		name := fmt.Sprintf("one%d", n+1)
		p.backends(name, node)
		s := p.service(lab.ServiceOptions{Name: name, Type: "LoadBalancer"})
		p.servedBy(name, 1)
		for family, i := range families() {
			for _, c := range []*client{p.inPod, p.outside} { // by packets: nobody's sockets are looked at
				for k, network := range []string{"tcp", "udp"} {
					to := []netip.AddrPort{netip.AddrPortFrom(s.LoadBalancerIPs[i], 80)}
					for _, frontend := range p.frontends(s, c, i) {
						to = append(to, frontend[k])
					}
					if err := collide(c, network, c.addrs[i], uint16(20000+10*n+k), to, name+"-1"); err != nil {
						t.Errorf("%s asks a backend on %s by %s %s: %v", c.Name, node, network, family, err)
					}
				}
			}
		}
	}
}

func collide(c *client, network string, from netip.Addr, port uint16, to []netip.AddrPort, backend string) error {
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	for _, at := range to {
		conn, err := dialShared(c.Place, network, netip.AddrPortFrom(from, port), at)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		conns = append(conns, conn)
	}
	ports := map[uint16]bool{}
	for range 2 {
		for i, conn := range conns {
			a, err := who(conn, patience)
			if err != nil || a.Name != backend || a.Seen.Addr() != from {
				return fmt.Errorf("%s: %+v, %w", to[i], a, err)
			}
			ports[a.Seen.Port()] = true
		}
	}
	if len(ports) != len(to) {
		return fmt.Errorf("%d connections have the ports %v", len(to), ports)
	}
	return nil
}

// dialShared opens a connected socket whose own port others may have, too.
func dialShared(at lab.Place, network string, from, to netip.AddrPort) (conn net.Conn, err error) {
	share := func(_, _ string, raw syscall.RawConn) error {
		var set error
		return errors.Join(raw.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}), set)
	}
	err = at.Do(func() (err error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Control: share, Timeout: patience}
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(from)
		}
		d.SetMultipathTCP(false)
		conn, err = d.Dial(network, to.String())
		return err
	})
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(patience))
	}
	return conn, err
}
