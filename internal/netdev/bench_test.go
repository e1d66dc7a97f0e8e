package netdev

import (
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/testnet"
)

// rowsOf are the kernel's rows of a pod.
func rowsOf(p cluster.LocalPod) (map[route.RouteKey]route.Route, map[route.NeighbourKey]cluster.MAC) {
	rows := route.CompilePod(cluster.Node{}, p)
	return rows.Routes, rows.Neighbours
}

// BenchmarkADD attaches and detaches a pod, as ADD and DEL do; it reports each part.
func BenchmarkADD(b *testing.B) {
	host, pod := testnet.New(b), testnet.New(b)
	k := open(b, host)
	var create, activate, put, del time.Duration
	lap := func(sum *time.Duration, since *time.Time) {
		now := time.Now()
		*sum += now.Sub(*since)
		*since = now
	}
	p := aPod("0")
	for i := range b.N {
		p.ContainerID = strconv.Itoa(i)
		p.Addresses = []netip.Addr{netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("fd00:1::7")}
		t := time.Now()
		made, err := k.CreatePod(p, pod.File())
		if err != nil {
			b.Fatal(err)
		}
		lap(&create, &t)
		if err := k.ActivatePod(made, pod.File(), nil); err != nil {
			b.Fatal(err)
		}
		lap(&activate, &t)
		if err := k.PutPod(rowsOf(made)); err != nil {
			b.Fatal(err)
		}
		lap(&put, &t)
		if err := k.DeletePod(made.Link); err != nil {
			b.Fatal(err)
		}
		lap(&del, &t)
	}
	for name, d := range map[string]time.Duration{"create": create, "activate": activate, "put": put, "delete": del} {
		b.ReportMetric(float64(d.Microseconds())/float64(b.N), name+"-µs/op")
	}
}
