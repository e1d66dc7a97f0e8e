package lab_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
)

// datagramsOf is a program that asks by datagrams again and again, on a socket that it keeps.
type datagramsOf struct {
	what string
	*client
	to        netip.AddrPort
	connected bool
	conn      *net.UDPConn
}

// ask asks once. A socket that the kernel closed, since its backend is gone, is opened anew, as programs do.
func (d *datagramsOf) ask() (string, error) {
	if d.conn == nil {
		conn, err := d.open()
		if err != nil {
			return "", err
		}
		d.conn = conn
	}
	name, err := d.exchange()
	if err != nil && !isTimeout(err) && d.connected {
		d.conn.Close()
		d.conn = nil
	}
	return name, err
}

func (d *datagramsOf) open() (*net.UDPConn, error) {
	if !d.connected {
		family := 0
		if d.to.Addr().Is6() {
			family = 1
		}
		return d.datagrams(d.addrs[family])
	}
	conn, err := d.dial("udp", netip.Addr{}, d.to, patience)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

func (d *datagramsOf) exchange() (string, error) {
	var err error
	if d.connected {
		_, err = d.conn.Write([]byte("who\n"))
	} else {
		_, err = d.conn.WriteToUDPAddrPort([]byte("who\n"), d.to)
	}
	if err != nil {
		return "", err
	}
	b := make([]byte, 256)
	d.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	n, from, err := d.conn.ReadFromUDPAddrPort(b)
	if err != nil {
		return "", err
	}
	if from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); from != d.to {
		return "", fmt.Errorf("the answer is from %s, not %s", from, d.to)
	}
	name, _, _ := strings.Cut(string(b[:n]), " ")
	return name, nil
}

// datagramPrograms are programs of all clients, connected and not.
func (p *proxy) datagramPrograms(s lab.Service) []*datagramsOf {
	var all []*datagramsOf
	for family, i := range families() {
		for _, c := range p.clients() {
			for what, to := range p.frontends(s, c, i) {
				for _, connected := range []bool{true, false} {
					all = append(all, &datagramsOf{fmt.Sprintf("%s, %s, %s, connected %t", c.Name, what, family, connected), c, to[1], connected, nil})
				}
			}
		}
	}
	p.t.Cleanup(func() {
		for _, d := range all {
			if d.conn != nil {
				d.conn.Close()
			}
		}
	})
	return all
}

// comeTo wants all programs to be answered by one backend soon, and by no other from then on; empty: to be refused, which
// a socket that is not connected need not be told.
func comeTo(t *testing.T, programs []*datagramsOf, backend string) {
	t.Helper()
	var all sync.WaitGroup
	var slowest atomic.Int64
	for _, d := range programs {
		all.Go(func() {
			began := time.Now()
			for right := 0; right < 5; {
				name, err := d.ask()
				switch {
				case err == nil && name == backend, backend == "" && err != nil && (!isTimeout(err) || !d.connected):
					right++
					if right == 1 {
						slowest.Store(max(slowest.Load(), int64(time.Since(began))))
					}
				case right > 0 && err == nil:
					t.Errorf("%s: %s answers after %s has", d.what, name, backend)
					return
				case time.Since(began) > patience:
					t.Errorf("%s: %q answers, %v; want %q", d.what, name, err, backend)
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	all.Wait()
	t.Logf("all programs come to %q; the last after %s", backend, time.Duration(slowest.Load()).Round(time.Millisecond))
}

func TestDatagramsGoToAnotherBackendWhenTheirsIsGone(t *testing.T) {
	eachWay(t, func(t *testing.T, p *proxy) {
		pods := p.backends("web", "node-1", "node-2", "node-3")
		s := p.service(lab.ServiceOptions{Name: "web", Type: "NodePort"})
		p.servedBy("web", 3)
		programs := p.datagramPrograms(s)
		for _, d := range programs {
			eventually(t, time.Minute, d.what+" gets an answer", func() error { _, err := d.ask(); return err })
		}
		ready := func(name string, is bool) {
			if err := p.SetPodReady(name, is); err != nil {
				t.Fatal(err)
			}
		}
		deleted := func(name string) {
			if err := p.DeletePod(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		t.Log("others are not ready")
		ready("web-1", false)
		ready("web-2", false)
		p.servedBy("web", 1)
		comeTo(t, programs, "web-3")
		t.Log("a backend is deleted")
		ready("web-2", true)
		p.servedBy("web", 2)
		deleted("web-3")
		p.servedBy("web", 1)
		comeTo(t, programs, "web-2")
		t.Log("none is left")
		ready("web-2", false)
		p.servedBy("web", 0)
		comeTo(t, programs, "")
		ready("web-1", true)
		p.servedBy("web", 1)
		comeTo(t, programs, "web-1")
		t.Log("the target port is another")
		answerAs(t, pods[0].Place, backendPort+1, "moved")
		p.edit(s, func(spec map[string]any) {
			for _, port := range spec["ports"].([]any) {
				port.(map[string]any)["targetPort"] = backendPort + 1
			}
		})
		comeTo(t, programs, "moved")
	})
}

// answerAs answers datagrams at a port of a place with a name, until the test ends.
func answerAs(t *testing.T, at lab.Place, port int, name string) {
	t.Helper()
	var conn *net.UDPConn
	err := at.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		conn.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		b := make([]byte, 64)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				conn.WriteToUDPAddrPort([]byte(name+" "+from.String()+"\n"), from)
			}
		}
	}()
}
