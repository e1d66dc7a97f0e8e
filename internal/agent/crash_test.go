package agent

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/ipam"
	"github.com/polder-net/polder/internal/testnet"
)

// withDatapath opens the node's pinned maps beside its agent.
func (n *node) withDatapath(do func(*datapath.Datapath)) {
	n.t.Helper()
	d, err := datapath.Open(n.cfg.Pins, slog.New(slog.DiscardHandler))
	if err != nil {
		n.t.Fatal(err)
	}
	defer d.Close()
	do(d)
}

// onReserved changes and lists what the pinned map of reservations says.
func (n *node) onReserved(do func(*datapath.Datapath) error) map[netip.Addr]datapath.Reservation {
	n.t.Helper()
	var have map[netip.Addr]datapath.Reservation
	n.withDatapath(func(d *datapath.Datapath) {
		err := do(d)
		if err == nil {
			have, err = d.Reservations()
		}
		if err != nil {
			n.t.Fatal(err)
		}
	})
	return have
}

func nothing(*datapath.Datapath) error { return nil }

// podLinks lists the host sides of pods' links.
func podLinks(t *testing.T) []netlink.Link {
	t.Helper()
	all, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(l netlink.Link) bool { return !strings.HasPrefix(l.Attrs().Name, "pdr") })
}

// empty checks that nothing of any pod is left, and that the addresses add up.
func (n *node) empty(size uint64) {
	n.t.Helper()
	if links := podLinks(n.t); len(links) > 0 {
		n.t.Errorf("links are left: %v", links)
	}
	n.eventually("the addresses add up, none in use", func() bool {
		c := n.counts()
		return c.Used == 0 && c.Cooling+c.Free == size
	})
	for a, r := range n.onReserved(nothing) {
		if r.Freed == 0 {
			n.t.Errorf("%s is still held: %+v", a, r)
		}
	}
	pins, err := os.ReadDir(filepath.Join(n.cfg.Pins, "links"))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range pins {
		if strings.HasPrefix(p.Name(), "from_pod") {
			n.t.Errorf("pin %s is left", p.Name())
		}
	}
}

func TestTheAddressOfAPodWhoseNamespaceVanishedIsFreed(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28", "fd00:1::/64"))
	vanishes, stays := testnet.New(t), testnet.New(t)
	n.add("vanishes", vanishes.File())
	n.add("stays", stays.File())
	vanishes.Close()
	n.eventually("the pod's address cools", func() bool { return n.counts() == api.Pool{CIDR: n.counts().CIDR, Used: 1, Free: 11, Cooling: 1} })
	n.del("vanishes") // the runtime learns of it later
	n.del("stays")
	n.empty(13)
}

func TestDelOfAPodWhoseNamespaceHasJustVanishedFreesItsAddress(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28"))
	pod := testnet.New(t)
	n.add("a", pod.File())
	pod.Close()
	n.del("a")
	n.empty(13)
}

func TestANamespaceThatIsDeletedInTheMiddleOfAddLeavesNothing(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/24"))
	nowhere, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer nowhere.Close()
	for i := range 20 {
		pod := testnet.New(t)
		dup, err := os.Open(pod.Path())
		if err != nil {
			t.Fatal(err)
		}
		fd := int(dup.Fd())
		pod.Close()
		id := fmt.Sprint("p", i)
		closed := make(chan struct{})
		go func() { // from here on the request alone holds the namespace
			defer close(closed)
			time.Sleep(time.Duration(i) * 200 * time.Microsecond)
			if err := unix.Dup3(int(nowhere.Fd()), fd, unix.O_CLOEXEC); err != nil {
				t.Error(err)
			}
		}()
		resp, err := n.call(api.Request{Verb: api.Add, Attachment: at(id)}, dup)
		<-closed
		dup.Close()
		_ = resp // it may have worked, or not: the runtime sends DEL in any case, or GC
		if err == nil && i%2 == 0 {
			n.del(id)
		}
	}
	n.must(api.Request{Verb: api.GC, Attachment: api.Attachment{Network: "polder"}, Valid: []api.Attachment{}}, nil)
	n.empty(253)
}

func TestAReservationThatWasCutInHalfIsCompleted(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/24", "fd00:1::/64"))
	half := netip.MustParseAddr("10.0.1.7")
	n.stop()
	n.onReserved(func(d *datapath.Datapath) error {
		return d.PutReservation(half, datapath.Reservation{Network: "polder", ContainerID: "r", Ifname: "eth0"})
	})
	n.start()
	resp := n.must(api.Request{Verb: api.Reserve, Attachment: at("r")}, nil)
	if len(resp.Addresses) != 2 || resp.Addresses[0].Prefix.Addr() != half || !resp.Addresses[1].Prefix.Addr().Is6() {
		t.Fatalf("%+v", resp.Addresses)
	}
	n.must(api.Request{Verb: api.Release, Attachment: at("r")}, nil)
	n.empty(253)
}

