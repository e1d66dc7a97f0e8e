package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
)

// TestServicesServeWhatIsUnusual has one lab of each way for all that needs but few Services.
func TestServicesServeWhatIsUnusual(t *testing.T) {
	eachWay(t, func(t *testing.T, p *proxy) {
		p.backends("web", "node-1", "node-2", "node-3")
		for name, test := range map[string]func(*testing.T, *proxy){
			"a pod that is its own backend gets its answer":                 testHairpin,
			"clients stay with their backend as long as they are to":        testAffinity,
			"a load balancer's source ranges bind nobody elsewhere":         testSourceRanges,
			"ports that no Service has are refused, and addresses are mute": testNobody,
			"datagrams of many fragments come and go whole":                 testFragmentsToServices,
			"packets of full size are handed over":                          testFullSize,
			"flows that would look the same are kept apart":                 testCollisions,
			"a Service of one family has no address of the other":           testOneFamily,
		} {
			t.Run(name, func(t *testing.T) {
				inner := *p
				inner.t = t
				test(t, &inner)
			})
		}
	})
}

// web makes a Service of the backends everywhere, and waits until it is served.
func (p *proxy) web(o lab.ServiceOptions) lab.Service {
	p.t.Helper()
	o.Type, o.Selector = "LoadBalancer", map[string]string{"app": "web"}
	s := p.service(o)
	p.servedBy(o.Name, 3)
	p.t.Cleanup(func() {
		if err := p.DeleteService(o.Name); err != nil {
			p.t.Error(err)
		}
	})
	return s
}

// must wants an outcome, and returns the answer.
func (p *proxy) must(want outcome, c *client, network string, to netip.AddrPort) lab.Answer {
	p.t.Helper()
	a, err := want.check(c, network, to)
	if err != nil {
		p.t.Error(err)
	}
	return a
}

func anyWeb() outcome { return outcome{backends: []string{"web-1", "web-2", "web-3"}} }

func testHairpin(t *testing.T, p *proxy) {
	self := p.backends("self", "node-1")[0]
	s := p.service(lab.ServiceOptions{Name: "self", Type: "LoadBalancer"})
	p.servedBy("self", 1)
	c := &client{self.Place, openSockets(t, self.Place), self.Addresses}
	for family, i := range families() {
		for n, network := range []string{"tcp", "udp"} {
			for what, to := range map[string]netip.AddrPort{
				"cluster IP":    netip.AddrPortFrom(s.ClusterIPs[i], 80),
				"load balancer": netip.AddrPortFrom(s.LoadBalancerIPs[i], 80),
				"node port":     netip.AddrPortFrom(p.node1.Cluster().Addresses[i], s.Ports[n].NodePort),
				"other's port":  netip.AddrPortFrom(p.node2.Cluster().Addresses[i], s.Ports[n].NodePort),
			} {
				a, err := outcome{backends: []string{"self-1"}}.check(c, network, to)
				if err != nil {
					t.Errorf("%s %s: %v", what, family, err)
				} else if seen := a.Seen.Addr(); seen != to.Addr() && seen != a.Own.Addr() {
					t.Errorf("%s %s: the pod sees %s, neither its own address nor the Service's", what, family, seen)
				}
			}
		}
	}
}

func testAffinity(t *testing.T, p *proxy) {
	long, short := p.web(lab.ServiceOptions{Name: "long", Affinity: 3600}), p.web(lab.ServiceOptions{Name: "short", Affinity: 1})
	for family, i := range families() {
		for n, network := range []string{"tcp", "udp"} {
			for _, c := range p.clients() {
				first := ""
				for range 8 { // wherever it asks, it is the same Service
					for _, to := range []netip.AddrPort{netip.AddrPortFrom(long.LoadBalancerIPs[i], 80),
						netip.AddrPortFrom(p.node1.Cluster().Addresses[i], long.Ports[n].NodePort)} {
						a := p.must(anyWeb(), c, network, to)
						if first == "" {
							first = a.Name
						}
						if a.Name != first {
							t.Errorf("%s by %s %s: %s answers after %s", c.Name, network, family, a.Name, first)
						}
					}
				}
				// Each round has one chance in three to find the same backend by chance.
				to := netip.AddrPortFrom(short.LoadBalancerIPs[i], 80)
				first = p.must(anyWeb(), c, network, to).Name
				eventually(t, time.Minute, c.Name+" comes to another backend", func() error {
					time.Sleep(1100 * time.Millisecond)
					if a := p.must(anyWeb(), c, network, to); a.Name == first {
						return fmt.Errorf("%s answers as before", first)
					}
					return nil
				})
			}
		}
	}
}

