package datapath

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

// manyPorts are Services of so many backends each, of one port each.
func manyPorts(services, backends int) map[service.PortName]*service.Port {
	all := make(map[service.PortName]*service.Port, services)
	for i := range services {
		name := service.PortName{ServiceName: cluster.ServiceName{Namespace: "default", Name: fmt.Sprint("web-", i)}, Protocol: cluster.TCP, IPv4: true}
		p := &service.Port{Name: name, Frontends: map[service.Frontend]service.Kind{
			{Addr: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80, Protocol: cluster.TCP}: service.ClusterIP}}
		for k := range backends {
			n := i*backends + k
			p.Cluster = append(p.Cluster, service.Backend{Addr: netip.AddrFrom4([4]byte{10, byte(128 + n>>16), byte(n >> 8), byte(n)}), Port: 8080})
		}
		all[name] = p
	}
	return all
}

// Empty maps get all Services.
func BenchmarkSyncServices(b *testing.B) {
	for _, size := range [][2]int{{10000, 10}, {44000, 1}, {5000, 50}} {
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) {
			all := manyPorts(size[0], size[1])
			none := map[service.PortName]*service.Port{}
			for name := range all {
				none[name] = nil
			}
			d, now := openTest(b), time.Now()
			if _, err := d.ResyncServices(nil, false, now); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := d.SyncServices(all, now); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				now = now.Add(2 * retireAfter)
				for range 2 {
					if err := d.SyncServices(none, now); err != nil {
						b.Fatal(err)
					}
					now = now.Add(2 * retireAfter)
				}
				b.StartTimer()
			}
		})
	}
}

// The maps say what they should, and are read back all the same.
func BenchmarkResyncServices(b *testing.B) {
	for _, size := range [][2]int{{10000, 10}, {44000, 1}, {5000, 50}} {
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) {
			all, d := manyPorts(size[0], size[1]), openTest(b)
			if _, err := d.ResyncServices(all, false, time.Now()); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				changes, err := d.ResyncServices(all, false, time.Now())
				if err != nil || len(changes) > 0 {
					b.Fatal(len(changes), err)
				}
			}
		})
	}
}

func TestServedSaysWhatTheMapsSay(t *testing.T) {
	d := openTest(t)
	if _, err := d.ResyncServices(manyPorts(3, 2), false, time.Now()); err != nil {
		t.Fatal(err)
	}
	s, err := OpenServed(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f := service.Frontend{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: cluster.TCP}
	got, ok, err := s.Backends(f)
	if want := "[{10.128.0.2 8080} {10.128.0.3 8080}]"; !ok || err != nil || fmt.Sprint(got) != want {
		t.Errorf("%s leads to %v, %v (%v), want %s", f, got, ok, err, want)
	}
	f.Port++
	if _, ok, err := s.Backends(f); ok || err != nil {
		t.Errorf("%s is there (%v)", f, err)
	}
	if has, err := s.Has(f); has || err != nil {
		t.Errorf("%s is there (%v)", f, err)
	}
}

func TestWhatIsWrittenIsCounted(t *testing.T) {
	d := openTest(t)
	if _, err := d.ResyncServices(nil, false, time.Now()); err != nil {
		t.Fatal(err)
	}
	before := d.ServiceWrites()
	if err := d.SyncServices(manyPorts(3, 2), time.Now()); err != nil {
		t.Fatal(err)
	}
	// Six backends in one call; three frontends and their three addresses in another.
	if got, want := d.ServiceWrites().Since(before), (Writes{Rows: 12, Calls: 2}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
