package netdev

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/testnet"
)

func someMasquerade() desired.Masquerade {
	return desired.Masquerade{
		From: []netip.Prefix{prefix("10.1.0.0/24"), prefix("fd00:1::/64")},
		Except: []netip.Prefix{prefix("10.1.0.0/24"), prefix("10.1.1.0/24"), prefix("192.168.7.1/32"), prefix("240.0.0.0/4"),
			prefix("fd00:1::/56"), prefix("fd00:7::1/128"), prefix("ff00::/8")},
	}
}

const tableRow = "masquerade: table inet polder"

func TestTheMasqueradeTableIsWrittenOnceAndDeletedWhenUnwanted(t *testing.T) {
	k := open(t, testnet.New(t))
	for _, c := range []struct {
		want    desired.Masquerade
		changes []string
	}{
		{someMasquerade(), []string{"add " + tableRow}}, {someMasquerade(), nil},
		{desired.Masquerade{}, []string{"delete " + tableRow}}, {desired.Masquerade{}, nil},
	} {
		changes, err := k.syncMasquerade(c.want)
		wantChanges(t, changes, err, c.changes...)
	}
}

func TestForeignHandsOnTheMasqueradeTableAreNoticed(t *testing.T) {
	inet := nftables.TableFamilyINet
	table := &nftables.Table{Name: "polder", Family: inet}
	chainOf := func(c *nftables.Conn) *nftables.Chain { return &nftables.Chain{Name: "postrouting", Table: table} }
	for name, hand := range map[string]struct {
		do   func(t *testing.T, c *nftables.Conn) error
		verb string
	}{
		"the whole rule set flushed": {func(t *testing.T, c *nftables.Conn) error { c.FlushRuleset(); return nil }, "add"},
		"the table deleted":          {func(t *testing.T, c *nftables.Conn) error { c.DelTable(table); return nil }, "add"},
		"the table flushed":          {func(t *testing.T, c *nftables.Conn) error { c.FlushTable(table); return nil }, "replace"},
		"the chain deleted": {func(t *testing.T, c *nftables.Conn) error {
			c.FlushChain(chainOf(c))
			c.DelChain(chainOf(c))
			return nil
		}, "replace"},
		"a rule deleted": {func(t *testing.T, c *nftables.Conn) error {
			rules, err := c.GetRules(table, chainOf(c))
			if err != nil {
				return err
			}
			return c.DelRule(rules[1])
		}, "replace"},
		"a rule replaced": {func(t *testing.T, c *nftables.Conn) error {
			rules, err := c.GetRules(table, chainOf(c))
			if err != nil {
				return err
			}
			rules[0].Exprs, rules[0].UserData = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}, nil
			c.ReplaceRule(rules[0])
			return nil
		}, "replace"},
		"a rule before ours": {func(t *testing.T, c *nftables.Conn) error {
			c.InsertRule(&nftables.Rule{Table: table, Chain: chainOf(c), Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
			return nil
		}, "replace"},
		"another chain": {func(t *testing.T, c *nftables.Conn) error {
			c.AddChain(&nftables.Chain{Name: "more", Table: table})
			return nil
		}, "replace"},
		"a set emptied": {func(t *testing.T, c *nftables.Conn) error {
			c.FlushSet(&nftables.Set{Name: "from4", Table: table})
			return nil
		}, "replace"},
		"an element added": {func(t *testing.T, c *nftables.Conn) error {
			return c.SetAddElements(&nftables.Set{Name: "except4", Table: table}, []nftables.SetElement{
				{Key: []byte{1, 0, 0, 0}}, {Key: []byte{2, 0, 0, 0}, IntervalEnd: true}})
		}, "replace"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := testnet.New(t)
			k := open(t, ns)
			changes, err := k.syncMasquerade(someMasquerade())
			wantChanges(t, changes, err, "add "+tableRow)
			c, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
			if err != nil {
				t.Fatal(err)
			}
			if err := hand.do(t, c); err != nil {
				t.Fatal(err)
			}
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			changes, err = k.syncMasquerade(someMasquerade())
			wantChanges(t, changes, err, hand.verb+" "+tableRow)
			changes, err = k.syncMasquerade(someMasquerade())
			wantChanges(t, changes, err)
		})
	}
}

func TestOtherNftablesTablesAreLeftAlone(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
	if err != nil {
		t.Fatal(err)
	}
	c.AddTable(&nftables.Table{Name: "polder", Family: nftables.TableFamilyIPv4})
	c.AddChain(&nftables.Chain{Name: "theirs", Table: c.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyINet})})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []desired.Masquerade{someMasquerade(), {}} {
		if _, err := k.syncMasquerade(want); err != nil {
			t.Fatal(err)
		}
		if again, err := k.syncMasquerade(want); err != nil || len(again) > 0 {
			t.Errorf("a second time changed %v, %v", again, err)
		}
	}
	tables, err := c.ListTables()
	if err != nil || len(tables) != 2 {
		t.Errorf("tables are %v, %v", tables, err)
	}
}

func TestTheMasqueradeTableNeedsNoBinary(t *testing.T) {
	t.Setenv("PATH", "")
	k := open(t, testnet.New(t))
	changes, err := k.syncMasquerade(someMasquerade())
	wantChanges(t, changes, err, "add "+tableRow)
}

func TestThousandsOfScatteredExceptionsFit(t *testing.T) {
	k := open(t, testnet.New(t))
	want := someMasquerade()
	for i := range 10_000 {
		want.Except = append(want.Except, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 7), byte(i << 1), 1}), 32))
	}
	changes, err := k.syncMasquerade(want)
	wantChanges(t, changes, err, "add "+tableRow)
	changes, err = k.syncMasquerade(want)
	wantChanges(t, changes, err)
}

// TestRangesHoldWhatTheirPrefixesHold compares with the prefixes themselves, at every border and beside it.
func TestRangesHoldWhatTheirPrefixesHold(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		var list []netip.Prefix
		for range rnd.IntN(8) {
			// Few bits, so that prefixes touch, overlap and reach the last address.
			a := netip.AddrFrom4([4]byte{255, 255, 255, byte(rnd.Uint32())})
			if rnd.IntN(2) == 0 {
				a = netip.AddrFrom4([4]byte{0, 0, 0, byte(rnd.Uint32())})
			}
			list = append(list, netip.PrefixFrom(a, 24+rnd.IntN(9)))
		}
		got := ranges(list, true)
		for i, r := range got {
			if r.next.IsValid() && !r.first.Less(r.next) || i > 0 && !got[i-1].next.Less(r.first) {
				t.Fatalf("seed %d: %v gives %v", seed, list, got)
			}
		}
		for _, high := range []byte{0, 255} {
			for low := range 256 {
				a := netip.AddrFrom4([4]byte{high, high, high, byte(low)})
				in := false
				for _, p := range list {
					in = in || p.Contains(a)
				}
				if holds(got, a) != in {
					t.Fatalf("seed %d: %v: %s in %v", seed, list, a, got)
				}
			}
		}
	}
}

func holds(list []addrRange, a netip.Addr) bool {
	for _, r := range list {
		if r.first.Compare(a) <= 0 && (!r.next.IsValid() || a.Less(r.next)) {
			return true
		}
	}
	return false
}
