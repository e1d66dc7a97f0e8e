package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/lab"
)

// TestALabWithoutServicesServesNone has agents that are to leave Services to somebody else.
func TestALabWithoutServicesServesNone(t *testing.T) {
	p := newProxy(t, lab.Options{AgentArgs: []string{"--services", "off"}})
	pods := p.backends("web", "node-1", "node-2")
	s := p.service(lab.ServiceOptions{Name: "web", Type: "LoadBalancer"})
	p.awaitEndpoints("web", 2, 2)
	for _, n := range p.Nodes() {
		_, err := p.served(n, "web")
		if refused := (*api.Error)(nil); !errors.As(err, &refused) || refused.Code != api.CodeUnsupported {
			t.Errorf("%s lists Services: %v", n.Name, err)
		}
		have, err := mapsOf(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"frontends", "backends", "members", "source_ranges"} {
			if len(have[table]) > 0 {
				t.Errorf("%s: %s are %v", n.Name, table, have[table])
			}
		}
		if names := socketPrograms(t, n); len(names) > 0 {
			t.Errorf("%s: sockets have the programs %q", n.Name, names)
		}
	}
	for _, i := range families() {
		for n, network := range []string{"tcp", "udp"} {
			for _, c := range p.clients() {
				for what, to := range map[string]netip.AddrPort{
					"cluster IP": netip.AddrPortFrom(s.ClusterIPs[i], 80),
					"node port":  netip.AddrPortFrom(p.node1.Cluster().Addresses[i], s.Ports[n].NodePort),
				} {
					if a, err := c.ask(network, to, patience/20); err == nil {
						t.Errorf("%s asks the %s %s: %+v", c.Name, what, to, a)
					}
				}
			}
			for _, pod := range pods { // pods are reached as ever
				p.must(outcome{backends: []string{pod.Name}}, p.inPod, network, netip.AddrPortFrom(pod.Addresses[i], backendPort))
			}
		}
	}
}

// TestSocketsHaveProgramsOnlyWhereTheyAreLookedAt says what the other tests take for granted of the two ways.
func TestSocketsHaveProgramsOnlyWhereTheyAreLookedAt(t *testing.T) {
	eachWay(t, func(t *testing.T, p *proxy) {
		for _, n := range p.Nodes() {
			names := socketPrograms(t, n)
			if strings.HasSuffix(t.Name(), "/sockets") != (len(names) > 0) {
				t.Errorf("%s: sockets have the programs %q", n.Name, names)
			}
		}
	})
}

// socketPrograms are the kinds of hooks that have programs on a node's root of control groups.
func socketPrograms(t *testing.T, n *lab.Node) []string {
	t.Helper()
	group, err := os.Open(fmt.Sprintf("/proc/%d/root/sys/fs/cgroup", n.PID()))
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	var names []string
	for _, hook := range []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
		ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg, ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
		ebpf.AttachCGroupInet4PostBind, ebpf.AttachCGroupInet6PostBind,
	} {
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(group.Fd()), Attach: hook})
		if err != nil {
			t.Fatalf("%s: %v", n.Name, err)
		}
		if len(result.Programs) > 0 {
			names = append(names, hook.String())
		}
	}
	return names
}
