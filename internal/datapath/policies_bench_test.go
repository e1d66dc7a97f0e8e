package datapath

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/policy"
)

// Empty maps get 200,000 addresses; and then one changes.
func BenchmarkSyncPolicies(b *testing.B) {
	all := smallWorld(1).all()
	class := classID(1)
	for i := range 200_000 {
		all.Addresses[netip.AddrFrom4([4]byte{10, byte(8 + i>>16), byte(i >> 8), byte(i)})] = class
	}
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			d := openTest(b)
			b.StartTimer()
			if _, err := d.ResyncPolicies(all); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			d.Close()
			b.StartTimer()
		}
	})
	d := openTest(b)
	if _, err := d.ResyncPolicies(all); err != nil {
		b.Fatal(err)
	}
	b.Run("read back", func(b *testing.B) {
		for b.Loop() {
			if changes, err := d.ResyncPolicies(all); err != nil || len(changes) > 0 {
				b.Fatal(len(changes), err)
			}
		}
	})
	b.Run("one change", func(b *testing.B) {
		addr, now := netip.MustParseAddr("10.9.0.1"), time.Now()
		for n := 0; b.Loop(); n++ {
			to := map[netip.Addr]policy.ID{addr: []policy.ID{class, policy.Others}[n%2]}
			if err := d.SyncPolicies(policy.Changes{Addresses: to}); err != nil {
				b.Fatal(err)
			}
			if err := d.SwappedPolicies(now); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestTheMemoryOfPoliciesIsSmall(t *testing.T) {
	d, all := openTest(t), smallWorld(1).all()
	for i := range 100_000 {
		all.Addresses[netip.AddrFrom4([4]byte{10, byte(8 + i>>16), byte(i >> 8), byte(i)})] = classID(1)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	if _, err := d.ResyncPolicies(all); err != nil {
		t.Fatal(err)
	}
	if more := heap() - before; more > 10<<20 {
		t.Errorf("100,000 addresses take %d bytes", more)
	}
	runtime.KeepAlive(all)
}
