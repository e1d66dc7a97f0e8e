package service_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

// The facts of this file are those that kube-proxy's own tests hold it to: TestCategorizeEndpoints in
// pkg/proxy/topology_test.go of Kubernetes.

func address(last int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 2, byte(last)}) }

func ready(last int, zones ...string) cluster.Endpoint {
	return cluster.Endpoint{Addr: address(last), Ready: true, Serving: true, ForZones: zones}
}

func unready(last int, zones ...string) cluster.Endpoint {
	return cluster.Endpoint{Addr: address(last), ForZones: zones}
}

func ending(last int) cluster.Endpoint {
	return cluster.Endpoint{Addr: address(last), Serving: true, Terminating: true}
}

func here(e cluster.Endpoint) cluster.Endpoint { e.Node = "n1"; return e }

func forNodes(e cluster.Endpoint, nodes ...string) cluster.Endpoint { e.ForNodes = nodes; return e }

type policy struct{ in, ex, open bool } // policies that are Local; whether it has a node port

type categorizeCase struct {
	name           string
	zone           string
	policy         policy
	endpoints      []cluster.Endpoint
	cluster, local string // last bytes; the cluster set is kept even where nobody uses it: it tells drop from refuse
}

func categorizeCases() []categorizeCase {
	abca := []cluster.Endpoint{ready(3, "a"), ready(4, "b"), ready(5, "c"), ready(6, "a")}
	hereAB := []cluster.Endpoint{here(ready(3, "a")), here(ready(4, "b")), ready(5, "c"), ready(6, "a")}
	oneHere := []cluster.Endpoint{here(ready(1)), ready(2)}
	away := []cluster.Endpoint{ready(1), ready(2)}
	endings := []cluster.Endpoint{ready(1), here(unready(2)), here(ending(3)), ending(4)}
	return []categorizeCase{
		{"hints of zones filter", "a", policy{}, abca, "3 6", ""},
		{"hints do not filter for externalTrafficPolicy Local", "a", policy{ex: true, open: true}, hereAB, "3 6", "3 4"},
		{"hints do not filter for internalTrafficPolicy Local", "a", policy{in: true, open: true}, hereAB, "3 6", "3 4"},
		{"a node without a zone ignores hints", "", policy{}, []cluster.Endpoint{ready(3, "a")}, "3", ""},
		{"no hint for this zone: no filter", "b", policy{}, []cluster.Endpoint{ready(3, "a")}, "3", ""},
		{"an endpoint that is not ready has no say in hints", "a", policy{}, []cluster.Endpoint{ready(3, "a"), ready(4, "b"), ready(5, "c"), unready(6)}, "3", ""},
		{"only endpoints that are not ready are for this zone: no filter", "a", policy{},
			[]cluster.Endpoint{unready(3, "a"), ready(4, "b"), ready(5, "c"), unready(6, "a")}, "4 5", ""},
		{"one ready endpoint has no hint: no filter", "a", policy{}, []cluster.Endpoint{ready(3, "a"), ready(4, "b"), ready(5), ready(6, "a")}, "3 4 5 6", ""},
		{"an endpoint may have hints of several zones", "c", policy{},
			[]cluster.Endpoint{ready(3, "a", "b", "c"), ready(4, "b", "c"), ready(5, "b", "d"), ready(6, "c")}, "3 4 6", ""},
		{"hints of nodes come first", "a", policy{},
			[]cluster.Endpoint{forNodes(ready(1, "a"), "n1"), forNodes(ready(2, "a"), "n2")}, "1", ""},
		{"hints of nodes that miss this one: those of zones", "a", policy{},
			[]cluster.Endpoint{forNodes(ready(1, "a"), "n3"), forNodes(ready(2, "b"), "n2")}, "1", ""},
		{"one ready endpoint has no hint of a node: those of zones", "a", policy{},
			[]cluster.Endpoint{forNodes(ready(1, "b"), "n1"), ready(2, "a")}, "2", ""},
		{"hints of nodes without hints of zones, none for this one: no filter", "a", policy{},
			[]cluster.Endpoint{forNodes(ready(1), "n3"), forNodes(ready(2), "n2")}, "1 2", ""},
		{"hints and policy Local choose each their own", "a", policy{ex: true, open: true},
			[]cluster.Endpoint{here(ready(0, "a")), here(ready(1, "b")), ready(2, "a"), ready(3, "b")}, "0 2", "0 1"},
		{"no endpoints", "", policy{in: true}, nil, "", ""},
		{"internal Local, all elsewhere", "", policy{in: true}, away, "1 2", ""},
		{"internal Local, all here", "", policy{in: true}, []cluster.Endpoint{here(ready(1)), here(ready(2))}, "1 2", "1 2"},
		{"internal Local, some here", "", policy{in: true}, oneHere, "1 2", "1"},
		{"none is ready", "", policy{}, []cluster.Endpoint{unready(1), unready(2)}, "", ""},
		{"some are ready", "", policy{}, []cluster.Endpoint{unready(1), ready(2)}, "2", ""},
		{"all end", "", policy{}, []cluster.Endpoint{here(ending(1)), ending(2)}, "1 2", ""},
		{"internal Local, external Cluster", "", policy{in: true, open: true}, oneHere, "1 2", "1"},
		{"internal Cluster, external Local", "", policy{ex: true, open: true}, oneHere, "1 2", "1"},
		{"both Local", "", policy{in: true, ex: true, open: true}, oneHere, "1 2", "1"},
		{"both Local, all elsewhere", "", policy{in: true, ex: true, open: true}, away, "1 2", ""},
		{"both Local, all elsewhere and ending", "", policy{in: true, ex: true, open: true}, []cluster.Endpoint{ending(1), ending(2)}, "1 2", ""},
		{"this node's last resort while others are ready", "", policy{ex: true, open: true}, endings, "1", "3"},
		{"external Local without an external address", "", policy{ex: true}, oneHere, "1 2", ""},
	}
}

