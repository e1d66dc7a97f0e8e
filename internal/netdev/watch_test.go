package netdev

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/testnet"
)

const quiet = 100 * time.Millisecond // without a signal: the kernel has said all it had to

// settle takes signals until none comes any more.
func settle(signals <-chan struct{}) {
	for {
		select {
		case <-signals:
		case <-time.After(quiet):
			return
		}
	}
}

func signalled(signals <-chan struct{}) bool {
	select {
	case <-signals:
		return true
	case <-time.After(5 * time.Second):
		return false
	}
}

func watch(t *testing.T, k *Kernel) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	signals, err := k.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		for range signals {
		}
	})
	return signals
}

func TestEachChangeByAForeignHandSignals(t *testing.T) {
	n := aNode(t)
	n.sync(t, n.tables())
	signals := watch(t, n.Kernel)
	up0, table := linkOf(t, n.ns, "up0"), &nftables.Table{Name: "polder", Family: nftables.TableFamilyINet}
	for _, c := range []struct {
		name string
		hand func() error
	}{
		{"MTU", func() error { return netlink.LinkSetMTU(up0, 1400) }},
		{"address", func() error { return netlink.AddrAdd(up0, &netlink.Addr{IPNet: ipNet("172.16.0.0/24")}) }},
		{"IPv6 address", func() error { return netlink.AddrAdd(up0, &netlink.Addr{IPNet: ipNet("fd33::/64")}) }},
		{"route", func() error {
			return netlink.RouteAdd(&netlink.Route{Dst: ipNet("172.17.0.0/16"), Gw: net.ParseIP("192.168.7.9")})
		}},
		{"IPv6 route of ours deleted", func() error {
			return netlink.RouteDel(&netlink.Route{Dst: ipNet("fd00:1:0:1::/64"), Protocol: Protocol})
		}},
		{"rule", func() error { return netlink.RuleDel(ruleFrom("10.1.0.0/24")) }},
		{"IPv6 rule", func() error { return netlink.RuleDel(ruleFrom("fd00:1::/64")) }},
		{"pod's neighbour deleted", func() error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: n.pod.Index, IP: net.ParseIP("10.1.0.7")})
		}},
		{"pod's neighbour changed", func() error {
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: n.pod.Index, IP: net.ParseIP("fd00:1::7"), State: netlink.NUD_PERMANENT,
				HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}})
		}},
		{"masquerade table", func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			c.FlushTable(table)
			return c.Flush()
		}},
		{"whole rule set", func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			c.FlushRuleset()
			return c.Flush()
		}},
		{"pod's link", func() error { return netlink.LinkDel(linkOf(t, n.ns, n.pod.Link)) }},
	} {
		settle(signals)
		in(t, n.ns, c.hand)
		if !signalled(signals) {
			t.Errorf("%s: no signal", c.name)
		}
	}
}

func TestWhatIsNoBusinessOfOursDoesNotSignal(t *testing.T) {
	n := aNode(t)
	n.sync(t, n.tables())
	signals := watch(t, n.Kernel)
	up0 := linkOf(t, n.ns, "up0").Attrs().Index
	for _, c := range []struct {
		name string
		hand func() error
	}{
		{"an uplink's neighbour", func() error {
			return netlink.NeighSet(&netlink.Neigh{LinkIndex: up0, IP: net.ParseIP("192.168.7.77"), State: netlink.NUD_STALE,
				HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}})
		}},
		{"another nftables table", func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			c.AddTable(&nftables.Table{Name: "theirs", Family: nftables.TableFamilyINet})
			return c.Flush()
		}},
		{"our own deletions and additions of routes and rules", func() error {
			without := n.tables()
			without.Rules, without.Routes = nil, nil
			if _, err := n.Sync(without); err != nil {
				return err
			}
			_, err := n.Sync(n.tables())
			return err
		}},
	} {
		// The kernel may still have something to say that it was slow about, but not again and again.
		noise := 0
		for range 5 {
			settle(signals)
			in(t, n.ns, c.hand)
			select {
			case <-signals:
				noise++
			case <-time.After(quiet):
			}
		}
		if noise == 5 {
			t.Errorf("%s: signals", c.name)
		}
	}
}

func TestAWatchSurvivesAnOverflow(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	device(t, ns, "up0")
	s := &source{k: k, protocol: unix.NETLINK_ROUTE, groups: bits(unix.RTNLGRP_IPV4_ROUTE), interesting: k.routeEvent}
	if err := s.open(); err != nil {
		t.Fatal(err)
	}
	raw, err := s.file.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 2048) })
	if err != nil {
		t.Fatal(err)
	}
	add := func(from, to int) {
		for i := from; i < to; i++ {
			dst := &net.IPNet{IP: net.IPv4(172, 16, byte(i>>8), byte(i)), Mask: net.CIDRMask(32, 32)}
			addRoute(t, ns, &netlink.Route{Dst: dst, LinkIndex: linkOf(t, ns, "up0").Attrs().Index, Scope: netlink.SCOPE_LINK})
		}
	}
	add(0, 200) // nobody reads: most are lost
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		s.run(ctx, signals)
		close(done)
	}()
	if !signalled(signals) {
		t.Error("no signal after an overflow")
	}
	settle(signals)
	add(200, 201)
	if !signalled(signals) {
		t.Error("no signal after the overflow was over")
	}
	cancel()
	<-done
}

func TestAWatchWhoseSocketFailsOpensAnother(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	device(t, ns, "up0")
	r, w, err := os.Pipe() // ends at once, as no socket should
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	s := &source{k: k, protocol: unix.NETLINK_ROUTE, groups: bits(unix.RTNLGRP_LINK), interesting: k.routeEvent, file: r}
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		s.run(ctx, signals)
		close(done)
	}()
	if !signalled(signals) {
		t.Error("no signal after a failure")
	}
	settle(signals)
	in(t, ns, func() error { return netlink.LinkSetMTU(linkOf(t, ns, "up0"), 1400) })
	if !signalled(signals) {
		t.Error("no signal from the new socket")
	}
	cancel()
	<-done
}

func TestAWatchEndsWithItsContext(t *testing.T) {
	k := open(t, testnet.New(t))
	ctx, cancel := context.WithCancel(context.Background())
	signals, err := k.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for range signals { // ends when the channel is closed
	}
}
