package lab_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/traffic"
)

// testMasquerade looks which address a receiver sees, inside the cluster and outside of it.
func testMasquerade(t *testing.T, w *world) {
	machine := newOutsider(t, w.Cluster)
	machine.Up("lo")
	kept := []netip.Addr{netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("2001:db8:51::9")}
	for i, a := range kept {
		machine.Addr("lo", netip.PrefixFrom(a, a.BitLen()).String())
		routeVia(t, w.near, netip.PrefixFrom(a, a.BitLen()), machine.addresses[i])
		routeVia(t, machine, w.near.Cluster().PodCIDRs[i], w.near.Cluster().Addresses[i])
	}
	outside := func(a netip.Addr) traffic.End { return traffic.End{Place: machine, Addr: a} }

	for i, family := range []string{"IPv4", "IPv6"} {
		pod := traffic.End{Place: w.one.Place, Addr: w.one.Addresses[i]}
		own, node := pod.Addr, w.near.Cluster().Addresses[i]
		for _, c := range []struct {
			name string
			from traffic.End
			to   traffic.End
			seen netip.Addr
		}{
			{"a pod to the world", pod, outside(machine.addresses[i]), node},
			{"a pod to where it is never masqueraded", pod, outside(kept[i]), own},
			{"a pod to a pod of its node", pod, traffic.End{Place: w.two.Place, Addr: w.two.Addresses[i]}, own},
			{"a pod to a neighbour's pod", pod, traffic.End{Place: w.native.Place, Addr: w.native.Addresses[i]}, own},
			{"a pod to a tunnelled pod", pod, traffic.End{Place: w.tunnelled.Place, Addr: w.tunnelled.Addresses[i]}, own},
			{"a pod to its node", pod, traffic.End{Place: w.near.Place, Addr: node}, own},
			{"a pod to a neighbour", pod, traffic.End{Place: w.neighbour.Place, Addr: w.neighbour.Cluster().Addresses[i]}, own},
			{"a pod to a far node", pod, traffic.End{Place: w.far.Place, Addr: w.far.Cluster().Addresses[i]}, own},
			{"the world to a pod", outside(machine.addresses[i]), pod, machine.addresses[i]},
			{"the world to a pod from another address", outside(kept[i]), pod, kept[i]},
		} {
			t.Run(c.name+" "+family, func(t *testing.T) {
				if seen, err := tcpSource(c.from, c.to); err != nil || seen != c.seen {
					t.Errorf("TCP: the receiver saw %s (%v), want %s", seen, err, c.seen)
				}
				if seen, err := udpSource(t, c.from, c.to); err != nil || seen != c.seen {
					t.Errorf("UDP: the receiver saw %s (%v), want %s", seen, err, c.seen)
				}
			})
		}
	}
}

// routeVia adds a route that is none of Polder's; it goes with the lab.
func routeVia(t *testing.T, at traffic.Place, to netip.Prefix, via netip.Addr) {
	t.Helper()
	err := at.Do(func() error {
		return netlink.RouteAdd(&netlink.Route{Gw: via.AsSlice(),
			Dst: &net.IPNet{IP: to.Masked().Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}})
	})
	if err != nil {
		t.Fatalf("add route to %s via %s: %v", to, via, err)
	}
}

// tcpSource connects, and returns the address that the receiver saw. The answer must come back.
func tcpSource(from, to traffic.End) (seen netip.Addr, err error) {
	var l net.Listener
	err = to.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(to.Addr, 0).String())
		return err
	})
	if err != nil {
		return seen, err
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			fmt.Fprint(conn, conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
			conn.Close()
		}
	}()
	err = from.Do(func() error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from.Addr, 0)), Timeout: 5 * time.Second}
		conn, err := d.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		if err == nil {
			seen, err = netip.ParseAddr(string(buf[:n]))
		}
		return err
	})
	return seen, err
}

// udpSource does so with a datagram. Whoever answers must be seen as the address that was asked.
func udpSource(t *testing.T, from, to traffic.End) (seen netip.Addr, err error) {
	receiver, sender := listenUDP(t, to), listenUDP(t, from)
	asked := netip.AddrPortFrom(to.Addr, portOf(receiver))
	if _, err := sender.WriteToUDPAddrPort([]byte("who am I"), asked); err != nil {
		return seen, err
	}
	buf := make([]byte, 64)
	receiver.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, source, err := receiver.ReadFromUDPAddrPort(buf)
	if err != nil {
		return seen, err
	}
	if _, err := receiver.WriteToUDPAddrPort([]byte("you"), source); err != nil {
		return seen, err
	}
	sender.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, answered, err := sender.ReadFromUDPAddrPort(buf)
	if err == nil && netip.AddrPortFrom(answered.Addr().Unmap(), answered.Port()) != asked {
		err = fmt.Errorf("the answer is from %s, want %s", answered, asked)
	}
	return source.Addr().Unmap(), err
}
