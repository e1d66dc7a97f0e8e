package service_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

// big is a cluster of many Services of so many endpoints each.
func big(services, endpoints int) []*cluster.ServiceObjects {
	all := make([]*cluster.ServiceObjects, services)
	for i := range all {
		svc := webService()
		svc.Name, svc.ClusterIPs = fmt.Sprint("web-", i), []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})}
		all[i] = &cluster.ServiceObjects{Service: svc, Slices: []*cluster.EndpointSlice{bigSlice(i, endpoints)}}
	}
	return all
}

func bigSlice(service, endpoints int) *cluster.EndpointSlice {
	s := webSlice("s", 8080)
	for i := range endpoints {
		n := service*endpoints + i*7919
		s.Endpoints = append(s.Endpoints, cluster.Endpoint{Addr: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}),
			Node: "n2", Ready: true, Serving: true, ForZones: []string{"z1"}})
	}
	return s
}

func load(all []*cluster.ServiceObjects) *service.Table {
	t := service.NewTable(service.Self{Node: "n1", Zone: "z1"})
	for _, o := range all {
		t.SetService(o.Service.ServiceName, o)
	}
	t.Changed()
	return t
}

func sizes() [][2]int { return [][2]int{{44, 1}, {44000, 1}, {50, 50}, {5000, 50}} }

func BenchmarkFullLoad(b *testing.B) {
	for _, size := range sizes() {
		all := big(size[0], size[1])
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) {
			for b.Loop() {
				load(all)
			}
			b.StopTimer()
			b.ReportMetric(float64(heap(func() any { return load(all) }))/float64(size[0]), "B/Service")
		})
	}
}

// heap is how much of it is used by what make returns.
func heap(make func() any) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	kept := make()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(kept)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// An endpoint of one Service goes, and comes back.
func BenchmarkOneChange(b *testing.B) {
	for _, size := range sizes() {
		all := big(size[0], size[1])
		table := load(all)
		was := all[len(all)/2]
		less := *was.Slices[0]
		less.Endpoints = less.Endpoints[1:]
		states := []*cluster.ServiceObjects{{Service: was.Service, Slices: []*cluster.EndpointSlice{&less}}, was}
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				table.SetService(was.Service.ServiceName, states[i%2])
				if len(table.Changed()) != 1 {
					b.Fatal("not one port changed")
				}
			}
		})
	}
}

// A Service itself changes: its claims are taken back and made again.
func BenchmarkOneServiceComesAndGoes(b *testing.B) {
	for _, size := range sizes() {
		all := big(size[0], size[1])
		table, one := load(all), all[len(all)/2]
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) {
			for b.Loop() {
				table.SetService(one.Service.ServiceName, nil)
				table.SetService(one.Service.ServiceName, one)
				table.Changed()
			}
		})
	}
}