func testSourceRanges(t *testing.T, p *proxy) {
	s := p.web(lab.ServiceOptions{Name: "ranges"})
	for family, i := range families() {
		var ranges []string
		for _, a := range append(slices.Clone(p.outside.addrs), p.node1.Cluster().Addresses...) {
			ranges = append(ranges, fmt.Sprintf(" %s/%d ", a, a.BitLen())) // blanks do not count
		}
		p.edit(s, func(spec map[string]any) { spec["loadBalancerSourceRanges"] = ranges })
		p.rangesServed("ranges", len(ranges))
		for n, network := range []string{"tcp", "udp"} {
			t.Log(family, network)
			vip := netip.AddrPortFrom(s.LoadBalancerIPs[i], 80)
			p.must(anyWeb(), p.outside, network, vip)
			p.must(anyWeb(), p.onNode, network, vip)
			p.must(outcome{silent: true}, p.inPod, network, vip)
			for _, c := range p.clients()[:2] {
				p.must(anyWeb(), c, network, netip.AddrPortFrom(s.ClusterIPs[i], 80))
			}
			for _, c := range p.clients() {
				p.must(anyWeb(), c, network, netip.AddrPortFrom(p.node1.Cluster().Addresses[i], s.Ports[n].NodePort))
			}
		}
		p.edit(s, func(spec map[string]any) {
			spec["loadBalancerSourceRanges"] = []string{"203.0.113.0/24", "2001:db8:9::/64"}
		})
		p.rangesServed("ranges", 2)
		for _, network := range []string{"tcp", "udp"} {
			p.must(outcome{silent: true}, p.outside, network, netip.AddrPortFrom(s.LoadBalancerIPs[i], 80))
		}
	}
}

// rangesServed waits until the agents of the nodes that are asked have so many source ranges of a Service.
func (p servicesRig) rangesServed(service string, count int) {
	p.t.Helper()
	for _, n := range p.Nodes() {
		eventually(p.t, time.Minute, n.Name+" knows the source ranges", func() error {
			s, err := p.served(n, service)
			if err == nil && len(s.SourceRanges) != count {
				err = fmt.Errorf("they are %v", s.SourceRanges)
			}
			return err
		})
	}
}

func testNobody(t *testing.T, p *proxy) {
	s := p.web(lab.ServiceOptions{Name: "some"})
	free := []netip.Addr{netip.MustParseAddr("10.96.200.1"), netip.MustParseAddr("fd00:96::f001")}
	for _, i := range families() {
		for _, network := range []string{"tcp", "udp"} {
			for _, c := range p.clients()[:2] {
				p.must(outcome{}, c, network, netip.AddrPortFrom(s.ClusterIPs[i], 81))
				p.must(outcome{silent: true}, c, network, netip.AddrPortFrom(free[i], 80))
			}
			// A node port that nobody has is the node's own: its kernel refuses.
			p.must(outcome{}, p.outside, network, netip.AddrPortFrom(p.node1.Cluster().Addresses[i], 32001))
		}
	}
}

func testOneFamily(t *testing.T, p *proxy) {
	s := p.service(lab.ServiceOptions{Name: "six", Type: "NodePort", Selector: map[string]string{"app": "web"},
		ClusterIPs: []netip.Addr{netip.MustParseAddr("fd00:96::6666")}})
	p.servedBy("six", 3)
	for n, network := range []string{"tcp", "udp"} {
		p.must(anyWeb(), p.inPod, network, netip.AddrPortFrom(s.ClusterIPs[0], 80))
		for _, c := range p.clients() {
			p.must(anyWeb(), c, network, netip.AddrPortFrom(p.node1.Cluster().Addresses[1], s.Ports[n].NodePort))
			_, err := c.ask(network, netip.AddrPortFrom(p.node1.Cluster().Addresses[0], s.Ports[n].NodePort), patience)
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s by %s, IPv4: %v, want a refusal", c.Name, network, err)
			}
		}
	}
}
