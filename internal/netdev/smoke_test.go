package netdev

import (
	"os/exec"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/testnet"
	"net/netip"
)

func TestSmoke(t *testing.T) {
	host, pod := testnet.New(t), testnet.New(t)
	k := open(t, host)
	p, err := k.CreatePod(aPod("c1"), pod.File())
	if err != nil {
		t.Fatal(err)
	}
	if err := k.ActivatePod(p, pod.File(), nil); err != nil {
		t.Fatal(err)
	}
	rows := map[route.RouteKey]route.Route{}
	ne := map[route.NeighbourKey]cluster.MAC{}
	for _, a := range p.Addresses {
		rows[route.RouteKey{Prefix: netip.PrefixFrom(a, a.BitLen())}] = route.Route{Link: p.Link}
		ne[route.NeighbourKey{Link: p.Link, Addr: a}] = p.PodMAC
	}
	rows[route.RouteKey{Prefix: netip.MustParsePrefix("10.1.0.0/24")}] = route.Route{Unreachable: true}
	rows[route.RouteKey{Prefix: netip.MustParsePrefix("fd00:1::/64")}] = route.Route{Unreachable: true}
	if err := k.PutPod(rows, ne); err != nil {
		t.Fatal(err)
	}
	ch, err := k.Sync(desired.Tables{Routes: rows, Neighbours: ne, Rules: map[route.Rule]bool{
		{From: netip.MustParsePrefix("10.1.0.0/24"), Table: route.TunnelTable}: true,
	}})
	t.Log(ch, err)
	ch, err = k.Sync(desired.Tables{Routes: rows, Neighbours: ne, Rules: map[route.Rule]bool{
		{From: netip.MustParsePrefix("10.1.0.0/24"), Table: route.TunnelTable}: true,
	}})
	t.Log(ch, err)
	for _, ns := range []*testnet.NS{host, pod} {
		ns.Do(func() {
			out, _ := exec.Command("sh", "-c", "ip -d link; ip addr; ip route; ip -6 route; ip neigh; ip -6 neigh; ip rule").CombinedOutput()
			t.Log(string(out))
		})
	}
	pods, un, err := k.Pods()
	t.Log(pods, un, err)
	ch, err = k.Sync(desired.Tables{})
	t.Log(ch, err)
	t.Log(k.DeletePod(p.Link))
	t.Log(k.DeletePod(p.Link))
}
