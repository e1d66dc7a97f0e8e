package lab_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/lab"
)

// echoPort is where pods echo what comes whole, whatever its size.
const echoPort = 7777

// echoing makes a Service of a backend on each of the nodes that echoes datagrams and connections.
func (p *proxy) echoing(t *testing.T, name string, nodes ...string) lab.Service {
	t.Helper()
	for i, node := range nodes {
		pod := create(t, p.Cluster, lab.PodOptions{Name: fmt.Sprintf("%s-%d", name, i+1), Node: node, Labels: map[string]string{"app": name}})
		echoAt(t, pod.Place)
	}
	target := fmt.Sprint(echoPort)
	s := p.service(lab.ServiceOptions{Name: name, Type: "NodePort", Ports: []lab.ServicePort{
		{Port: 80, Target: target, Protocol: "TCP"}, {Port: 80, Target: target, Protocol: "UDP"}}})
	p.servedBy(name, len(nodes))
	return s
}

// echoAt echoes in a place until the test ends.
func echoAt(t *testing.T, at lab.Place) {
	t.Helper()
	var packets *net.UDPConn
	var listener net.Listener
	err := at.Do(func() (err error) {
		if packets, err = net.ListenUDP("udp", &net.UDPAddr{Port: echoPort}); err != nil {
			return err
		}
		if err = makeRoom(packets); err != nil {
			return err
		}
		listener, err = net.Listen("tcp", fmt.Sprintf(":%d", echoPort))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() {
		packets.Close()
		listener.Close()
		running.Wait()
	})
	running.Go(func() { echoStreams(listener) })
	running.Go(func() { echoPackets(packets) })
}

func echoStreams(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		io.Copy(conn, conn)
		conn.Close()
	}
}

func echoPackets(packets *net.UDPConn) {
	b := make([]byte, 1<<16)
	for {
		n, from, err := packets.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			packets.WriteToUDPAddrPort(b[:n], from)
		}
	}
}

// makeRoom has the socket keep what comes while this process does not run.
func makeRoom(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) })
	return errors.Join(err, set)
}

// frontends of a Service are the addresses that a client can use, for TCP and UDP.
func (p *proxy) frontends(s lab.Service, c *client, family int) map[string][2]netip.AddrPort {
	port := func(n *lab.Node) [2]netip.AddrPort {
		a := n.Cluster().Addresses[family]
		return [2]netip.AddrPort{netip.AddrPortFrom(a, s.Ports[0].NodePort), netip.AddrPortFrom(a, s.Ports[1].NodePort)}
	}
	all := map[string][2]netip.AddrPort{"node-1's port": port(p.node1), "node-2's port": port(p.node2), "node-3's port": port(p.node3)}
	if c != p.outside {
		at := netip.AddrPortFrom(s.ClusterIPs[family], 80)
		all["cluster IP"] = [2]netip.AddrPort{at, at}
	}
	return all
}

func testFragmentsToServices(t *testing.T, p *proxy) {
	var all errgroup.Group
	all.SetLimit(4)
	for i, node := range []string{"node-1", "node-2", "node-3"} {
		s := p.echoing(t, fmt.Sprintf("pieces%d", i+1), node)
		for family, i := range families() {
			for _, c := range p.clients() {
				if c == p.onNode && strings.Contains(t.Name(), "packets_alone") {
					continue // the loopback device, by which they leave, has no path's MTU (docs/adr/0012)
				}
				all.Go(func() error {
					var failed []string
					for what, to := range p.frontends(s, c, i) {
						for _, size := range []int{1440, 8192, 60000} {
							if err := comesBack(c, to[1], size, 5); err != nil {
								failed = append(failed, fmt.Sprintf("%d bytes by %s: %v", size, what, err))
							}
						}
					}
					if len(failed) > 0 {
						t.Errorf("%s asks a backend on %s by %s: %d failures, such as %s", c.Name, node, family, len(failed), failed[0])
					}
					return nil
				})
			}
		}
	}
	all.Wait()
}

// comesBack sends datagrams, one at a time, and wants each echo to be the same. How much fits, a sender may have to be
// told at first: what was lost to that is sent again.
func comesBack(c *client, to netip.AddrPort, size, times int) error {
	conn, err := c.dial("udp", netip.Addr{}, to, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	got := make([]byte, 1<<16)
	for i, lost := 0, 0; i < times; i++ {
		want := pattern(size, byte(i))
		if _, err := conn.Write(want); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(patience / 8))
		n, err := conn.Read(got)
		if err != nil && lost < 3 && i == 0 {
			i, lost = i-1, lost+1
			continue
		}
		if err != nil {
			return fmt.Errorf("datagram %d: %w", i, err)
		}
		if !bytes.Equal(got[:n], want) {
			return fmt.Errorf("datagram %d: %d bytes came back, or others", i, n)
		}
	}
	return nil
}

// testFullSize sends from outside what is as big as the path outside carries, and must not be fragmented there: it does
// not fit into the tunnel to the backend's node as it is.
func testFullSize(t *testing.T, p *proxy) {
	const mtu = 1500
	for i, node := range []string{"node-1", "node-2", "node-3"} {
		s := p.echoing(t, fmt.Sprintf("full%d", i+1), node)
		for family, i := range families() {
			to := p.frontends(s, p.outside, i)
			for what, to := range to {
				payload := mtu - []int{20, 40}[i] - 8
				if err := p.fullSize(to[1], payload); err != nil {
					t.Errorf("%d bytes to a backend on %s by %s, %s: %v", payload, node, what, family, err)
				}
				if err := p.bulk(to[0], 2<<20); err != nil {
					t.Errorf("a stream to a backend on %s by %s, %s: %v", node, what, family, err)
				}
			}
		}
	}
}

// fullSize sends datagrams that must not be fragmented and have no room to spare.
func (p *proxy) fullSize(to netip.AddrPort, payload int) error {
	conn, err := p.outside.dial("udp", netip.Addr{}, to, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := dontFragment(conn.(*net.UDPConn), to.Addr().Is4()); err != nil {
		return err
	}
	got := make([]byte, 1<<16)
	for i := range 5 {
		want := pattern(payload, byte(i))
		if _, err := conn.Write(want); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		conn.SetReadDeadline(time.Now().Add(patience / 4))
		n, err := conn.Read(got)
		if err != nil {
			return fmt.Errorf("datagram %d: %w", i, err)
		}
		if !bytes.Equal(got[:n], want) {
			return fmt.Errorf("datagram %d: %d bytes came back, or others", i, n)
		}
	}
	return nil
}

// dontFragment has the kernel send datagrams whole, whatever it knows of the path.
func dontFragment(conn *net.UDPConn, ipv4 bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	level, option := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER
	if !ipv4 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = syscall.SetsockoptInt(int(fd), level, option, unix.IP_PMTUDISC_PROBE) })
	return errors.Join(err, set)
}

// bulk sends a stream and wants it back.
func (p *proxy) bulk(to netip.AddrPort, size int) error {
	conn, err := p.outside.dial("tcp", netip.Addr{}, to, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(pattern(size, 1))
		sent <- errors.Join(err, conn.(*net.TCPConn).CloseWrite())
	}()
	got, err := io.ReadAll(conn)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(got, pattern(size, 1)) {
		return fmt.Errorf("%d bytes came back of %d, or others", len(got), size)
	}
	return nil
}
