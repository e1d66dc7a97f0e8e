package lab_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
)

// The tunnel's outer headers over IPv4.
const tunnelOverhead = 50

func TestTheMTUFollowsThePaths(t *testing.T) {
	w := newWorld(t)
	before := w.fresh(t)
	t.Run("pods have the least of all paths", func(t *testing.T) { w.podsHave(t, 1500-tunnelOverhead) })
	t.Run("a smaller one reaches both ends of every pod's link while data flows", func(t *testing.T) {
		stop := bulk(t, w.podPaths())
		w.setMTU(t, 1400, w.Nodes()...)
		w.podsHave(t, 1400-tunnelOverhead)
		fullSize(t, w, 1400-tunnelOverhead)
		stop()
	})
	t.Run("a larger one, too", func(t *testing.T) {
		stop := bulk(t, w.podPaths())
		w.setMTU(t, 1500, w.Nodes()...)
		w.podsHave(t, 1500-tunnelOverhead)
		fullSize(t, w, 1500-tunnelOverhead)
		stop()
		w.asBefore(t, before)
	})
	t.Run("a packet that is too big meanwhile is told so", func(t *testing.T) {
		pid := w.near.AgentPID()
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer unix.Kill(pid, unix.SIGCONT)
		w.setMTU(t, 1400, w.near)
		for _, p := range w.podPaths() {
			if len(w.hops(p)) == 1 {
				continue // it never leaves the node
			}
			t.Run(p.Name, func(t *testing.T) { tooBig(t, w, p) })
		}
	})
}

// tooBig sends what no longer fits the uplink, as TCP would before it knows. Through the tunnel it may arrive all the
// same: the node cuts the outer packet up.
func tooBig(t *testing.T, w *world, p traffic.Path) {
	t.Helper()
	s := openErrors(t, p.From)
	s.send(t, p.To.Addr, 9, 64, 1450-48)
	e := s.next(t, 3*time.Second)
	if e.isUnreachable() && e.offender == p.To.Addr && w.far.Cluster().PodCIDRs[family(p.To.Addr)].Contains(p.To.Addr) {
		return
	}
	if e.err != unix.EMSGSIZE || e.offender != w.hops(p)[0] || e.mtu > 1400 || e.mtu < 1280 {
		t.Errorf("%v, want that it is too big for 1400 bytes, from %s", e, w.hops(p)[0])
	}
}

// family is the place of an address's family in the lists of the lab.
func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// setMTU changes the uplinks of nodes, at both ends: a switch's port has one MTU.
func (w *world) setMTU(t *testing.T, mtu int, nodes ...*lab.Node) {
	t.Helper()
	for _, n := range nodes {
		for _, end := range []struct {
			lab.Place
			link string
		}{{w.Fabric(), n.Name}, {n.Place, "eth0"}} {
			if err := end.Do(func() error { return setLinkMTU(end.link, mtu) }); err != nil {
				t.Fatalf("set MTU of %s: %v", end.link, err)
			}
		}
	}
}

// podsHave wants both ends of every pod's link, and the report, to say an MTU within the time of a repair.
func (w *world) podsHave(t *testing.T, mtu int) {
	t.Helper()
	began := time.Now()
	for _, p := range w.pods() {
		n, err := w.Node(p.Node)
		if err != nil {
			t.Fatal(err)
		}
		link := linkOf(t, n, p)
		eventually(t, repairTime, p.Name+" has the MTU", func() error {
			return errors.Join(hasMTU(p.Place, "eth0", mtu), hasMTU(n.Place, link, mtu))
		})
	}
	t.Logf("after %s", time.Since(began).Round(10*time.Millisecond))
	for _, n := range w.Nodes() {
		eventually(t, repairTime, "the report of "+n.Name+" says so", func() error {
			for _, p := range reportOf(t, n).Pods {
				if p.MTU != mtu {
					return fmt.Errorf("MTU %d of %s, want %d", p.MTU, p.Name, mtu)
				}
			}
			return nil
		})
	}
}

func hasMTU(p lab.Place, link string, mtu int) error {
	return p.Do(func() error {
		l, err := netlink.LinkByName(link)
		if err == nil && l.Attrs().MTU != mtu {
			err = fmt.Errorf("%s of %s has MTU %d, want %d", link, p.Name, l.Attrs().MTU, mtu)
		}
		return err
	})
}

// fullSize sends packets of just that size, unfragmented, on every path.
func fullSize(t *testing.T, w *world, mtu int) {
	t.Helper()
	for _, p := range w.podPaths() {
		socket := listenUDP(t, p.To)
		s := openErrors(t, p.From)
		size := mtu - 28
		if p.From.Addr.Is6() {
			size = mtu - 48
		}
		s.send(t, p.To.Addr, portOf(socket), 64, size)
		if got := expect(t, socket, 10*time.Second); len(got) != size {
			t.Errorf("%s: a packet of %d bytes arrived with %d bytes of payload, want %d", p.Name, mtu, len(got), size)
		}
	}
}

// bulk keeps connections full of data until the function that it returns is called, which wants every one to move
// still.
func bulk(t *testing.T, paths []traffic.Path) func() {
	t.Helper()
	var conns []net.Conn
	moved := make([]chan struct{}, len(paths))
	for i, p := range paths {
		conn := sink(t, p)
		conns = append(conns, conn)
		moved[i] = make(chan struct{}, 1)
		go func() {
			data := make([]byte, 64<<10)
			for {
				if _, err := conn.Write(data); err != nil {
					return
				}
				select {
				case moved[i] <- struct{}{}:
				default:
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	return func() {
		t.Helper()
		for i, p := range paths {
			for range 20 { // more than buffers hold: it is read, too
				select {
				case <-moved[i]:
				case <-time.After(20 * time.Second):
					t.Fatalf("%s: the connection does not move any more", p.Name)
				}
			}
		}
		for _, conn := range conns {
			conn.Close()
		}
	}
}

// sink connects to somebody who reads everything.
func sink(t *testing.T, p traffic.Path) net.Conn {
	t.Helper()
	var l net.Listener
	err := p.To.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(p.To.Addr, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := l.Accept()
		l.Close()
		if err == nil {
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	var conn net.Conn
	err = p.From.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", l.Addr().String(), 10*time.Second)
		return err
	})
	if err != nil {
		l.Close()
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
