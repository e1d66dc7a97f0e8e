package netdev

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/testnet"
)

// rowsOf are the kernel's rows of a pod.
func rowsOf(p cluster.LocalPod) (map[route.RouteKey]route.Route, map[route.NeighbourKey]cluster.MAC) {
	rows := route.CompilePod(cluster.Node{}, p)
	return rows.Routes, rows.Neighbours
}

// scatter returns n pod addresses' routes and neighbours on one pod's link.
func scatter(p cluster.LocalPod, n int) desired.Tables {
	t := desired.Tables{Routes: map[route.RouteKey]route.Route{}, Neighbours: map[route.NeighbourKey]cluster.MAC{}}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)})
		t.Routes[route.RouteKey{Prefix: netip.PrefixFrom(a, 32)}] = route.Route{Link: p.Link}
		t.Neighbours[route.NeighbourKey{Link: p.Link, Addr: a}] = p.PodMAC
	}
	return t
}

// BenchmarkADD attaches and detaches a pod with both families, as ADD and DEL do, beside many addresses that others
// have. It reports the median of each part and the 99th percentile of the whole.
func BenchmarkADD(b *testing.B) {
	for _, others := range []int{250, 10_000} {
		b.Run(fmt.Sprintf("beside-%d", others), func(b *testing.B) {
			host, pod := testnet.New(b), testnet.New(b)
			k := open(b, host)
			if _, err := k.Sync(scatter(attach(b, k, aPod("first"), testnet.New(b)), others)); err != nil {
				b.Fatal(err)
			}
			laps := map[string][]time.Duration{}
			b.ResetTimer()
			for i := range b.N {
				addAndDelete(b, k, strconv.Itoa(i), pod, laps)
			}
			for name, l := range laps {
				slices.Sort(l)
				b.ReportMetric(float64(l[len(l)/2].Microseconds()), name+"-p50-µs")
			}
			b.ReportMetric(float64(laps["ADD"][len(laps["ADD"])*99/100].Microseconds()), "ADD-p99-µs")
			b.ReportMetric(float64(laps["DEL"][len(laps["DEL"])*99/100].Microseconds()), "DEL-p99-µs")
		})
	}
}

func addAndDelete(b *testing.B, k *Kernel, id string, pod *testnet.NS, laps map[string][]time.Duration) {
	p := aPod(id)
	p.Addresses = addrs("10.1.0.8", "fd00:1::8")
	start := time.Now()
	last := start
	lap := func(name string) {
		laps[name] = append(laps[name], time.Since(last))
		last = time.Now()
	}
	p, err := k.CreatePod(p, pod.File())
	if err != nil {
		b.Fatal(err)
	}
	lap("create")
	if err := k.ActivatePod(p, pod.File(), nil); err != nil {
		b.Fatal(err)
	}
	lap("activate")
	if err := k.PutPod(rowsOf(p)); err != nil {
		b.Fatal(err)
	}
	lap("put")
	laps["ADD"] = append(laps["ADD"], time.Since(start))
	if err := k.DeletePod(p.Link); err != nil {
		b.Fatal(err)
	}
	lap("DEL")
}

// BenchmarkDELParallel deletes the links of 100 pods at once.
func BenchmarkDELParallel(b *testing.B) {
	host := testnet.New(b)
	k := open(b, host)
	for i := range b.N {
		b.StopTimer()
		var names []string
		pod := testnet.New(b)
		for j := range 100 {
			p := aPod(fmt.Sprint(i, "-", j))
			p.Ifname, p.Addresses = fmt.Sprint("eth", j), []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 1, byte(j)})}
			names = append(names, attach(b, k, p, pod).Link)
		}
		b.StartTimer()
		var wg sync.WaitGroup
		for _, name := range names {
			wg.Go(func() {
				if err := k.DeletePod(name); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

// BenchmarkSync compares tables that are already as wanted: what a resync costs.
func BenchmarkSync(b *testing.B) {
	for _, rows := range []int{250, 10_000} {
		b.Run(strconv.Itoa(rows), func(b *testing.B) {
			host := testnet.New(b)
			k := open(b, host)
			want := scatter(attach(b, k, aPod("first"), testnet.New(b)), rows)
			if _, err := k.Sync(want); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if changes, err := k.Sync(want); err != nil || len(changes) > 0 {
					b.Fatal(changes, err)
				}
			}
		})
	}
}

// BenchmarkListTC asks for the filters of 250 pods' links, as each resync does.
func BenchmarkListTC(b *testing.B) {
	const pods = 250
	host, pod := testnet.New(b), testnet.New(b)
	k := open(b, host)
	fd := program(b)
	var hooks []TCHook
	for i := range pods {
		p := aPod("c")
		p.Ifname, p.Addresses = fmt.Sprint("eth", i), []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 1, byte(i)})}
		index := attach(b, k, p, pod).Index
		if err := k.AttachTC(index, false, fd, "polder_test"); err != nil {
			b.Fatal(err)
		}
		hooks = append(hooks, TCHook{Link: index})
	}
	for b.Loop() {
		list, err := k.ListTC(hooks)
		if err != nil || len(list) != pods || list[hooks[pods-1]].ID == 0 {
			b.Fatal(list, err)
		}
	}
}
