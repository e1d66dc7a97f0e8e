package watch

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// service writes the manifest of a Service with one port, in flow style.
func service(name, ip string) string {
	return "{apiVersion: v1, kind: Service, metadata: {name: " + name + "}, spec: {clusterIP: " + ip + ", ports: [{port: 80}]}}\n"
}

// slice writes the manifest of an EndpointSlice with one port.
func slice(name, service string, addresses ...string) string {
	endpoints := make([]string, len(addresses))
	for i, a := range addresses {
		endpoints[i] = "{addresses: ['" + a + "']}"
	}
	return "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: " + name + ", labels: {kubernetes.io/service-name: " + service +
		"}}, addressType: IPv4, ports: [{port: 8080}], endpoints: [" + strings.Join(endpoints, ", ") + "]}\n"
}

func TestManifestsOfServicesSayWhatTheySay(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"all that Polder reads of a Service", `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, uid: u1, creationTimestamp: "1970-01-01T00:01:40Z"}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  externalIPs: [192.0.2.1, 192.0.2.1]
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  loadBalancerSourceRanges: [" 198.51.100.7/24 ", "2001:db8::1/32", 198.51.100.0/24]
  ports: [{name: http, port: 80, nodePort: 30080, targetPort: web}, {name: dns, port: 53, protocol: UDP}, {name: s, port: 53, protocol: SCTP}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: VIP}, {ip: 203.0.113.3, ipMode: Proxy}, {hostname: lb.example}]}}
`, "service shop/web uid=u1 [10.96.0.10 fd00:96::10] ports=[{http TCP 80 30080} {dns UDP 53 0} {s SCTP 53 0}] created=100 external=[192.0.2.1]" +
			" lb=[203.0.113.1 203.0.113.2] from=[198.51.100.0/24 2001:db8::/32] internalLocal=true externalLocal=true affinity=60 health=32000\n"},

		{"defaults", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1, sessionAffinity: ClientIP, ports: [{port: 80, protocol: TCP}]}}",
			"service default/a uid= [10.96.0.1] ports=[{ TCP 80 0}] affinity=10800\n"},

		{"what others serve is left out without a word", `
{apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: name}, spec: {type: ExternalName, externalName: example.com}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, labels: {service.kubernetes.io/service-proxy-name: ""}}, spec: {clusterIP: 10.96.0.1}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, labels: {kubernetes.io/service-name: s, service.kubernetes.io/headless: ""}}, addressType: IPv4, endpoints: []}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: b}, addressType: IPv4, endpoints: []}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: c, labels: {kubernetes.io/service-name: s}}, addressType: FQDN, endpoints: [{addresses: [example.com]}]}
`, ""},

		{"a Service without a cluster IP", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}",
			"problem Service/default/a: a.yaml:1: has no clusterIP: a folder of manifests must say it, e.g. clusterIP: 10.96.0.10\n"},

		{"a range that cannot be read closes the load balancer", `
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1, loadBalancerSourceRanges: [10.0.0.0/8, 10.0.0.0/33]}}
`, "service default/a uid= [10.96.0.1] ports=[] from=[0.0.0.0/32 ::/128]\n" +
			"problem Service/default/a: a.yaml:1: \"10.0.0.0/33\" in loadBalancerSourceRanges is not a CIDR: the load balancer's addresses admit nobody\n"},

		{"what of a Service cannot be honoured", `
{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIPs: [10.96.0.1, 10.96.0.2, 127.0.0.1], externalIPs: [x], healthCheckNodePort: 70000,
 sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}},
 ports: [{name: a, port: 80}, {name: b, port: 80}, {name: a, port: 81}, {name: c, port: 0}, {name: d, port: 82, protocol: DCCP}, {name: e, port: 83, nodePort: -1}]}}
`, `service default/a uid= [10.96.0.1] ports=[{a TCP 80 0} {e TCP 83 0}] affinity=10800
problem Service/default/a: a.yaml:1: 0 is not a port
problem Service/default/a: a.yaml:1: cluster IP 10.96.0.2: there is one of the same family, 10.96.0.1, which counts
problem Service/default/a: a.yaml:1: healthCheckNodePort: 70000 is not a port
problem Service/default/a: a.yaml:1: nodePort: -1 is not a port
problem Service/default/a: a.yaml:1: port 80/TCP, "b": there is one of that number or name, which counts
problem Service/default/a: a.yaml:1: port 81/TCP, "a": there is one of that number or name, which counts
problem Service/default/a: a.yaml:1: port 82: "DCCP" is none of TCP, UDP and SCTP
problem Service/default/a: a.yaml:1: read cluster IP: "127.0.0.1" is not an address that a Service can have
problem Service/default/a: a.yaml:1: read external IP: "x" is not an IP address
problem Service/default/a: a.yaml:1: session affinity of 86401 seconds: 1 to 86400 are allowed, 10800 counts
`},

		{"all that Polder reads of a slice", `
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}, {name: none}, {name: zero, port: 0}]
endpoints:
- {addresses: ["fd00::1", "fd00::2"], nodeName: w1, zone: z1, hints: {forZones: [{name: z1}, {name: z2}], forNodes: [{name: w1}]}}
- {addresses: ["fd00::3"], conditions: {ready: false}}
- {addresses: ["fd00::4"], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: ["fd00::5"], conditions: {ready: true, serving: false}}
`, "slice web-1 of shop/web v4=false ports=[{http TCP 8080} {dns UDP 53}] {fd00::1 node=w1 [z1 z2] [w1] ready=true serving=true terminating=false}" +
			" {fd00::3 node= [] [] ready=false serving=false terminating=false} {fd00::4 node= [] [] ready=false serving=true terminating=true}" +
			" {fd00::5 node= [] [] ready=true serving=false terminating=false}\n"},

		{"addresses of endpoints that are none", "" +
			slice("a", "s", "10.0.0.1", "10.0.0.300") + "---\n" + slice("b", "s", "fd00::1", "127.0.0.1") + "---\n" + slice("c", "s", "", "010.0.0.1", "x", "10.0.0.3"),
			`slice a of default/s v4=true ports=[{ TCP 8080}] {10.0.0.1 node= [] [] ready=true serving=true terminating=false}
slice b of default/s v4=true ports=[{ TCP 8080}]
slice c of default/s v4=true ports=[{ TCP 8080}] {10.0.0.3 node= [] [] ready=true serving=true terminating=false}
problem EndpointSlice/default/a: a.yaml:1: endpoint 1: "10.0.0.300" is not an IP address
problem EndpointSlice/default/b: a.yaml:2: endpoint 0: "fd00::1" is not of the slice's addressType, and another one
problem EndpointSlice/default/c: a.yaml:4: endpoint 0: "" is not an IP address, and 2 others
`},

		{"ports of slices that are none", `
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: a, labels: {kubernetes.io/service-name: s}}, addressType: IPv4,
 ports: [{port: 80}, {port: 81}, {name: b, port: 70000}, {name: c, port: 82, protocol: ""}], endpoints: [{addresses: []}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: b, labels: {kubernetes.io/service-name: s}}, addressType: ipv4, endpoints: []}
`, `slice a of default/s v4=true ports=[{ TCP 80} {c TCP 82}]
problem EndpointSlice/default/a: a.yaml:1: 70000 is not a port
problem EndpointSlice/default/a: a.yaml:1: endpoint 0: has no address
problem EndpointSlice/default/a: a.yaml:1: port 81/TCP, "": there is one of that name, which counts
problem EndpointSlice/default/b: a.yaml:4: addressType "ipv4" is none of IPv4, IPv6 and FQDN
`},

		{"ServiceCIDRs, sorted and each once", `
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: b}, spec: {cidrs: [10.97.0.0/16, "fd00:96::/112"]}}
---
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: a}, spec: {cidrs: [10.96.0.0/16, 10.97.0.1/16, x, 0.0.0.0/0]}}
`, `service CIDRs [10.96.0.0/16 10.97.0.0/16 fd00:96::/112]
problem ServiceCIDR/a: a.yaml:3: read CIDR: "0.0.0.0/0" is not a CIDR that Services can have addresses of
problem ServiceCIDR/a: a.yaml:3: read CIDR: "x" is not a CIDR
`},

		{"lists as the API server writes them, fields that are not known, names that are none", `
{apiVersion: discovery.k8s.io/v1, kind: EndpointSliceList, metadata: {}, items: [{metadata: {name: a, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, endpoints: []}]}
---
{apiVersion: networking.k8s.io/v1, kind: ServiceCIDRList, metadata: {}, items: [{metadata: {name: a}, spec: {cidrs: [10.96.0.0/16], cidr: x}}]}
---
{apiVersion: v1, kind: Service, metadata: {name: a.b}, spec: {clusterIP: 10.96.0.1}}
`, `service CIDRs [10.96.0.0/16]
slice a of default/s v4=true ports=[]
problem Service/default/a.b: a.yaml:5: "a.b" is not a DNS-1123 name: lower-case letters, digits, '-' inside
problem ServiceCIDR/a: a.yaml:3: unknown field "spec.cidr"
`},

		{"a node's zone, and that it is about to go", `
{apiVersion: v1, kind: Node, metadata: {name: a, labels: {topology.kubernetes.io/zone: z1}}, spec: {taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: b, deletionTimestamp: "2026-01-01T00:00:00Z"}}
`, "node a [] [] zone=z1 leaving=true\nnode b [] [] zone= leaving=true\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newContent()
			c.set("a.yaml", []byte(tc.in))
			if diff := cmp.Diff(tc.want, text(c.snapshot())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestServicesOfAFolderThatStayAreTheSameObjects(t *testing.T) {
	c := newContent()
	c.set("a.yaml", []byte(service("a", "10.96.0.1")+"---\n"+slice("a-1", "a", "10.0.0.1")))
	c.set("b.yaml", []byte(service("b", "10.96.0.2")))
	first := c.snapshot().Services
	if c.snapshot().Services != first {
		t.Error("reading the same again makes others")
	}
	c.set("a.yaml", []byte("# the same, moved\n---\n"+slice("a-1", "a", "10.0.0.1")+"---\n"+service("a", "10.96.0.1")))
	if c.snapshot().Services != first {
		t.Error("another order makes others")
	}
	c.set("c.yaml", []byte(service("c", "10.96.0.3")))
	c.set("a.yaml", []byte(service("a", "10.96.0.1")+"---\n"+slice("a-1", "a", "10.0.0.2")))
	c.set("b.yaml", []byte("# gone\n"))
	second := c.snapshot().Services
	if diff := cmp.Diff("[default/a default/b default/c]", fmt.Sprint(second.ChangedSince(first))); diff != "" {
		t.Error(diff)
	}
	c.set("b.yaml", []byte(service("b", "10.96.0.2")))
	third := c.snapshot().Services
	if diff := cmp.Diff("[default/b]", fmt.Sprint(third.ChangedSince(second))); diff != "" {
		t.Error(diff)
	}
}
