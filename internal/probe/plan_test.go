package probe

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
)

func TestSmallNetworksAreProbedWhole(t *testing.T) {
	for _, endpoints := range []int{0, 1, 2, 12, sampleAbove} {
		pairs, possible := choosePairs(min(3, endpoints), endpoints, false)
		if want := endpoints * max(0, endpoints-1); len(pairs) != want || possible != want {
			t.Errorf("%d endpoints: %d pairs of %d, want %d", endpoints, len(pairs), possible, want)
		}
	}
}

func TestAllMeansAll(t *testing.T) {
	pairs, possible := choosePairs(10, 200, true)
	if len(pairs) != 200*199 || possible != 200*199 {
		t.Errorf("%d pairs of %d", len(pairs), possible)
	}
}

func TestASampleIsFairAndAlwaysTheSame(t *testing.T) {
	for _, size := range []struct{ nodes, endpoints int }{{3, 65}, {10, 200}, {60, 1000}, {100, 5000}, {1, 5000}} {
		pairs, possible := choosePairs(size.nodes, size.endpoints, false)
		if possible != size.endpoints*(size.endpoints-1) {
			t.Errorf("%v: %d pairs are possible", size, possible)
		}
		if most := samplePairs + max(size.endpoints, size.nodes*size.nodes); len(pairs) > most {
			t.Errorf("%v: %d pairs, want at most %d", size, len(pairs), most)
		}
		seen := map[pair]bool{}
		from, to := make([]int, size.endpoints), make([]int, size.endpoints)
		for _, p := range pairs {
			if seen[p] || p.from == p.to {
				t.Fatalf("%v: %v is chosen twice, or is none", size, p)
			}
			seen[p] = true
			from[p.from]++
			to[p.to]++
		}
		if slices.Min(from) < 1 || slices.Min(to) < 1 {
			t.Errorf("%v: somebody never sends or never receives", size)
		}
		if size.nodes <= sampleAbove {
			for a := range size.nodes {
				for b := range size.nodes {
					if a != b && !seen[pair{a, b}] {
						t.Errorf("%v: nodes %d and %d are no pair", size, a, b)
					}
				}
			}
		}
		if again, _ := choosePairs(size.nodes, size.endpoints, false); !slices.Equal(pairs, again) {
			t.Errorf("%v: the next sample is another", size)
		}
	}
}

func TestPathsAreOfFamiliesThatBothHave(t *testing.T) {
	at := func(addresses ...string) *end {
		e := &end{}
		for _, a := range addresses {
			e.Listeners = append(e.Listeners, listener{Address: netip.MustParseAddr(a)})
		}
		return e
	}
	for _, c := range []struct {
		from, to *end
		want     int
	}{
		{at("10.0.0.1", "fd00::1"), at("10.0.0.2", "fd00::2"), 2},
		{at("10.0.0.1"), at("10.0.0.2", "fd00::2"), 1},
		{at("10.0.0.1"), at("fd00::2"), 0},
		{at("10.0.0.1"), at("10.0.0.2", "10.0.0.3"), 2},
		{at(), at("10.0.0.2"), 0},
	} {
		if got := len(paths(c.from, c.to)); got != c.want {
			t.Errorf("from %v to %v: %d paths, want %d", c.from.Listeners, c.to.Listeners, got, c.want)
		}
	}
}

func TestNamespacesThatAreNoPodsAreLeftOut(t *testing.T) {
	s := &session{node: cluster.Node{Name: "a", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}}
	add := func(link string, addresses ...string) {
		e := end{endpoint: endpoint{Link: link}, session: s, id: len(s.ends)}
		for _, a := range addresses {
			e.Listeners = append(e.Listeners, listener{Address: netip.MustParseAddr(a)})
		}
		s.ends = append(s.ends, e)
	}
	add("")                       // the node itself
	add("eth0")                   // where the node's uplink leads
	add("docker1", "172.17.0.2")  // another container
	add("veth7", "10.244.1.7")    // by its address
	add("pdr0", "192.168.9.9")    // by its link, though its address is wrong
	add("cali1", "192.168.100.1") // by its object
	ends := name([]*session{s}, []cluster.Pod{
		{Namespace: "ns", Name: "web", Node: "a", Addresses: []netip.Addr{netip.MustParseAddr("192.168.100.1")}},
		{Namespace: "ns", Name: "far", Node: "b", Addresses: []netip.Addr{netip.MustParseAddr("172.17.0.2")}},
	})
	var got []string
	for _, e := range ends {
		got = append(got, e.name)
	}
	if want := []string{"a", "a/veth7", "a/pdr0", "ns/web"}; !slices.Equal(got, want) {
		t.Errorf("endpoints are %q, want %q", got, want)
	}
}
