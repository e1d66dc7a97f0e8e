package lab_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
)

// apply writes a manifest into a lab's folder, in one step. An empty text takes it away.
func apply(t testing.TB, c *lab.Cluster, name, text string) {
	t.Helper()
	path := filepath.Join(c.Manifests(), name+".yaml")
	if text == "" {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	hidden := filepath.Join(c.Manifests(), "."+name)
	write(t, hidden, text)
	if err := os.Rename(hidden, path); err != nil {
		t.Fatal(err)
	}
}

// witness counts the datagrams and connections that reach a place at a port that nobody may reach.
type witness struct {
	packets  *net.UDPConn
	listener net.Listener
	running  sync.WaitGroup
	arrived  atomic.Int64
}

// watchDoor listens at an end until it is closed.
func watchDoor(t testing.TB, at traffic.End, port uint16) *witness {
	t.Helper()
	w := &witness{}
	here := netip.AddrPortFrom(at.Addr, port)
	err := at.Do(func() (err error) {
		if w.packets, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(here)); err == nil {
			w.listener, err = net.Listen("tcp", here.String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.running.Go(func() {
		for buf := make([]byte, 2048); ; {
			if _, _, err := w.packets.ReadFrom(buf); err != nil {
				return
			}
			w.arrived.Add(1)
		}
	})
	w.running.Go(func() {
		for {
			conn, err := w.listener.Accept()
			if err != nil {
				return
			}
			w.arrived.Add(1)
			conn.Close()
		}
	})
	return w
}

func (w *witness) close() {
	w.packets.Close()
	if w.listener != nil {
		w.listener.Close()
	}
	w.running.Wait()
}

// knock sends a datagram every few milliseconds, and begins a connection now and then, until stop is closed. It returns
// how many of them.
func knock(from traffic.End, to netip.AddrPort, stop <-chan struct{}) (sent int, err error) {
	var conn *net.UDPConn
	err = from.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from.Addr, 0)))
		return err
	})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return n, nil
		case <-time.After(5 * time.Millisecond):
		}
		if _, err := conn.WriteToUDPAddrPort(binary.BigEndian.AppendUint32(nil, uint32(n)), to); err != nil {
			return n, fmt.Errorf("knock at %s: %w", to, err)
		}
		if n%20 == 0 {
			from.Do(func() error {
				d := net.Dialer{Timeout: 30 * time.Millisecond, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from.Addr, 0))}
				if c, err := d.Dial("tcp", to.String()); err == nil {
					c.Close() // whoever accepted it has counted it
				}
				return nil
			})
		}
	}
}

// denied is who knocks where in vain.
type denied struct {
	name string
	from traffic.End
	to   traffic.End
	port uint16
}

// knocking is all that knocks.
type knocking struct {
	stop    chan struct{}
	running sync.WaitGroup
	doors   []*witness
	pairs   []denied
	sent    atomic.Int64
	errs    chan error
}

func startKnocking(t testing.TB, pairs []denied) *knocking {
	t.Helper()
	k := &knocking{stop: make(chan struct{}), pairs: pairs, errs: make(chan error, len(pairs))}
	doors := map[netip.AddrPort]*witness{}
	for _, p := range pairs {
		at := netip.AddrPortFrom(p.to.Addr, p.port)
		if doors[at] == nil {
			doors[at] = watchDoor(t, p.to, p.port)
		}
		k.doors = append(k.doors, doors[at])
		k.running.Go(func() {
			n, err := knock(p.from, at, k.stop)
			k.sent.Add(int64(n))
			k.errs <- err
		})
	}
	t.Cleanup(func() { k.end() })
	return k
}

// end stops and says what came through, and what could not even be sent.
func (k *knocking) end() (through []string) {
	select {
	case <-k.stop:
		return nil
	default:
	}
	close(k.stop)
	k.running.Wait()
	close(k.errs)
	for err := range k.errs {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			through = append(through, err.Error())
		}
	}
	for _, d := range k.doors {
		d.close() // some are the same, and closed again
	}
	for i, p := range k.pairs {
		if n := k.doors[i].arrived.Load(); n > 0 {
			through = append(through, fmt.Sprintf("%s: %d reached port %d of %s", p.name, n, p.port, p.to.Addr))
		}
	}
	return through
}

var errNotYet = errors.New("not yet")

// knockOnce knocks for a moment, and says where it came through.
func knockOnce(t *testing.T, pairs []denied) error {
	t.Helper()
	k := startKnocking(t, pairs)
	<-after(100)
	if through := k.end(); len(through) > 0 {
		return fmt.Errorf("%d doors are open: %s", len(through), through[0])
	}
	return nil
}
