package netdev

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

const (
	settleTimeout = 2 * time.Second
	settlePause   = 50 * time.Microsecond
)

// Route is a route inside a pod.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr // zero: the pod's gateway
	MTU int        // 0: the link's
}

// ActivatePod sets both ends up and gives the pod its routes: a default route in each family that it has an address
// in, and extra ones. An extra default route takes the place of the pod's own. A default route that the pod has
// already, by another interface, stays: the first interface wins, as with every CNI plugin. When it returns, the pod
// can use its addresses. After an error the link is still there, for DeletePod.
func (k *Kernel) ActivatePod(p cluster.LocalPod, netns *os.File, extra []Route) error {
	if err := k.do(setUp(p.Index)); err != nil {
		return fmt.Errorf("activate link %s: %w", p.Link, err)
	}
	err := inPod(netns, func(c *conn) error {
		index, err := c.indexOf(p.Ifname)
		if err != nil {
			return err
		}
		messages := []*message{setUp(index)}
		routes := withDefaults(p, extra)
		for _, r := range routes {
			if r.Via != Gateway(r.Via.Is4()) {
				messages = append(messages, putNeighbour(index, r.Via, p.HostMAC))
			}
		}
		first := len(messages)
		for _, r := range routes {
			messages = append(messages, podRoute(index, r))
		}
		replies, err := c.batch(messages)
		if err != nil {
			return err
		}
		for i, r := range replies {
			if r.err != nil && !(i >= first && errors.Is(r.err, unix.EEXIST) && routes[i-first].Dst.Bits() == 0) {
				return r.err
			}
		}
		return c.settle(p.Addresses)
	})
	if err != nil {
		return fmt.Errorf("activate interface %s in the pod: %w", p.Ifname, err)
	}
	return nil
}

// settle waits until the kernel takes in packets for the addresses. For an IPv6 address it does only once a work queue
// got to it (addrconf_dad_work), even without duplicate address detection; a pod that starts at once would lose the
// first answer it gets, and wait a second for the next.
func (c *conn) settle(addrs []netip.Addr) error {
	var waiting []netip.Addr
	for _, a := range addrs {
		if a.Is6() {
			waiting = append(waiting, a)
		}
	}
	for deadline := time.Now().Add(settleTimeout); len(waiting) > 0; pause(settlePause) {
		found, err := c.lookups(waiting)
		if err != nil {
			return err
		}
		waiting = slices.DeleteFunc(waiting, func(a netip.Addr) bool { return found[a].kind == unix.RTN_LOCAL })
		if len(waiting) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("address %s did not become usable within %s", waiting[0], settleTimeout)
		}
	}
	return nil
}

// pause sleeps on the thread: time.Sleep rounds up to a millisecond when the process is idle, as its poller does.
func pause(d time.Duration) {
	ts := unix.NsecToTimespec(d.Nanoseconds())
	unix.Nanosleep(&ts, nil) // cut short by a signal is fine
}

// inPod runs fn with a socket in a pod's namespace.
func inPod(netns *os.File, fn func(c *conn) error) error {
	var c *conn
	err := visit(netns, func() (err error) {
		c, err = dial()
		return err
	})
	if err != nil {
		return err
	}
	defer c.close()
	return fn(c)
}

func withDefaults(p cluster.LocalPod, extra []Route) []Route {
	missing := map[bool]bool{}
	for _, ipv4 := range families(p) {
		missing[ipv4] = true
	}
	var routes []Route
	for _, r := range extra {
		if r.Dst.Bits() == 0 {
			missing[r.Dst.Addr().Is4()] = false
		}
		if !r.Via.IsValid() {
			r.Via = Gateway(r.Dst.Addr().Is4())
		}
		routes = append(routes, r)
	}
	for _, ipv4 := range families(p) {
		if missing[ipv4] {
			gw := Gateway(ipv4)
			any := netip.IPv6Unspecified()
			if ipv4 {
				any = netip.IPv4Unspecified()
			}
			routes = append(routes, Route{Dst: netip.PrefixFrom(any, 0), Via: gw})
		}
	}
	return routes
}

// podRoute is a route inside a pod. The next hop is said to be on the link: no address of the pod's makes it so.
func podRoute(index int, r Route) *message {
	m := newMessage(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, rtBody{
		family: family(r.Dst.Addr().Is4()), dstLen: uint8(r.Dst.Bits()), table: unix.RT_TABLE_MAIN,
		protocol: Protocol, scope: unix.RT_SCOPE_UNIVERSE, kind: unix.RTN_UNICAST, flags: unix.RTNH_F_ONLINK,
	}.bytes())
	if r.Dst.Bits() > 0 {
		m.addr(unix.RTA_DST, r.Dst.Masked().Addr())
	}
	m.addr(unix.RTA_GATEWAY, r.Via).u32(unix.RTA_OIF, uint32(index))
	if r.MTU > 0 {
		m.nest(unix.RTA_METRICS, func(m *message) { m.u32(unix.RTAX_MTU, uint32(r.MTU)) })
	}
	return m
}
