package netdev

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/testnet"
)

func TestAPodsLinkHasEverythingOnBothEnds(t *testing.T) {
	for name, list := range map[string][]netip.Addr{
		"dual stack": addrs("10.1.0.7", "fd00:1::7"), "IPv4": addrs("10.1.0.7"), "IPv6": addrs("fd00:1::7"),
	} {
		t.Run(name, func(t *testing.T) {
			host, pod := testnet.New(t), testnet.New(t)
			k := open(t, host)
			p := aPod("c1")
			p.Addresses = list
			p = attach(t, k, p, pod)

			far := linkOf(t, pod, "eth0").Attrs()
			near := linkOf(t, host, p.Link).Attrs()
			if near.MTU != 1450 || far.MTU != 1450 || near.Index != p.Index || near.ParentIndex != far.Index {
				t.Errorf("ends are %+v and %+v", near, far)
			}
			if near.HardwareAddr.String() != "ee:ee:ee:ee:ee:ee" || far.HardwareAddr.String() != net.HardwareAddr(p.PodMAC[:]).String() {
				t.Errorf("MAC addresses are %s and %s, want %x", near.HardwareAddr, far.HardwareAddr, p.PodMAC)
			}
			in(t, pod, func() error {
				held, err := netlink.AddrList(linkOf(t, pod, "eth0"), netlink.FAMILY_ALL)
				var got []netip.Addr
				for _, h := range held {
					a, _ := netip.AddrFromSlice(h.IP)
					if ones, size := h.Mask.Size(); !a.IsLinkLocalUnicast() && ones == size {
						got = append(got, a.Unmap())
						if h.Flags&unix.IFA_F_TENTATIVE != 0 {
							t.Errorf("address %s is not usable yet", h.IP)
						}
					}
				}
				if !slices.Equal(got, list) {
					t.Errorf("addresses are %v, want %v", got, list)
				}
				return err
			})
			pods, unfinished, err := k.Pods()
			if err != nil || len(unfinished) > 0 || len(pods) != 1 || !reflect.DeepEqual(pods[0], p) {
				t.Errorf("listed are %+v, %q, %v; want %+v", pods, unfinished, err, p)
			}
			if err := k.CheckPod(p, pod.File()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAPodReachesItsNodeAndOtherPodsAndTheyIt(t *testing.T) {
	host, one, two := testnet.New(t), testnet.New(t), testnet.New(t)
	k := open(t, host)
	device(t, host, "up0", "192.168.7.1/24", "fd00:7::1/64")
	in(t, host, func() error {
		return errors.Join(writeSysctl("net/ipv4/ip_forward", "1"), writeSysctl("net/ipv6/conf/all/forwarding", "1"))
	})
	p := attach(t, k, aPod("c1"), one)
	other := aPod("c2")
	other.Addresses = addrs("10.1.0.8", "fd00:1::8")
	q := attach(t, k, other, two)
	for i := range p.Addresses {
		own := addrs("192.168.7.1", "fd00:7::1")[i]
		talk(t, one, two, q.Addresses[i], p.Addresses[i])
		talk(t, two, one, p.Addresses[i], q.Addresses[i])
		talk(t, host, one, p.Addresses[i], netip.Addr{})
		talk(t, one, host, own, p.Addresses[i])
	}
}

// talk sends a line over TCP; the receiver must see the sender's own address, where one is given.
func talk(t *testing.T, from, to *testnet.NS, dst, src netip.Addr) {
	t.Helper()
	var l net.Listener
	in(t, to, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(dst, 7777).String())
		return err
	})
	defer l.Close()
	in(t, from, func() error {
		c, err := net.Dial("tcp", netip.AddrPortFrom(dst, 7777).String())
		if err != nil {
			return err
		}
		return c.Close()
	})
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr(); src.IsValid() && got != src {
		t.Errorf("%s sees %s, not %s", dst, got, src)
	}
}

func TestNothingPassesBeforeActivation(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p, err := k.CreatePod(aPod("c1"), pod.File())
	if err != nil {
		t.Fatal(err)
	}
	if linkOf(t, host, p.Link).Attrs().Flags&net.FlagUp != 0 || linkOf(t, pod, "eth0").Attrs().Flags&net.FlagUp != 0 {
		t.Error("an end is up")
	}
	if pods, _, err := k.Pods(); err != nil || len(pods) != 1 || pods[0].Up {
		t.Errorf("listed are %+v, %v", pods, err)
	}
}

func TestAPodWithoutIPv6AddressSpeaksNoIPv6(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := aPod("c1")
	p.Addresses = addrs("10.1.0.7")
	p = attach(t, k, p, pod)
	for ns, name := range map[*testnet.NS]string{host: p.Link, pod: "eth0"} {
		in(t, ns, func() error {
			held, err := netlink.AddrList(linkOf(t, ns, name), netlink.FAMILY_V6)
			if len(held) > 0 {
				t.Errorf("%s has %v", name, held)
			}
			return err
		})
	}
}

func TestAHostSideTakesNoRouterAdvertisement(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	p := attach(t, open(t, host), aPod("c1"), pod)
	in(t, host, func() error {
		v, err := readSysctl("net/ipv6/conf/" + p.Link + "/accept_ra")
		if v != "0" {
			t.Errorf("accept_ra is %s", v)
		}
		return err
	})
}

func TestAPodWhoseNamespaceHasIPv6OffByDefaultGetsItsAddress(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	in(t, pod, func() error { return writeSysctl("net/ipv6/conf/default/disable_ipv6", "1") })
	in(t, host, func() error { return writeSysctl("net/ipv6/conf/default/disable_ipv6", "1") })
	k := open(t, host)
	p := attach(t, k, aPod("c1"), pod)
	if err := k.CheckPod(p, pod.File()); err != nil {
		t.Error(err)
	}
}

func TestAnInterfaceThatThePodHasAlreadyIsAnErrorOfItsOwn(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	device(t, pod, "eth0")
	_, err := k.CreatePod(aPod("c1"), pod.File())
	wantError(t, err, ErrExists)
	if names := linkNames(t, host); len(names) > 0 {
		t.Errorf("links left behind: %v", names)
	}
	if names := linkNames(t, pod); !slices.Equal(names, []string{"eth0"}) {
		t.Errorf("the pod's own links are %v", names)
	}
}

func TestTheSameAttachmentTwiceIsAnErrorAndHarmsNothing(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := attach(t, k, aPod("c1"), pod)
	again := aPod("c1")
	again.Addresses = addrs("10.1.0.99")
	_, err := k.CreatePod(again, pod.File())
	wantError(t, err, ErrAttached)
	if err := k.CheckPod(p, pod.File()); err != nil {
		t.Error(err)
	}
}

func TestAnIPv6AddressOnAKernelWithoutIPv6IsAClearError(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	k.ipv6 = false // as Open finds it without /proc/sys/net/ipv6
	_, err := k.CreatePod(aPod("c1"), pod.File())
	wantError(t, err, ErrNoIPv6)
	p := aPod("c2")
	p.Addresses = addrs("10.1.0.7")
	attach(t, k, p, pod)
}

func TestTheNodesOwnNamespaceIsNoPods(t *testing.T) {
	host := testnet.New(t)
	k := open(t, host)
	_, err := k.CreatePod(aPod("c1"), host.File())
	wantError(t, err, ErrOwnNamespace)
	if names := linkNames(t, host); len(names) > 0 {
		t.Errorf("links left behind: %v", names)
	}
}

func TestAnMTUTooSmallForIPv6IsAnErrorForAPodThatHasItAlone(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := aPod("c1")
	p.MTU = 1230
	_, err := k.CreatePod(p, pod.File())
	wantError(t, err, unix.EINVAL)
	p.Addresses = addrs("10.1.0.7")
	p = attach(t, k, p, pod)
	if err := k.CheckPod(p, pod.File()); err != nil {
		t.Error(err)
	}
}

// steps are those of CreatePod.
func steps() []string { return []string{"created", "recorded", "host furnished", "pod furnished"} }

func TestAnAdditionThatFailsAtAnyStepLeavesNothing(t *testing.T) {
	boom := errors.New("boom")
	for _, at := range steps() {
		t.Run(at, func(t *testing.T) {
			host, pod := testnet.New(t), testnet.New(t)
			k := open(t, host)
			k.step = func(name string) error {
				if name == at {
					return boom
				}
				return nil
			}
			_, err := k.CreatePod(aPod("c1"), pod.File())
			wantError(t, err, boom)
			if names := append(linkNames(t, host), linkNames(t, pod)...); len(names) > 0 {
				t.Errorf("links left behind: %v", names)
			}
			k.step = nil
			attach(t, k, aPod("c1"), pod)
		})
	}
}

func TestAnInterfaceThatVanishesAtAnyStepIsAnErrorAndLeavesNothing(t *testing.T) {
	for _, at := range steps()[:3] {
		t.Run(at, func(t *testing.T) {
			host, pod := testnet.New(t), testnet.New(t)
			k := open(t, host)
			k.step = func(name string) error {
				if name == at {
					in(t, pod, func() error { return netlink.LinkDel(linkOf(t, pod, "eth0")) })
				}
				return nil
			}
			if _, err := k.CreatePod(aPod("c1"), pod.File()); err == nil {
				t.Error("no error")
			}
			if names := append(linkNames(t, host), linkNames(t, pod)...); len(names) > 0 {
				t.Errorf("links left behind: %v", names)
			}
		})
	}
}

// The runtime's end of the namespace goes away in the middle: what the agent holds keeps it alive until the call
// returns, and then it goes, with all that was made.
func TestANamespaceThatGoesAwayTakesTheLinkAlong(t *testing.T) {
	for _, at := range steps() {
		t.Run(at, func(t *testing.T) {
			host, pod := testnet.New(t), testnet.New(t)
			k := open(t, host)
			held, err := os.Open(pod.Path())
			if err != nil {
				t.Fatal(err)
			}
			k.step = func(name string) error {
				if name == at {
					pod.Close()
				}
				return nil
			}
			p, err := k.CreatePod(aPod("c1"), held)
			if err != nil {
				t.Fatal(err)
			}
			held.Close()
			eventually(t, "the link is gone", func() bool { return !slices.Contains(linkNames(t, host), p.Link) })
			if err := k.DeletePod(p.Link); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAKillAfterAnyStepIsSeenAtTheNextStart(t *testing.T) {
	for _, at := range steps() {
		t.Run(at, func(t *testing.T) {
			host, pod := testnet.New(t), testnet.New(t)
			k := open(t, host)
			// A killed agent is a list of what it had written: look from a second Kernel while the first stands still.
			k.step = func(name string) error {
				if name != at {
					return nil
				}
				pods, unfinished, err := open(t, host).Pods()
				if err != nil {
					t.Error(err)
				}
				if recorded := at != "created"; recorded != (len(pods) == 1) || recorded == (len(unfinished) == 1) {
					t.Errorf("pods %+v, unfinished %q", pods, unfinished)
				}
				return nil
			}
			if _, err := k.CreatePod(aPod("c1"), pod.File()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestARecordThatSomeoneOverwroteDoesNotUnmakeThePod(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := attach(t, k, aPod("c1"), pod)
	for _, alias := range []string{"uplink to rack 7", "", "polder1 polder c2 eth0 10.9.9.9"} {
		in(t, host, func() error { return setAlias(t, host, p.Link, alias) })
		pods, unfinished, err := k.Pods()
		if err != nil || len(unfinished) > 0 || len(pods) != 1 {
			t.Fatalf("record %q: listed are %+v, %q, %v", alias, pods, unfinished, err)
		}
		got := pods[0]
		if !slices.Equal(got.Addresses, p.Addresses) || got.PodMAC != p.PodMAC || got.Ifname != "eth0" || got.ContainerID != "" {
			t.Errorf("record %q: pod is %+v", alias, got)
		}
	}
}

// setAlias overwrites a link's record; the library cannot empty one.
func setAlias(t *testing.T, ns *testnet.NS, name, alias string) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	m := newMessage(unix.RTM_SETLINK, 0, linkBody(linkOf(t, ns, name).Attrs().Index, 0, 0)).raw(unix.IFLA_IFALIAS, []byte(alias))
	return firstError(c.batch([]*message{m}))
}

func TestOtherLinksAreNoPods(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	testnet.Pair(t, host, "pdrain0", pod, "eth7")
	in(t, host, func() error { // the right name, but no veth
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: LinkName("n", "c", "eth0")}, VxlanId: 7})
	})
	testnet.Pair(t, host, LinkName("n", "d", "eth0"), pod, "eth8")
	pods, unfinished, err := k.Pods()
	if err != nil || len(unfinished) > 0 {
		t.Fatalf("unfinished %q, %v", unfinished, err)
	}
	if len(pods) != 1 || pods[0].ContainerID != "" { // up, under our name, without a record: recovered
		t.Errorf("listed are %+v", pods)
	}
}

func TestExtraRoutesAreThereAndLeadThroughTheLink(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p, err := k.CreatePod(aPod("c1"), pod.File())
	if err != nil {
		t.Fatal(err)
	}
	extra := []Route{
		{Dst: prefix("172.16.0.0/12"), MTU: 1300}, {Dst: prefix("192.168.0.0/16"), Via: addr("10.1.0.1")},
		{Dst: prefix("fd99::/64")}, {Dst: prefix("::/0"), Via: addr("fd00:1::1")},
	}
	if err := k.ActivatePod(p, pod.File(), extra); err != nil {
		t.Fatal(err)
	}
	in(t, pod, func() error {
		routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: Protocol}, netlink.RT_FILTER_PROTOCOL)
		var got []string
		for _, r := range routes {
			got = append(got, strings.Join([]string{r.Dst.String(), r.Gw.String(), string(rune('0' + r.MTU/1000))}, " "))
		}
		slices.Sort(got)
		want := []string{"0.0.0.0/0 169.254.1.1 0", "172.16.0.0/12 169.254.1.1 1", "192.168.0.0/16 10.1.0.1 0",
			"::/0 fd00:1::1 0", "fd99::/64 fe80::1 0"}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("routes are %q, want %q", got, want)
		}
		return err
	})
	if err := k.CheckPod(p, pod.File()); err != nil {
		t.Error(err)
	}
}

func TestASecondInterfaceLeavesTheFirstOnesDefaultRoute(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	first := attach(t, k, aPod("c1"), pod)
	second := aPod("c1")
	second.Ifname, second.Addresses = "net1", addrs("10.1.0.8", "fd00:1::8")
	second = attach(t, k, second, pod)
	for _, p := range []struct {
		name string
		err  error
	}{{"first", k.CheckPod(first, pod.File())}, {"second", k.CheckPod(second, pod.File())}} {
		if p.err != nil {
			t.Errorf("%s: %v", p.name, p.err)
		}
	}
	if err := k.DeletePod(second.Link); err != nil {
		t.Fatal(err)
	}
	if err := k.CheckPod(first, pod.File()); err != nil {
		t.Error(err)
	}
}
