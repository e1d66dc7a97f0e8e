package netdev

import (
	"reflect"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/testnet"
)

// behind takes over a link that another plugin has made.
func behind(t *testing.T, k *Kernel, p cluster.LocalPod, pod *testnet.NS) cluster.LocalPod {
	t.Helper()
	found, err := k.FindPod(pod.File(), p.Ifname)
	if err != nil {
		t.Fatal(err)
	}
	p.Link, p.Index, p.Up, p.HostMAC, p.PodMAC, p.MTU = found.Link, found.Index, found.Up, found.HostMAC, found.PodMAC, found.MTU
	p.Behind = true
	if err := k.WriteRecord(p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestALinkOfAnotherPluginIsKnownByItsRecordAlone(t *testing.T) {
	host, pod, own := testnet.New(t), testnet.New(t), testnet.New(t)
	k := open(t, host)
	testnet.Pair(t, host, "veth1234abcd", pod, "eth0")
	p := behind(t, k, aPod("c1"), pod)
	if p.Link != "veth1234abcd" || p.Index != linkOf(t, host, p.Link).Attrs().Index || !p.Up ||
		p.PodMAC != cluster.MAC(linkOf(t, pod, "eth0").Attrs().HardwareAddr) {
		t.Fatalf("found is %+v", p)
	}
	q := aPod("c2")
	q.Addresses = addrs("10.1.0.9")
	attach(t, k, q, own)
	pods, unfinished, err := k.Pods()
	if err != nil || len(unfinished) > 0 || len(pods) != 2 || !reflect.DeepEqual(pods[1], p) {
		t.Fatalf("listed are %+v, %q, %v", pods, unfinished, err)
	}
	if err := k.CheckBehind(p, pod.File()); err != nil {
		t.Error(err)
	}
	if err := k.DeletePod(p.Link); err == nil {
		t.Error("a link of another plugin is deleted")
	}
	if err := k.ReleasePod(p); err != nil {
		t.Error(err)
	}
	if err := k.CheckBehind(p, pod.File()); err == nil {
		t.Error("without a record all is well")
	}
	if pods, _, err := k.Pods(); err != nil || len(pods) != 1 {
		t.Errorf("after its release, listed are %+v, %v", pods, err)
	}
	if has, err := k.HasLink(p.Link, p.Index); err != nil || !has {
		t.Errorf("its link is gone: %v", err)
	}
}

func TestADamagedRecordOfAnotherPluginsPodKeepsItsAddresses(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	testnet.Pair(t, host, "vethx", pod, "eth0")
	pod.Addr("eth0", "10.1.0.7/24")
	p := behind(t, k, aPod("c1"), pod)
	in(t, host, func() error { return setAlias(t, host, p.Link, linkOf(t, host, p.Link).Attrs().Alias+"x") })
	pods, _, err := k.Pods()
	if err != nil || len(pods) != 1 || !pods[0].Damaged || !pods[0].Behind || !slices.Equal(pods[0].Addresses, addrs("10.1.0.7")) {
		t.Fatalf("listed are %+v, %v", pods, err)
	}
	if len(pods[0].Holds()) > 0 {
		t.Errorf("it holds %v", pods[0].Holds())
	}
}

func TestAnInterfaceWithoutAnEndHereCannotBeGuarded(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	in(t, pod, func() error {
		return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, VxlanId: 7})
	})
	_, err := k.FindPod(pod.File(), "eth0")
	wantError(t, err, ErrNoEnd)
	testnet.Pair(t, testnet.New(t), "far", pod, "eth1") // its other end is in a third namespace
	_, err = k.FindPod(pod.File(), "eth1")
	wantError(t, err, ErrNoEnd)
	_, err = k.FindPod(pod.File(), "eth2")
	wantError(t, err, ErrNotFound)
}
