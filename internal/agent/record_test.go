package agent

import (
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/testnet"
)

// damaged gives a record's text cut off anywhere, with a byte altered, and replaced.
func damaged(record string, r *rand.Rand) []string {
	texts := []string{"", " ", "junk", "\xff\xfe\x01", strings.Repeat("x", 255), "pdr3" + record[4:], record + " "}
	for i := range record {
		b := []byte(record)
		b[i] ^= byte(1 + r.IntN(255))
		texts = append(texts, record[:i], string(b))
	}
	return texts
}

// Whatever somebody writes over a pod's record, the next agent gives its addresses to nobody else, says so, and DEL
// removes it.
func TestADamagedRecordNeverDoublesAnAddress(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	n := newNode(t, oneNode("10.0.1.0/28", "fd00:1::/64"))
	pod := testnet.New(t)
	own := n.add("a", pod.File())
	link, err := netlink.LinkByName(own.Host.Name)
	if err != nil {
		t.Fatal(err)
	}
	n.stop()
	next, err := New(n.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer next.kernel.Close()
	defer next.datapath.Close()
	for _, text := range damaged(link.Attrs().Alias, rand.New(rand.NewPCG(seed, 0))) {
		if err := netlink.LinkSetAlias(link, text); err != nil {
			t.Fatal(err)
		}
		if err := next.recover(); err != nil {
			t.Fatalf("record %q: %v", text, err)
		}
		pool := next.newPool(netip.MustParsePrefix("10.0.1.0/28"))
		for range 12 {
			if a, err := pool.Take(0); err != nil || a == own.Addresses[0].Prefix.Addr() {
				t.Fatalf("with the record %q its address is given to others: %s, %v", text, a, err)
			}
		}
		if c := pool.Counts(0); c.Free != 0 {
			t.Fatalf("with the record %q: %+v", text, c)
		}
	}
	n.start()
	n.eventually("the node is well with a damaged record", func() bool {
		resp, err := n.call(api.Request{Verb: api.Status}, nil)
		return err == nil && resp.Error == nil
	})
	if p := n.report().Problems[0]; p.Object != "Link/"+own.Host.Name || !strings.Contains(p.Message, own.Addresses[0].Prefix.Addr().String()) {
		t.Errorf("the first problem is %+v", p)
	}
	n.del("a")
	n.empty(13)
}

// An agent that has read the record before it was overwritten knows it still.
func TestARunningAgentWritesADamagedRecordAnew(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28", "fd00:1::/64"))
	pod := testnet.New(t)
	link, err := netlink.LinkByName(n.add("a", pod.File()).Host.Name)
	if err != nil {
		t.Fatal(err)
	}
	record := link.Attrs().Alias
	for _, text := range []string{"", record[:len(record)-1], "junk"} {
		if err := netlink.LinkSetAlias(link, text); err != nil {
			t.Fatal(err)
		}
		n.eventually("the record is back", func() bool {
			l, err := netlink.LinkByName(link.Attrs().Name)
			return err == nil && l.Attrs().Alias == record
		})
	}
	r := n.report()
	if strings.HasPrefix(r.Problems[0].Object, "Link/") || len(r.Pods) != 1 || r.Pods[0].ContainerID != "a" {
		t.Errorf("%+v", r)
	}
	if len(r.Repairs) == 0 || r.Repairs[0].Table != "records" || r.Repairs[0].Row != link.Attrs().Name {
		t.Errorf("repairs are %+v", r.Repairs)
	}
	n.del("a")
	n.empty(13)
}

// Pods that came before the upgrade keep everything they have (records had no checksum then).
func TestPodsWithRecordsOfTheVersionBeforeAreKept(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28", "fd00:1::/64"))
	pod := testnet.New(t)
	own := n.add("a", pod.File())
	link, err := netlink.LinkByName(own.Host.Name)
	if err != nil {
		t.Fatal(err)
	}
	n.stop()
	if err := netlink.LinkSetAlias(link, "polder1 polder a eth0 10.0.1.2,fd00:1::2 default/a"); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.must(api.Request{Verb: api.Check, Attachment: at("a"), Addresses: own.Addresses}, pod.File())
	if r := n.report(); len(r.Pods) != 1 || r.Pods[0].ContainerID != "a" || r.Pods[0].Name != "a" || r.Addresses[0].Used != 1 {
		t.Errorf("%+v", r)
	}
	n.del("a")
	n.empty(13)
}
