package datapath

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/service"
)

// entries counts what a trial might leave.
func trialEntries(t *testing.T, d *Datapath) (n int) {
	t.Helper()
	for _, name := range []string{bpfMapOpening, bpfMapFlows, bpfMapAffinities} {
		m := d.maps[name]
		it, key, value := m.Iterate(), make([]byte, m.KeySize()), make([]byte, m.ValueSize())
		for it.Next(&key, &value) {
			n++
		}
		if err := it.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestATrialChoosesAndLeavesNothing(t *testing.T) {
	d := openTest(t)
	want := world()
	want.Config.Services, want.Config.Node4 = true, netip.MustParseAddr("192.0.2.1")
	if _, err := d.SyncMaps(want); err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort
	ports := map[service.PortName]*service.Port{}
	for name, frontends := range map[string]map[service.Frontend]service.Kind{
		"web": {{Addr: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: cluster.TCP}: service.ClusterIP,
			{Addr: netip.IPv4Unspecified(), Port: 30080, Protocol: cluster.TCP}: service.NodePort},
		"none": {{Addr: netip.MustParseAddr("10.96.0.2"), Port: 80, Protocol: cluster.TCP}: service.ClusterIP},
	} {
		p := &service.Port{Name: service.PortName{ServiceName: cluster.ServiceName{Namespace: "a", Name: name}, Protocol: cluster.TCP, IPv4: true},
			Frontends: frontends, Affinity: 60}
		if name == "web" {
			p.Cluster = []service.Backend{{Addr: netip.MustParseAddr("10.0.3.7"), Port: 8080}}
		}
		ports[p.Name] = p
	}
	if _, err := d.ResyncServices(ports, false, time.Now()); err != nil {
		t.Fatal(err)
	}
	pod, outside := netip.MustParseAddr("10.0.1.2"), netip.MustParseAddr("198.51.100.1")
	macs := [2]cluster.MAC{podMAC, hostMAC}
	for _, c := range []struct {
		name    string
		program desired.Program
		src     netip.Addr
		dst     string
		outcome string
		flow    *Flow
	}{
		{"to a cluster IP", desired.FromPod, pod, "10.96.0.1:80", "to tunnel", &Flow{Backend: at("10.0.3.7:8080")}},
		{"without backends", desired.FromPod, pod, "10.96.0.2:80", "refused", nil},
		{"to nobody's", desired.FromPod, pod, "10.0.1.3:80", "to pod", nil},
		{"from outside", desired.FromNetwork, outside, "192.0.2.1:30080", "to tunnel", &Flow{Node: netip.MustParseAddr("192.0.2.3")}},
		{"spoofed", desired.FromPod, outside, "10.96.0.1:80", "drop spoofed source", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			trial, err := d.Try(c.program, lo, macs, cluster.TCP, c.src, at(c.dst))
			if err != nil {
				t.Fatal(err)
			}
			if len(trial.Outcomes) != 1 || trial.Outcomes[0] != c.outcome || trial.Source.Addr() != c.src {
				t.Errorf("%+v, want %s", trial, c.outcome)
			}
			if (trial.Flow == nil) != (c.flow == nil) {
				t.Fatalf("flow is %+v", trial.Flow)
			}
			if c.flow != nil && (trial.Flow.Backend != c.flow.Backend || trial.Flow.Node != c.flow.Node || trial.Flow.Frontend != at(c.dst)) {
				t.Errorf("flow is %+v", trial.Flow)
			}
			if n := trialEntries(t, d); n != 0 {
				t.Errorf("%d entries are left", n)
			}
		})
	}
	owner := bpfAffinityKey{Owner: ownerOf(service.PortName{ServiceName: cluster.ServiceName{Namespace: "a", Name: "web"}, Protocol: cluster.TCP, IPv4: true}), Client: encodeAddr(pod)}
	before := bpfAffinity{Used: 1, Backend: encodeBackend(service.Backend{Addr: pod, Port: 1})}
	if err := d.maps[bpfMapAffinities].Update(owner, before, ebpf.UpdateAny); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Try(desired.FromPod, lo, macs, cluster.TCP, pod, at("10.96.0.1:80")); err != nil {
		t.Fatal(err)
	}
	var after bpfAffinity
	if err := d.maps[bpfMapAffinities].Lookup(owner, &after); err != nil || after != before {
		t.Errorf("the client stays with %+v, %v", after, err)
	}
}
