package datapath

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

func outsidePort() *service.Port {
	addr := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	return &service.Port{
		Name: service.PortName{ServiceName: cluster.ServiceName{Namespace: "default", Name: "web"}, Protocol: cluster.TCP, IPv4: true},
		Frontends: map[service.Frontend]service.Kind{
			{Addr: addr("10.96.0.9"), Port: 80, Protocol: cluster.TCP}:  service.ClusterIP,
			{Addr: addr("0.0.0.0"), Port: 30080, Protocol: cluster.TCP}: service.NodePort},
		Cluster: []service.Backend{{Addr: addr("10.0.1.2"), Port: 8080}, {Addr: addr("10.0.1.3"), Port: 8080}, {Addr: addr("10.0.2.2"), Port: 8080}},
	}
}

func TestRowsThatSomebodyTookAwayAreNoticedAndComeBack(t *testing.T) {
	d := openTest(t)
	p := outsidePort()
	all := map[service.PortName]*service.Port{p.Name: p}
	if _, err := d.ResyncServices(all, false, time.Now()); err != nil {
		t.Fatal(err)
	}
	generation := d.services.ports[p.Name].generation
	for name, spoil := range map[string]func() error{
		"frontend": func() error {
			return d.maps[bpfMapFrontends].Delete(encodeFrontend(service.Frontend{Addr: netip.MustParseAddr("10.96.0.9"), Port: 80, Protocol: cluster.TCP}))
		},
		"backend": func() error {
			return d.maps[bpfMapBackends].Delete(bpfBackendKey{Generation: d.services.ports[p.Name].generation, Slot: 1})
		},
	} {
		if !d.VerifyServices(1000) {
			t.Fatal("rows are missing before anybody touched them")
		}
		if err := spoil(); err != nil {
			t.Fatal(name, err)
		}
		if d.VerifyServices(1000) {
			t.Fatalf("nobody noticed that a %s is missing", name)
		}
		if changes, err := d.ResyncServices(all, false, time.Now()); err != nil || len(changes) == 0 {
			t.Fatalf("%s: %v, %v", name, changes, err)
		}
	}
	if d.services.ports[p.Name].generation < generation {
		t.Fatal("a generation was given again")
	}
}

func TestEveryGenerationWithClientsOutsideHasItsRing(t *testing.T) {
	d := openTest(t)
	p := outsidePort()
	now := time.Now()
	if _, err := d.ResyncServices(map[service.PortName]*service.Port{p.Name: p}, false, now); err != nil {
		t.Fatal(err)
	}
	first := d.services.ports[p.Name].generation
	less := outsidePort()
	less.Cluster = less.Cluster[:2]
	if err := d.SyncServices(map[service.PortName]*service.Port{p.Name: less}, now); err != nil {
		t.Fatal(err)
	}
	if rings, err := d.readRings(); err != nil || !rings[first] || !rings[d.services.ports[p.Name].generation] || len(rings) != 2 {
		t.Fatalf("rings %v, %v", rings, err)
	}
	if err := d.SyncServices(nil, now.Add(2*retireAfter)); err != nil {
		t.Fatal(err)
	}
	if rings, err := d.readRings(); err != nil || rings[first] || len(rings) != 1 {
		t.Fatalf("a generation is gone, its ring is not: %v, %v", rings, err)
	}
	inside := outsidePort()
	inside.Frontends = map[service.Frontend]service.Kind{{Addr: netip.MustParseAddr("10.96.0.9"), Port: 80, Protocol: cluster.TCP}: service.ClusterIP}
	if _, err := d.ResyncServices(map[service.PortName]*service.Port{p.Name: inside}, false, now); err != nil {
		t.Fatal(err)
	}
	if err := d.SyncServices(nil, now.Add(4*retireAfter)); err != nil {
		t.Fatal(err)
	}
	if rings, err := d.readRings(); err != nil || len(rings) != 0 {
		t.Fatalf("a Service without clients outside has a ring: %v, %v", rings, err)
	}
}

func TestWhatMayStillBeWantedStays(t *testing.T) {
	d := openTest(t)
	p := outsidePort()
	now := time.Now()
	if _, err := d.ResyncServices(map[service.PortName]*service.Port{p.Name: p}, false, now); err != nil {
		t.Fatal(err)
	}
	before := canonOf(t, d)
	for range 2 {
		now = now.Add(2 * retireAfter)
		if changes, err := d.ResyncServices(nil, true, now); err != nil || len(changes) > 0 {
			t.Fatalf("%v, %v", changes, err)
		}
		if err := d.SyncServices(nil, now.Add(2*retireAfter)); err != nil {
			t.Fatal(err)
		}
	}
	if after := canonOf(t, d); !reflect.DeepEqual(before, after) {
		t.Fatalf("was\n%+v\nis\n%+v", before, after)
	}
	if rings, err := d.readRings(); err != nil || len(rings) != 1 {
		t.Fatalf("rings %v, %v", rings, err)
	}
}
