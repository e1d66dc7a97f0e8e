package agent

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/health"
	"github.com/polder-net/polder/internal/service"
)

// Whatever ports come, change and go, the marks are those of the ports that are there.
func TestMarksAreThoseOfThePortsThatThereAre(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var marks portMarks
	ports := map[service.PortName]*service.Port{}
	for range 500 {
		changed := map[service.PortName]*service.Port{}
		for range 1 + r.IntN(3) {
			name := service.PortName{ServiceName: cluster.ServiceName{Name: fmt.Sprint(r.IntN(4))}, Protocol: cluster.TCP, IPv4: r.IntN(2) == 0}
			changed[name] = randomPort(r, name)
		}
		for name, p := range changed {
			if p == nil {
				delete(ports, name)
			} else {
				ports[name] = p
			}
		}
		marks.note(changed)
		var fresh portMarks
		fresh.note(ports)
		if marks.inside != fresh.inside || marks.outside != fresh.outside || !reflect.DeepEqual(marks.checks(), fresh.checks()) {
			t.Fatalf("%+v, want %+v", marks, fresh)
		}
	}
}

func randomPort(r *rand.Rand, name service.PortName) *service.Port {
	if r.IntN(3) == 0 {
		return nil
	}
	p := &service.Port{Name: name, InternalLocal: r.IntN(2) == 0, ExternalLocal: r.IntN(2) == 0, LocalReady: r.IntN(3)}
	if r.IntN(2) == 0 {
		p.HealthCheckNodePort = 30000
	}
	backends := []service.Backend{{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}}
	p.Cluster, p.Local = backends[:r.IntN(2)], backends[:r.IntN(2)]
	return p
}

func TestAHealthCheckCountsTheFamilyWithMoreEndpoints(t *testing.T) {
	var marks portMarks
	name := cluster.ServiceName{Namespace: "default", Name: "web"}
	changed := map[service.PortName]*service.Port{}
	for ipv4, ready := range map[bool]int{true: 2, false: 1} {
		n := service.PortName{ServiceName: name, Protocol: cluster.TCP, IPv4: ipv4}
		changed[n] = &service.Port{Name: n, HealthCheckNodePort: 30000, LocalReady: ready}
	}
	marks.note(changed)
	want := map[cluster.ServiceName]health.Check{name: {Port: 30000, LocalReady: 2}}
	if got := marks.checks(); !marks.moved || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}
