package ipam

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

func take(t *testing.T, p *Pool, now time.Duration) netip.Addr {
	t.Helper()
	a, err := p.Take(now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestASmallPrefixGivesAllButThreeAddresses(t *testing.T) {
	p := NewPool(netip.MustParsePrefix("10.0.1.0/28"))
	seen := map[netip.Addr]bool{}
	for range 13 {
		seen[take(t, p, 0)] = true
	}
	for _, never := range []string{"10.0.1.0", "10.0.1.1", "10.0.1.15"} {
		if seen[netip.MustParseAddr(never)] {
			t.Errorf("%s was given", never)
		}
	}
	if _, err := p.Take(0); len(seen) != 13 || !errors.Is(err, ErrExhausted) {
		t.Fatalf("%d addresses, then %v", len(seen), err)
	}
	freed := netip.MustParseAddr("10.0.1.9")
	p.Cool(freed, 0)
	if got := take(t, p, time.Second); got != freed { // nothing else is left
		t.Fatalf("got %s", got)
	}
}

func TestTinyPrefixesGiveWhatTheyHave(t *testing.T) {
	for prefix, want := range map[string]int{"10.0.0.0/29": 5, "10.0.0.0/30": 1, "10.0.0.0/31": 0, "10.0.0.0/32": 0,
		"fd00::/126": 2, "fd00::/127": 0, "fd00::/128": 0} {
		p := NewPool(netip.MustParsePrefix(prefix))
		n := 0
		for {
			if _, err := p.Take(0); err != nil {
				break
			}
			n++
		}
		if n != want {
			t.Errorf("%s gives %d, want %d", prefix, n, want)
		}
	}
}

func TestAFreedAddressCoolsDown(t *testing.T) {
	p := NewPool(netip.MustParsePrefix("10.0.1.0/28"))
	first := take(t, p, 0)
	p.Cool(first, 0)
	for range 12 {
		if a := take(t, p, Cooldown-1); a == first {
			t.Fatal("given while it cooled, with others free")
		}
	}
	p.Cool(netip.MustParseAddr("10.0.1.5"), Cooldown-1)
	if a := take(t, p, Cooldown); a != first {
		t.Fatalf("got %s, want %s, which has cooled down", a, first)
	}
}

func TestTheLongestCooledComesFirstWhenNothingElseIsLeft(t *testing.T) {
	p := NewPool(netip.MustParsePrefix("10.0.1.0/29"))
	var all []netip.Addr
	for range 5 {
		all = append(all, take(t, p, 0))
	}
	for i, a := range []netip.Addr{all[3], all[0], all[4]} {
		p.Cool(a, time.Duration(i))
	}
	for _, want := range []netip.Addr{all[3], all[0], all[4]} {
		if got := take(t, p, 10); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

func TestAddressesAreUsedInTurn(t *testing.T) {
	p := NewPool(netip.MustParsePrefix("fd00:1::/64"))
	a := take(t, p, 0)
	p.Release(a)
	if b := take(t, p, 0); b == a {
		t.Fatalf("%s was given twice in a row", a)
	}
}

// Whatever happens: taken, cooling and free add up, and nothing is given twice.
func TestNothingIsLostOrDoubled(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	p := NewPool(netip.MustParsePrefix("10.0.1.0/26"))
	var held []netip.Addr
	has := map[netip.Addr]bool{}
	now := time.Duration(0)
	for range 100_000 {
		now += time.Duration(r.IntN(int(time.Second)))
		if r.IntN(2) == 0 {
			a, err := p.Take(now)
			if err != nil {
				continue
			}
			if has[a] {
				t.Fatalf("%s was given twice", a)
			}
			has[a] = true
			held = append(held, a)
		} else if len(held) > 0 {
			i := r.IntN(len(held))
			a := held[i]
			held[i] = held[len(held)-1]
			held = held[:len(held)-1]
			delete(has, a)
			if r.IntN(3) == 0 {
				p.Release(a)
			} else {
				p.Cool(a, now)
			}
		}
		if c := p.Counts(now); c.Used != len(held) || c.Used+c.Cooling+c.Free != 61 {
			t.Fatalf("%+v with %d held", c, len(held))
		}
	}
}

func TestOthersAddressesAreIgnored(t *testing.T) {
	p := NewPool(netip.MustParsePrefix("10.0.1.0/24"))
	for _, a := range []string{"10.0.2.7", "10.0.1.0", "10.0.1.1", "10.0.1.255", "fd00::1"} {
		p.Hold(netip.MustParseAddr(a))
		p.Cool(netip.MustParseAddr(a), 0)
	}
	if c := p.Counts(0); c != (Counts{Free: 253}) {
		t.Fatalf("%+v", c)
	}
}

func BenchmarkTake(b *testing.B) {
	for _, n := range []int{250, 10_000} {
		b.Run(time.Duration(n).String(), func(b *testing.B) {
			p := NewPool(netip.MustParsePrefix("10.0.0.0/16"))
			for range n {
				p.Take(0)
			}
			for b.Loop() {
				a, _ := p.Take(0)
				p.Release(a)
			}
		})
	}
}
