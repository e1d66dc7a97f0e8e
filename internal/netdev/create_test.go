package netdev

import (
	"errors"
	"net"
	"net/netip"
	"reflect"
	"slices"
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
