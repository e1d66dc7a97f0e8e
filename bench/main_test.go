package main

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestEveryVariantHasEveryPlaceInTurn(t *testing.T) {
	const n = 3
	places := [n][n]int{} // variant, place
	for round := range 2 * n {
		seen := [n]bool{}
		for i := range n {
			v := order(round, i, n)
			if seen[v] {
				t.Fatalf("round %d measures variant %d twice", round, v)
			}
			seen[v] = true
			places[v][i]++
		}
	}
	for v, counts := range places {
		for place, count := range counts {
			if count != 2 {
				t.Errorf("variant %d is %d times at place %d in %d rounds, want 2", v, count, place, 2*n)
			}
		}
	}
}

func TestAFullRunWritesTheDocsAndNoOther(t *testing.T) {
	for _, c := range []struct {
		name string
		o    options
		docs string
	}{
		{"all in full", options{}, "docs"},
		{"quick", options{quick: true}, ""},
		{"a part", options{only: []string{"P1"}}, ""},
		{"quick, but told to", options{quick: true, docs: "here"}, "here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.preset()
			if c.o.docs != c.docs {
				t.Errorf("docs %q, want %q", c.o.docs, c.docs)
			}
			if c.o.rounds == 0 || c.o.slice == 0 || c.o.churn == 0 {
				t.Errorf("something has no default: %+v", c.o)
			}
		})
	}
	o := options{quick: true, rounds: 3, slice: time.Second}
	o.preset()
	if o.rounds != 3 || o.slice != time.Second {
		t.Errorf("what was said is not what counts: %+v", o)
	}
}

func TestOnlyTakesTheMeasuresThereAre(t *testing.T) {
	for _, id := range []string{"P1", "P8", "C1", "C5", "S1", "S9", "N1", "N5"} {
		if !isMeasure(id) {
			t.Errorf("%s is refused", id)
		}
	}
	for _, id := range []string{"", "P0", "P9", "C6", "p1x", "S0", "N0", "N6", "X1"} {
		if isMeasure(id) {
			t.Errorf("%q is taken", id)
		}
	}
}

func TestFramesAreAsLongAsTheySay(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, c := range []struct {
		from, to string
		length   int
	}{{"10.0.0.1", "10.0.0.2", 14 + 20 + 20}, {"fd00::1", "fd00::2", 14 + 40 + 20}} {
		b := frame(mac, netip.MustParseAddr(c.from), netip.MustParseAddr(c.to), 4711)
		if len(b) != c.length {
			t.Errorf("frame from %s has %d bytes, want %d", c.from, len(b), c.length)
		}
		if b[12] == 0x86 && b[14]>>4 != 6 || b[12] == 0x08 && b[14] != 0x45 {
			t.Errorf("frame from %s: type %x, version %x", c.from, b[12:14], b[14])
		}
	}
}

func TestWhatIsThereBeforeIsNoLeak(t *testing.T) {
	before := holdings{addresses: 2, links: 5, pins: 3, entries: map[string]int{"endpoints": 4}}
	for _, c := range []struct {
		name string
		now  holdings
		want float64
	}{
		{"the same", before, 0},
		{"less", holdings{entries: map[string]int{}}, 0},
		{"a link and two entries more", holdings{2, 6, 3, map[string]int{"endpoints": 6}}, 3},
		{"one more of one, one less of another", holdings{3, 4, 3, map[string]int{"endpoints": 4}}, 1},
		{"a new map", holdings{2, 5, 3, map[string]int{"endpoints": 4, "remotes": 2}}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.now.beyond(before); got != c.want {
				t.Errorf("%v leaked, want %v", got, c.want)
			}
		})
	}
}
