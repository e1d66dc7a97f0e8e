package netdev

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
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
		if !got.Damaged || !slices.Equal(got.Addresses, p.Addresses) || len(got.Held) > 0 || got.PodMAC != p.PodMAC || got.Ifname != "eth0" || got.ContainerID != "" {
			t.Errorf("record %q: pod is %+v", alias, got)
		}
	}
}

// Whatever is left of a record, the link and its addresses are listed: nobody else may get them.
func TestNoDamageToARecordLosesAnAddress(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := attach(t, k, aPod("c1"), pod)
	record, err := encodeRecord(p)
	if err != nil {
		t.Fatal(err)
	}
	texts := []string{"", "\x00", " ", "junk", "\xff\xfe\x01\x7f", strings.Repeat("x", 255), "pdr3" + record[4:]}
	for i := range record {
		flipped := []byte(record)
		flipped[i] ^= 0xff
		texts = append(texts, record[:i], string(flipped), record[:i]+"\x00"+record[i:])
	}
	for _, up := range []bool{true, false} {
		for _, text := range texts {
			in(t, host, func() error { return setAlias(t, host, p.Link, text) })
			pods, unfinished, err := k.Pods()
			if err != nil || len(unfinished) > 0 || len(pods) != 1 || !pods[0].Damaged || !slices.Equal(pods[0].Holds(), p.Addresses) {
				t.Fatalf("record %q, up %t: listed are %+v, %q, %v", text, up, pods, unfinished, err)
			}
		}
		in(t, host, func() error { return netlink.LinkSetDown(linkOf(t, host, p.Link)) })
	}
}

// A pod may give itself addresses. With its record damaged, they must not become its own for it.
func TestADamagedPodGetsNoMoreThanTheNodeDelivers(t *testing.T) {
	host, pod, other := testnet.New(t), testnet.New(t), testnet.New(t)
	k := open(t, host)
	p := attach(t, k, aPod("c1"), pod)
	q := aPod("c2")
	q.Addresses = addrs("10.1.0.9")
	attach(t, k, q, other)
	for _, own := range []string{"10.1.0.8/32", "10.1.0.9/32", "172.20.0.1/16"} {
		pod.Addr("eth0", own)
	}
	in(t, host, func() error { return setAlias(t, host, p.Link, "junk") })
	damaged := func() cluster.LocalPod {
		t.Helper()
		pods, _, err := k.Pods()
		if err != nil || len(pods) != 2 {
			t.Fatalf("%+v, %v", pods, err)
		}
		return pods[slices.IndexFunc(pods, func(p cluster.LocalPod) bool { return p.Damaged })]
	}
	if got := damaged(); !slices.Equal(got.Addresses, p.Addresses) || !slices.Equal(got.Held, addrs("10.1.0.8")) {
		t.Errorf("with routes: %+v", got)
	}
	in(t, host, func() error { return flushRoutes(t) })
	if got := damaged(); !slices.Equal(got.Addresses, addrs("10.1.0.7", "10.1.0.8", "fd00:1::7")) || len(got.Held) > 0 {
		t.Errorf("without: %+v", got)
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
