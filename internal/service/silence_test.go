package service_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

func TestWhatAServiceAsksForAndDoesNotGetIsAProblem(t *testing.T) {
	first := seed(t)
	for i := range uint64(1000) {
		s, table := random(newDice(first + i))
		have, named := frontends(t, table), map[string]bool{}
		for _, p := range table.Problems() {
			named[p.Object] = true
		}
		for name, o := range s.services {
			for _, f := range asked(o.Service) {
				if p := have[f]; (p == nil || p.Name.ServiceName != name) && !named["Service/"+name.String()] {
					t.Errorf("-seed=%d: %s does not have %s, and there is no problem", first+i, name, f)
				}
			}
		}
		for _, p := range s.pods {
			if have[p.Frontend] == nil && !named["Pod/"+p.Namespace+"/"+p.Pod] {
				t.Errorf("-seed=%d: %v is nowhere, and there is no problem", first+i, p)
			}
		}
	}
}

// asked are the frontends that a Service's manifest speaks of.
func asked(svc *cluster.Service) (all []service.Frontend) {
	for _, p := range svc.Ports {
		for _, a := range slices.Concat(svc.ClusterIPs, svc.LoadBalancerIPs, svc.ExternalIPs) {
			all = append(all, service.Frontend{Addr: a, Port: p.Port, Protocol: p.Protocol})
		}
		for _, a := range svc.ClusterIPs {
			unspecified := netip.IPv6Unspecified()
			if a.Is4() {
				unspecified = netip.IPv4Unspecified()
			}
			if p.NodePort != 0 {
				all = append(all, service.Frontend{Addr: unspecified, Port: p.NodePort, Protocol: p.Protocol})
			}
		}
	}
	return all
}

func TestAnEndpointIsChosenOrLeftOutForAReason(t *testing.T) {
	first := seed(t)
	for i := range uint64(1000) {
		s, table := random(newDice(first + i))
		for name, o := range s.services {
			out := map[service.PortName]map[service.Backend]string{}
			for _, e := range service.LeftOut(s.self, o) {
				if out[e.Port] == nil {
					out[e.Port] = map[service.Backend]string{}
				}
				out[e.Port][e.Backend] = e.Reason
			}
			for _, p := range table.Ports() {
				if p.Name.ServiceName == name && p.Frontends != nil {
					checkLeftOut(t, first+i, o, p, out[p.Name])
				}
			}
		}
	}
}

func checkLeftOut(t *testing.T, seed uint64, o *cluster.ServiceObjects, p *service.Port, out map[service.Backend]string) {
	chosen := slices.Concat(p.Cluster, p.Local)
	for b, reason := range out {
		if slices.Contains(chosen, b) {
			t.Errorf("-seed=%d: %v of %v is chosen, and left out: %s", seed, b, p.Name, reason)
		}
	}
	for _, s := range o.Slices {
		for _, sp := range s.Ports {
			if s.IPv4 != p.Name.IPv4 || sp.Name != p.Name.Port || sp.Protocol != p.Name.Protocol || sp.Port == 0 {
				continue
			}
			for _, e := range s.Endpoints {
				b := service.Backend{Addr: e.Addr, Port: sp.Port}
				lost := o.Service.ExternalLocal || o.Service.InternalLocal // what uses the local set may be another's
				if out[b] == "" && !slices.Contains(chosen, b) && !lost {
					t.Errorf("-seed=%d: %v of %v is neither chosen nor left out", seed, b, p.Name)
				}
			}
		}
	}
}
