package netdev

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
)

// TestAnyWayToAStateGivesThatState walks at random between tables, with foreign hands in between, and compares where
// it comes to with what a fresh kernel has after one Sync.
func TestAnyWayToAStateGivesThatState(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	walker := aNode(t)
	for step := range 25 {
		want := randomTables(rnd, walker)
		if step == 0 {
			want = walker.tables()
		}
		if rnd.IntN(4) == 0 {
			in(t, walker.ns, func() error { return flushRoutes(t) })
		}
		walker.sync(t, want)
		t.Run(fmt.Sprint("step ", step), func(t *testing.T) {
			fresh := aNode(t)
			fresh.sync(t, want)
			got, expected := kernelState(t, walker.ns), kernelState(t, fresh.ns)
			if !slices.Equal(got, expected) {
				t.Errorf("walked to\n%s\nfresh is\n%s", strings.Join(minus(got, expected), "\n"), strings.Join(minus(expected, got), "\n"))
			}
		})
	}
}

func minus(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// randomTables picks rows of every kind: routes that change their kind, next hop or table for the same prefix too.
func randomTables(rnd *rand.Rand, n node) desired.Tables {
	want := desired.Tables{Routes: map[route.RouteKey]route.Route{}, Rules: map[route.Rule]bool{},
		Neighbours: map[route.NeighbourKey]cluster.MAC{},
		Sysctls:    map[string]string{"net/ipv4/ip_forward": []string{"0", "1"}[rnd.IntN(2)]}}
	for _, ipv4 := range []bool{true, false} {
		own, via := prefix("fd00:1::/64"), []netip.Addr{addr("fd00:7::2"), addr("fd00:7::3")}
		src := addr("fd00:7::1")
		if ipv4 {
			own, via, src = prefix("10.1.0.0/24"), addrs("192.168.7.2", "192.168.7.3"), addr("192.168.7.1")
		}
		for i := range 4 {
			if rnd.IntN(3) == 0 {
				continue
			}
			key := route.RouteKey{Table: []int{0, 0, route.TunnelTable}[rnd.IntN(3)], Prefix: other(own, i)}
			want.Routes[key] = []route.Route{
				{Unreachable: true}, {Link: "up0", Via: via[rnd.IntN(2)], Src: src}, {Link: "up0", Via: via[rnd.IntN(2)]},
				{Link: route.TunnelName, Src: src}, {Link: route.TunnelName}, {Link: n.pod.Link, Src: src},
			}[rnd.IntN(6)]
		}
		if rnd.IntN(2) == 0 {
			want.Rules[route.Rule{From: other(own, rnd.IntN(2)), Table: route.TunnelTable}] = true
		}
		for i := range 3 {
			if rnd.IntN(2) == 0 {
				want.Neighbours[route.NeighbourKey{Link: n.pod.Link, Addr: other(own, i).Addr()}] = cluster.MAC{2, 0, 0, 0, 0, byte(rnd.IntN(3))}
			}
		}
		if rnd.IntN(3) > 0 {
			want.Masquerade.From = append(want.Masquerade.From, own)
			for i := range rnd.IntN(5) {
				want.Masquerade.Except = append(want.Masquerade.Except, other(own, 2*i))
			}
		}
	}
	maps.DeleteFunc(want.Rules, func(route.Rule, bool) bool { return rnd.IntN(4) == 0 })
	return want
}

// other is the i-th prefix of that length after p.
func other(p netip.Prefix, i int) netip.Prefix {
	b := p.Addr().AsSlice()
	b[p.Bits()/8-1] += byte(i)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}
