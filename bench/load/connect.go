package load

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Latency is what connections took, in microseconds.
type Latency struct {
	P50, P99 float64
	Mean     float64 // of all but the slowest hundredth: that was somebody else on the processor
}

// Rate is connections a second.
func (l Latency) Rate() float64 { return 1e6 / l.Mean }

// Ports is how many ports in a row a Connect server listens on, and an end of the measurement's on the one after them.
const Ports = 10

// mostConnections bounds a measurement: what connections leave behind in the kernel's or Polder's tables, for ten seconds
// or a minute, must fit into them.
const mostConnections = 20000

// serveConnect takes connections and lets go of them.
func serveConnect(j job) (reply, error) {
	var listeners []unix.PollFd
	for i := range Ports + 1 {
		l, err := listen(netip.AddrPortFrom(j.server.Addr(), j.server.Port()+uint16(i)))
		if err == nil {
			err = unix.Listen(int(l), 4096) // a longer queue than most servers need: here, nobody may be refused
		}
		if err != nil {
			return reply{}, err
		}
		listeners = append(listeners, unix.PollFd{Fd: int32(l), Events: unix.POLLIN})
	}
	announce()
	m, err := begin()
	if err != nil {
		return reply{}, err
	}
	for listeners[Ports].Revents == 0 {
		if n, err := unix.Poll(listeners, int(stuck.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return reply{}, fmt.Errorf("wait for connections: %w", err)
		} else if n == 0 {
			return reply{}, errors.New("wait for connections: nobody comes")
		}
		for _, l := range listeners[:Ports] {
			if l.Revents != 0 {
				c, err := socket(l.Fd).accept()
				if err != nil {
					return reply{}, err
				}
				c.close()
			}
		}
	}
	return m.end(reply{})
}

// requestConnect connects by way of Services, to the server itself, or both in turn.
func requestConnect(j job) (reply, error) {
	direct := make([]netip.AddrPort, Ports)
	for i := range direct {
		direct[i] = netip.AddrPortFrom(j.server.Addr(), j.server.Port()+uint16(i))
	}
	ways := [2][]netip.AddrPort{direct, j.via.list()}
	if j.kind == Connect && j.via.Count > 0 {
		ways[0] = nil
	}
	var took [2][]float64
	count := 0
	work := func() error {
		if count >= mostConnections {
			time.Sleep(time.Millisecond)
			return nil
		}
		for i, way := range ways {
			if len(way) == 0 {
				continue
			}
			one, err := connectOnce(way[count%len(way)])
			if err != nil {
				return err
			}
			took[i] = append(took[i], one)
		}
		count++
		return nil
	}
	r, err := j.measure(8, work)
	if err != nil {
		return r, err
	}
	r.Direct, r.Service = latencyOf(took[0]), latencyOf(took[1])
	return r, j.endConnects()
}

// endConnects tells the server that this was all.
func (j job) endConnects() error {
	end := netip.AddrPortFrom(j.server.Addr(), j.server.Port()+Ports)
	c, err := dial(end, sockaddr(end))
	if err == nil {
		c.close()
	}
	return err
}

// connectOnce says how many microseconds it took. The connection is cut, so that no port is kept.
func connectOnce(to netip.AddrPort) (float64, error) {
	s, err := newSocket(family(to.Addr()), unix.SOCK_STREAM, 0)
	if err != nil {
		return 0, err
	}
	defer s.close()
	if err := unix.SetsockoptLinger(int(s), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, fmt.Errorf("set linger: %w", err)
	}
	a := sockaddr(to)
	began := time.Now()
	err = unix.Connect(int(s), a)
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("connect to %s: %w", to, err)
	}
	return float64(took.Nanoseconds()) / 1e3, nil
}

func latencyOf(took []float64) (l Latency) {
	if len(took) == 0 {
		return l
	}
	slices.Sort(took)
	most := took[:max(1, len(took)*99/100)]
	for _, t := range most {
		l.Mean += t / float64(len(most))
	}
	l.P50, l.P99 = took[len(took)/2], most[len(most)-1]
	return l
}