func TestACoolingAddressComesLastAlsoAfterARestart(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28"))
	var pods []*testnet.NS
	pods = append(pods, testnet.New(t))
	freed := n.add("first", pods[0].File()).Addresses[0].Prefix.Addr()
	n.del("first")
	when := n.onReserved(nothing)[freed].Freed
	if when == 0 {
		t.Fatal("the address does not cool")
	}
	n.restart()
	if after := n.onReserved(nothing)[freed].Freed; after != when {
		t.Errorf("it was freed at %s, the next agent says at %s", when, after)
	}
	for i := range 13 {
		now, err := datapath.SinceBoot()
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, testnet.New(t))
		got := n.add(fmt.Sprint("p", i), pods[i].File()).Addresses[0].Prefix.Addr()
		if got == freed && i < 12 && now-when < ipam.Cooldown-time.Second {
			t.Fatalf("%s was given again after %s, with %d others free", got, now-when, 12-i)
		}
	}
	if c := n.counts(); c.Used != 13 || c.Free != 0 || c.Cooling != 0 {
		t.Fatalf("%+v", c)
	}
}

func TestAnAddressThatHasCooledDownIsFreeAfterARestart(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28"))
	now, err := datapath.SinceBoot()
	if err != nil {
		t.Fatal(err)
	}
	if now < 2*ipam.Cooldown {
		t.Skip("the machine has just started")
	}
	n.stop()
	n.onReserved(func(d *datapath.Datapath) error {
		return d.PutReservation(netip.MustParseAddr("10.0.1.5"), datapath.Reservation{Freed: now - ipam.Cooldown})
	})
	n.start()
	if c := n.counts(); c.Free != 13 || c.Cooling != 0 {
		t.Fatalf("%+v", c)
	}
	n.eventually("the map forgets it", func() bool { return len(n.onReserved(nothing)) == 0 })
}

func TestAnAddressThatTheIPAMPluginGaveIsNobodyElses(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28"))
	held := n.must(api.Request{Verb: api.Reserve, Attachment: at("r")}, nil).Addresses[0].Prefix.Addr()
	pod := testnet.New(t)
	n.refused(api.CodeExists, api.Request{Verb: api.Add, Attachment: at("a"), DelegatedIPAM: true,
		Addresses: []api.Address{{Prefix: netip.PrefixFrom(held, 32)}}}, pod.File())
	for i := range 12 {
		pod := testnet.New(t)
		if got := n.add(fmt.Sprint("p", i), pod.File()).Addresses[0].Prefix.Addr(); got == held {
			t.Fatalf("%s is a pod's and reserved", got)
		}
	}
	more := testnet.New(t)
	n.refused(api.CodeTryAgain, api.Request{Verb: api.Add, Attachment: at("more")}, more.File())
	n.must(api.Request{Verb: api.Release, Attachment: at("r")}, nil)
	if got := n.add("more", more.File()).Addresses[0].Prefix.Addr(); got != held {
		t.Fatalf("got %s", got)
	}
}

func TestALinkThatIsDownDoesNotMakeTheNodeIll(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/24", "fd00:1::/64"))
	pod := testnet.New(t)
	resp := n.add("a", pod.File())
	link, err := netlink.LinkByName(resp.Host.Name)
	if err == nil {
		err = netlink.LinkSetDown(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.restart()
	n.must(api.Request{Verb: api.Status}, nil)
	n.del("a")
	n.empty(253)
}

// One node, and many pods one after another: nothing grows.
func TestStateIsBoundedOverManyAddsAndDels(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/26", "fd00:1::/64"))
	pod := testnet.New(t)
	cycles := 100
	if testing.Short() {
		cycles = 20
	}
	for i := range cycles {
		id := fmt.Sprint("p", i)
		n.add(id, pod.File())
		n.del(id)
		if c := n.counts(); c.Used != 0 || c.Cooling+c.Free != 61 {
			t.Fatalf("after %d cycles: %+v", i+1, c)
		}
	}
	if have := n.onReserved(nothing); len(have) > cycles+61 {
		t.Errorf("%d entries are left", len(have))
	}
	n.empty(61)
}

// The pool over a million pods: what it holds is what is in use or cools.
func TestAPoolIsBoundedOverAMillionPods(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	rounds := 1_000_000
	if testing.Short() {
		rounds = 10_000
	}
	p := ipam.NewPool(netip.MustParsePrefix("10.0.0.0/24"))
	held := map[int]netip.Addr{}
	freed := map[netip.Addr]time.Duration{}
	now := time.Duration(0)
	for i := range rounds {
		now += time.Duration(r.IntN(int(600 * time.Millisecond)))
		if len(held) < 110 {
			a, err := p.Take(now)
			if err != nil {
				t.Fatalf("after %d: %v", i, err)
			}
			if at, ok := freed[a]; ok && now-at < ipam.Cooldown && p.Counts(now).Free > 0 {
				t.Fatalf("%s was given again after %s", a, now-at)
			}
			held[len(held)] = a
			continue
		}
		k := r.IntN(len(held))
		a := held[k]
		held[k] = held[len(held)-1]
		delete(held, len(held)-1)
		p.Cool(a, now)
		freed[a] = now
		if c := p.Counts(now); c.Used != len(held) || c.Used+c.Cooling+c.Free != 253 {
			t.Fatalf("after %d: %+v with %d held", i, c, len(held))
		}
	}
}
