package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
)

// prefixFlag writes the configuration, and returns what it says of prefixes then, and whether that was news.
func prefixFlag(t *testing.T, d *Datapath) (flag uint8, changes []Change) {
	t.Helper()
	changes, err := d.SyncMaps(desired.Tables{Config: desired.Config{Policies: true}, Endpoints: map[netip.Addr]route.Endpoint{}})
	if err != nil {
		t.Fatal(err)
	}
	var c bpfConfig
	if err := d.maps[bpfMapConfiguration].Lookup(uint32(0), &c); err != nil {
		t.Fatal(err)
	}
	return c.Blocks, changes
}

func TestThePrefixFlagIsSetAsLongAsThereAreAny(t *testing.T) {
	d, at, w := openTest(t), time.Now(), smallWorld(0)
	block := netip.MustParsePrefix("10.0.0.0/8")
	for n, on := range []bool{false, true, false} {
		if delete(w.blocks, block); on {
			w.blocks[block] = 1
		}
		if _, err := follow(t, d, w, at); err != nil {
			t.Fatal(err)
		}
		settlePolicies(t, d, at)
		prefixFlag(t, d) // removes the endpoints
		if c, changes := prefixFlag(t, d); c != flag(on) || len(changes) > 0 {
			t.Fatalf("%d: %d, want %v; %v", n, c, on, changes)
		}
	}
}

// Nobody else knows whether there are prefixes: whoever takes the flag away, it comes back.
func TestThePrefixFlagComesBack(t *testing.T) {
	d, at, w := openTest(t), time.Now(), smallWorld(0)
	w.blocks[netip.MustParsePrefix("10.0.0.0/8")] = 1
	if _, err := follow(t, d, w, at); err != nil {
		t.Fatal(err)
	}
	prefixFlag(t, d)
	zero := func() {
		t.Helper()
		if err := d.maps[bpfMapConfiguration].Put(uint32(0), bpfConfig{}); err != nil {
			t.Fatal(err)
		}
	}
	zero()
	if c, changes := prefixFlag(t, d); c != 1 || len(changes) != 1 {
		t.Fatalf("%d, %v", c, changes)
	}
	if err := d.setBlocks(0); err != nil {
		t.Fatal(err)
	}
	if c, changes := prefixFlag(t, d); c != 1 || len(changes) != 1 {
		t.Fatalf("the flag alone: %d, %v", c, changes)
	}
	zero()
	d.Close()
	d = reopen(t, d.dir)
	if c, _ := prefixFlag(t, d); c != 1 {
		t.Fatal("who has not read the maps writes that there are none")
	}
	delete(w.blocks, netip.MustParsePrefix("10.0.0.0/8"))
	if _, err := follow(t, d, w, at); err != nil {
		t.Fatal(err)
	}
	if c, _ := prefixFlag(t, d); c != 1 {
		t.Fatal("a program may still look for the prefix")
	}
	settlePolicies(t, d, at)
	if c, changes := prefixFlag(t, d); c != 0 || len(changes) > 0 {
		t.Fatalf("%d, %v", c, changes)
	}
}

func TestANodeWithoutPrefixesLooksForNone(t *testing.T) {
	d, at := openTest(t), time.Now()
	if c, _ := prefixFlag(t, d); c != 1 {
		t.Fatal("it is not known that there are none")
	}
	if _, err := follow(t, d, smallWorld(0), at); err != nil {
		t.Fatal(err)
	}
	prefixFlag(t, d)
	if c, changes := prefixFlag(t, d); c != 0 || len(changes) > 0 {
		t.Fatalf("%d, %v", c, changes)
	}
}
