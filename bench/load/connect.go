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

// paced is how many connections a second Connect makes, in bursts. What connections leave behind in tables, in the
// kernel's for ten seconds and in Polder's for a minute, is not to be what is measured, and no address and port is to come
// again meanwhile: the client takes 50,000 ports in turn, from Flows on.
const (
	paced     = 1500
	burst     = 32
	firstPort = 10000
	lastPort  = 60000
)

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
	c := connector{job: j, ways: [2][]netip.AddrPort{j.ports(), j.via.list()}}
	if j.kind == Connect && j.via.Count > 0 {
		c.ways[0] = nil
	}
	r, err := j.measure(burst, c.next)
	if err != nil {
		return r, err
	}
	r.Direct, r.Service = latencyOf(c.took[0]), latencyOf(c.took[1])
	return r, j.endConnects()
}

// ports are all that the server listens on.
func (j job) ports() []netip.AddrPort {
	all := make([]netip.AddrPort, Ports)
	for i := range all {
		all[i] = netip.AddrPortFrom(j.server.Addr(), j.server.Port()+uint16(i))
	}
	return all
}

// connector makes connections, and remembers how many microseconds each took.
type connector struct {
	job
	ways  [2][]netip.AddrPort // direct, by Services
	took  [2][]float64
	count int
}

func (c *connector) next() error {
	port := uint16(0)
	if c.kind == Connect {
		port = uint16(firstPort + (c.flows+c.count)%(lastPort-firstPort))
		if c.count%burst == 0 {
			time.Sleep(time.Second * burst / paced)
		}
	}
	for i, way := range c.ways {
		if len(way) == 0 {
			continue
		}
		one, err := connectOnce(netip.AddrPortFrom(c.own, port), way[c.count%len(way)])
		if err != nil {
			return err
		}
		c.took[i] = append(c.took[i], one)
	}
	c.count++
	return nil
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

// connectOnce connects from an address, from its port unless that is 0, and says how many microseconds it took. The connection is cut, so that no port is kept.
func connectOnce(from, to netip.AddrPort) (float64, error) {
	s, err := newSocket(family(to.Addr()), unix.SOCK_STREAM, 0)
	if err != nil {
		return 0, err
	}
	defer s.close()
	if err := unix.SetsockoptLinger(int(s), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, fmt.Errorf("set linger: %w", err)
	}
	if from.Port() != 0 {
		if err := unix.Bind(int(s), sockaddr(from)); err != nil {
			return 0, fmt.Errorf("bind %s: %w", from, err)
		}
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

// Connections is how many a Connect makes, at most.
func Connections(s Spec) int { return int(paced*(s.Time+warmUp).Seconds()) + 2*burst }
