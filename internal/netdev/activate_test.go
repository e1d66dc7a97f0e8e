package netdev

import (
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/testnet"
)

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
