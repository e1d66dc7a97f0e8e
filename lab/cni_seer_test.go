package lab_test

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// place is where a socket is opened.
type place func(f func() error) error

func (c container) place() place {
	return func(f func() error) (err error) {
		c.ns.Do(func() { err = f() })
		return err
	}
}

// seer answers who is asking, by TCP and UDP on a place's addresses, until the test ends. It listens on each address
// and not on all at once, for then a datagram's answer may come from another address than was asked.
func seer(t *testing.T, at place, own []netip.Addr, port int) {
	t.Helper()
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait) // after what follows
	for _, a := range own {
		var tcp net.Listener
		var udp net.PacketConn
		err := at(func() (err error) {
			if tcp, err = net.Listen("tcp", netip.AddrPortFrom(a, uint16(port)).String()); err != nil {
				return err
			}
			udp, err = net.ListenPacket("udp", netip.AddrPortFrom(a, uint16(port)).String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		serving.Go(func() { answerStreams(tcp) })
		serving.Go(func() { answerDatagrams(udp) })
	}
}

func answerStreams(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		io.WriteString(conn, hostOf(conn.RemoteAddr()))
		conn.Close()
	}
}

func answerDatagrams(conn net.PacketConn) {
	buf := make([]byte, 100)
	for {
		_, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		conn.WriteTo([]byte(hostOf(from)), from)
	}
}

func hostOf(a net.Addr) string {
	p, _ := netip.ParseAddrPort(a.String())
	return p.Addr().Unmap().String()
}

// seenAs asks a seer from a place who is asking.
func seenAs(from place, network string, to netip.Addr, port int) (seen string, err error) {
	for range 5 { // a datagram may get lost
		seen, err = seenOnce(from, network, to, port)
		if err == nil || network == "tcp" {
			break
		}
	}
	return seen, err
}

func seenOnce(from place, network string, to netip.Addr, port int) (string, error) {
	var conn net.Conn
	err := from(func() (err error) {
		conn, err = (&net.Dialer{Timeout: 15 * time.Second}).Dial(network, netip.AddrPortFrom(to, uint16(port)).String())
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if network == "udp" {
		if _, err := conn.Write([]byte("who?")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

// sees checks that what is at one place reaches another's address by both protocols, seen by its own.
func sees(t *testing.T, what string, from place, own []netip.Addr, to []netip.Addr, port int) {
	t.Helper()
	for i, a := range to {
		for _, network := range []string{"tcp", "udp"} {
			if seen, err := seenAs(from, network, a, port); err != nil || seen != own[i].String() {
				t.Errorf("%s, %s to %s: seen as %q, not %s: %v", what, network, a, seen, own[i], err)
			}
		}
	}
}
