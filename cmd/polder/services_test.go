package main

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func someServices() *api.ServicesReport {
	backend := func(a, node string, local bool, policies ...string) api.Backend {
		return api.Backend{Address: addrPort(a), Node: node, Local: local, Policies: policies}
	}
	return &api.ServicesReport{Node: "node-1", Total: 3, Services: []api.Service{
		{Namespace: "default", Name: "api", InternalTrafficPolicy: "Cluster", ExternalTrafficPolicy: "Cluster", Affinity: 10800,
			Ports: []api.ServicePort{{Name: "grpc", Protocol: "TCP", Family: "IPv6",
				Frontends:    []api.Frontend{{Address: addrPort("[fd00:10:96::a]:443"), Kind: "ClusterIP"}},
				BackendCount: 12, Backends: []api.Backend{backend("[fd00:244:0:1::2]:8443", "node-1", true, "Cluster"), backend("[fd00:99::7]:8443", "", false, "Cluster")}}}},
		{Namespace: "default", Name: "web", InternalTrafficPolicy: "Cluster", ExternalTrafficPolicy: "Local",
			SourceRanges: prefixes("198.51.100.0/24", "203.0.113.0/24"), HealthCheckNodePort: 31000,
			Ports: []api.ServicePort{
				{Protocol: "TCP", Family: "IPv4",
					Frontends: []api.Frontend{{Address: addrPort("10.96.0.10:80"), Kind: "ClusterIP"},
						{Address: addrPort("192.0.2.80:80"), Kind: "LoadBalancer"}, {Address: addrPort("0.0.0.0:30080"), Kind: "NodePort"}},
					BackendCount: 3, Backends: []api.Backend{backend("10.244.1.2:8080", "node-1", true, "Cluster", "Local"),
						backend("10.244.1.3:8080", "node-1", true, "Local"), backend("10.244.2.2:8080", "node-2", false, "Cluster")},
					LeftOut: []api.LeftOut{{Address: addrPort("10.244.2.3:8080"), Reason: "not ready"},
						{Address: addrPort("10.244.2.4:0"), Reason: "its slice has no number for this port"}}},
				{Name: "quic", Protocol: "UDP", Family: "IPv4", Frontends: []api.Frontend{{Address: addrPort("10.96.0.10:443"), Kind: "ClusterIP"}}},
			},
			Problems: []string{"ClusterIP 10.96.0.10:53/UDP belongs to Service kube-system/dns, which is older: give one of them another address or port"}},
		{Namespace: "games", Name: "server", Pod: true, InternalTrafficPolicy: "Cluster", ExternalTrafficPolicy: "Cluster",
			Ports: []api.ServicePort{{Name: "hostPort/172.30.0.11:7777", Protocol: "UDP", Family: "IPv4", BackendCount: 1,
				Frontends: []api.Frontend{{Address: addrPort("172.30.0.11:7777"), Kind: "HostPort"}},
				Backends:  []api.Backend{backend("10.244.1.9:7777", "node-1", true, "Cluster")}}}},
	}}
}

const servicesText = `default/api  ClusterIP
  affinity: a client keeps its backend for 10800 s
  grpc IPv6
    [fd00:10:96::a]:443/TCP      ClusterIP
      to [fd00:244:0:1::2]:8443  node-1, here
      to [fd00:99::7]:8443
      and 10 more

default/web  ClusterIP, LoadBalancer, NodePort
  external traffic policy Local
  load balancer's clients: 198.51.100.0/24 203.0.113.0/24
  health check: port 31000 of this node
  IPv4
    10.96.0.10:80/TCP      ClusterIP
    192.0.2.80:80/TCP      LoadBalancer
    any node:30080/TCP     NodePort
      to 10.244.1.2:8080   node-1, here
      to 10.244.1.3:8080   node-1, here, policy Local alone
      to 10.244.2.2:8080   node-2, policy Cluster alone
      not 10.244.2.3:8080  not ready
      not 10.244.2.4       its slice has no number for this port
  quic IPv4
    10.96.0.10:443/UDP  ClusterIP
      no backends: clients are refused
  problem: ClusterIP 10.96.0.10:53/UDP belongs to Service kube-system/dns, which
    is older: give one of them another address or port

pod games/server  HostPort
  IPv4
    172.30.0.11:7777/UDP  HostPort
      to 10.244.1.9:7777  node-1, here
`

func TestServicesAreAParagraphEach(t *testing.T) {
	var asked api.ServicesRequest
	answer := func(r api.Request) (any, error) { asked = *r.Services; return someServices(), nil }
	s := runAsking(answer, "services")
	if s.status != 0 || s.stdout != servicesText {
		t.Errorf("status %d, %q, services are\n%s", s.status, s.stderr, s.stdout)
	}
	for line := range strings.Lines(s.stdout) {
		if n := len([]rune(line)); n > width+1 {
			t.Errorf("%d characters: %s", n, line)
		}
	}
	if want := (api.ServicesRequest{Most: mostServices}); asked != want {
		t.Errorf("asked for %+v", asked)
	}
	if runAsking(answer, "services", "kube-system", "-o", "json"); asked != (api.ServicesRequest{Namespace: "kube-system"}) {
		t.Errorf("asked for %+v", asked)
	}
	if runAsking(answer, "services", "default/web"); asked != (api.ServicesRequest{Namespace: "default", Name: "web", Most: mostServices}) {
		t.Errorf("asked for %+v", asked)
	}
}

func TestMoreServicesThanAnybodyReadsAreCounted(t *testing.T) {
	for total, want := range map[int]string{0: "no Services\n",
		44000: "44,000 Services: name one as NAMESPACE/NAME, or a namespace; -o json lists all\n"} {
		s := runAsking(func(api.Request) (any, error) { return api.ServicesReport{Total: total}, nil }, "services")
		if s.status != 0 || s.stdout != want {
			t.Errorf("status %d, %q", s.status, s.stdout)
		}
	}
}

func TestServicesForProgramsAreTheAgentsOwn(t *testing.T) {
	s := runAsking(func(api.Request) (any, error) { return someServices(), nil }, "services", "-o", "json")
	var got api.ServicesReport
	if err := json.Unmarshal([]byte(s.stdout), &got); err != nil || !reflect.DeepEqual(&got, someServices()) {
		t.Errorf("%v, report is %s", err, s.stdout)
	}
}
