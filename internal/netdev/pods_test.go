package netdev

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/testnet"
)

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

func TestAListThatChangesWhileItIsReadIsStillWhole(t *testing.T) {
	const n = 40
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	for i := range n {
		p := aPod("c1")
		p.Ifname, p.Addresses = fmt.Sprint("eth", i), []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})}
		attach(t, k, p, pod)
	}
	stop := make(chan struct{})
	var churn sync.WaitGroup
	churn.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			p := aPod(fmt.Sprint("passing-", i))
			p.Ifname, p.Addresses = "net0", addrs("10.1.1.1")
			p, err := k.CreatePod(p, pod.File())
			if err == nil {
				err = k.DeletePod(p.Link)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 50 {
		pods, _, err := k.Pods()
		if err != nil {
			t.Error(err)
			break
		}
		if pods = slices.DeleteFunc(pods, func(p cluster.LocalPod) bool { return p.Ifname == "net0" }); len(pods) != n {
			t.Errorf("%d pods are listed of %d", len(pods), n)
		}
	}
	close(stop)
	churn.Wait()
}