func TestEndpointsAreChosenAsKubeProxyChoosesThem(t *testing.T) {
	for _, c := range categorizeCases() {
		t.Run(c.name, func(t *testing.T) {
			svc := webService()
			svc.InternalLocal, svc.ExternalLocal = c.policy.in, c.policy.ex
			if c.policy.open {
				svc.Ports[0].NodePort = 30080
			}
			table := service.NewTable(service.Self{Node: "n1", Zone: c.zone})
			table.SetService(svc.ServiceName, &cluster.ServiceObjects{Service: svc, Slices: []*cluster.EndpointSlice{webSlice("s", 80, c.endpoints...)}})
			p := table.Ports()[webPort()]
			if got := text(p.Cluster); got != c.cluster {
				t.Errorf("cluster set %q, want %q", got, c.cluster)
			}
			if got := text(p.Local); got != c.local {
				t.Errorf("local set %q, want %q", got, c.local)
			}
		})
	}
}

func webService() *cluster.Service {
	return &cluster.Service{ServiceName: cluster.ServiceName{Namespace: "default", Name: "web"},
		ClusterIPs: addrs("10.96.0.10"), Ports: []cluster.ServicePort{{Name: "http", Protocol: cluster.TCP, Port: 80}}}
}

func webPort() service.PortName {
	return service.PortName{ServiceName: webService().ServiceName, Port: "http", Protocol: cluster.TCP, IPv4: true}
}

func webSlice(name string, port uint16, endpoints ...cluster.Endpoint) *cluster.EndpointSlice {
	return &cluster.EndpointSlice{Name: name, IPv4: true, Endpoints: endpoints,
		Ports: []cluster.EndpointPort{{Name: "http", Protocol: cluster.TCP, Port: port}}}
}

// text is the last bytes of addresses, with the ports that are not 80.
func text(list []service.Backend) string {
	var words []string
	for _, b := range list {
		word := fmt.Sprint(b.Addr.As4()[3])
		if b.Port != 80 {
			word += fmt.Sprint(":", b.Port)
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}
