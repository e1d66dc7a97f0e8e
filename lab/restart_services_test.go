package lab_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
)

// TestKillingAndUpgradingAgentsCostsNoConnectionToServices is the test of restarts for traffic that is led to backends:
// from pods, nodes and outside, with packets handed over to another node or not.
func TestKillingAndUpgradingAgentsCostsNoConnectionToServices(t *testing.T) {
	others := otherAgents(t)
	for _, name := range []string{"sockets", "packets alone"} {
		t.Run(name, func(t *testing.T) {
			w := worldOf(t, lab.Options{AgentEnv: ways()[name]})
			seed := restartSeedOf(t)
			paths := w.servicePaths(t)
			if full() {
				paths = append(paths, w.paths()...)
			}
			run, err := traffic.Start(paths, traffic.Control(t), restartLoad(len(paths)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { run.Stop() })
			churn, still := w.churn(t), w.flicker(t)
			broken := w.disturb(seed, append(others[:len(others):len(others)], build{program: w.Bin() + "/polder-agent"}))
			still()
			churn.stop()
			report, err := run.Stop()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d kills, %d upgrades; %d pods came and went meanwhile\n%s", *restartKills, *restartUpgrades, churn.pods.Load(), report)
			judge(t, report)
			if broken != nil {
				t.Fatal(broken)
			}
			w.settled(t)
		})
	}
}

// servicePaths are paths over Services, of each pod one.
func (w *world) servicePaths(t *testing.T) []traffic.Path {
	t.Helper()
	r := servicesRig{w.Cluster, t}
	pod, node, outside := dialing(t, w.one.Place, w.one.Addresses), dialing(t, w.near.Place, w.near.Cluster().Addresses),
		dialing(t, w.Outside(), w.OutsideAddresses())
	var paths []traffic.Path
	for _, backend := range []*lab.Pod{w.two, w.native, w.tunnelled} {
		uses := []serviceUse{{"pod to", pod, nil}, {"node to", node, nil}, {"outside by node-1 to", outside, w.near}}
		if backend == w.native {
			uses = append(uses, serviceUse{"outside by node-2 to", outside, w.far})
		}
		s := r.service(lab.ServiceOptions{Name: backend.Name, Type: "NodePort", Ports: usePorts(len(uses))})
		r.servedBy(s.Name, 1)
		for i, use := range uses {
			paths = append(paths, use.paths(i, s, backend)...)
		}
	}
	return paths
}

// serviceUse is somebody who uses a Service: its cluster IP or, where there is a node, that node's port.
type serviceUse struct {
	name string
	from [2]traffic.End
	by   *lab.Node
}

// dialing are a place's ends, whose sockets are seen as its programs' are.
func dialing(t *testing.T, at lab.Place, addrs []netip.Addr) (ends [2]traffic.End) {
	s := openSockets(t, at)
	for i, a := range addrs {
		ends[i] = traffic.End{Place: at, Addr: a, Dial: s.dial}
	}
	return ends
}

const firstUse = 9000 // the target port of the first

// usePorts are the ports of a Service with so many uses, each to be told from the others by its target.
func usePorts(uses int) []lab.ServicePort {
	var all []lab.ServicePort
	for i := range uses {
		for _, protocol := range []string{"TCP", "UDP"} {
			all = append(all, lab.ServicePort{Port: uint16(80 + i), Target: fmt.Sprint(firstUse + i), Protocol: protocol})
		}
	}
	return all
}

func (u serviceUse) paths(use int, s lab.Service, backend *lab.Pod) []traffic.Path {
	var paths []traffic.Path
	for family, i := range families() {
		p := traffic.Path{Name: fmt.Sprintf("%s %s %s", u.name, backend.Name, family), From: u.from[i],
			To: traffic.End{Place: backend.Place, Addr: backend.Addresses[i]}, Port: uint16(firstUse + use)}
		if u.by == nil {
			p.TCP = netip.AddrPortFrom(s.ClusterIPs[i], uint16(80+use))
			p.UDP = p.TCP
		} else {
			p.TCP = netip.AddrPortFrom(u.by.Cluster().Addresses[i], s.Ports[2*use].NodePort)
			p.UDP = netip.AddrPortFrom(u.by.Cluster().Addresses[i], s.Ports[2*use+1].NodePort)
		}
		paths = append(paths, p)
	}
	return paths
}

// flicker has a Service whose backend is ready, and not ready, and ready again, until it is told to be still.
func (w *world) flicker(t *testing.T) (still func()) {
	t.Helper()
	r := servicesRig{w.Cluster, t}
	create(t, w.Cluster, lab.PodOptions{Name: "flicker", Node: w.far.Name})
	r.service(lab.ServiceOptions{Name: "flicker", Type: "NodePort"})
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for ready := false; ; ready = !ready {
			select {
			case <-stop:
				return
			case <-time.After(150 * time.Millisecond):
			}
			if err := w.SetPodReady("flicker", ready); err != nil {
				t.Errorf("flicker: %v", err)
				return
			}
		}
	})
	still = sync.OnceFunc(func() {
		close(stop)
		running.Wait()
	})
	t.Cleanup(still)
	return still
}
