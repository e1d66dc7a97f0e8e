package main

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/plain"
)

func ports(entries string) string {
	return conf("1.1.0", `"capabilities":{"portMappings":true}`, `"runtimeConfig":{"portMappings":`+entries+`}`)
}

func TestPortMappingsReachTheAgent(t *testing.T) {
	r := newRig(t)
	c := ports(`[{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":""},
		{"hostPort":0,"containerPort":99,"protocol":"nonsense"}, {"containerPort":8080}, {},
		{"HostPort":65535,"ContainerPort":1,"Protocol":"UDP","HostIP":"127.0.0.1"},
		{"hostPort":1,"containerPort":65535,"protocol":"Sctp","hostIP":"2001:db8::1"},
		{"hostPort":443,"containerPort":443,"protocol":"TCP","hostIP":"::ffff:192.0.2.1"}]`)
	want := []api.PortMapping{
		{HostPort: 80, ContainerPort: 8080, Protocol: plain.TCP},
		{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 65535, ContainerPort: 1, Protocol: plain.UDP},
		{HostIP: netip.MustParseAddr("2001:db8::1"), HostPort: 1, ContainerPort: 65535, Protocol: plain.SCTP},
		{HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 443, ContainerPort: 443, Protocol: plain.TCP},
	}
	result := r.mustRun("polder-cni", "ADD", c, nil)
	if req, _ := r.agent.last(t); !reflect.DeepEqual(req.PortMappings, want) {
		t.Errorf("ADD: %v", req.PortMappings)
	}
	r.mustRun("polder-cni", "CHECK", withPrev(c, result), nil)
	if req, _ := r.agent.last(t); !reflect.DeepEqual(req.PortMappings, want) {
		t.Errorf("CHECK: %v", req.PortMappings)
	}
	r.mustRun("polder-cni", "DEL", ports(`["nonsense"]`), nil)
	if req, _ := r.agent.last(t); req.PortMappings != nil {
		t.Errorf("DEL: %v", req.PortMappings)
	}
	r.mustRun("polder-cni", "ADD", ports(`[{"hostPort":0}]`), nil)
	if req, _ := r.agent.last(t); req.PortMappings != nil {
		t.Errorf("ADD of nothing: %v", req.PortMappings)
	}
}

func TestHostilePortMappingsAreRefusedWithOneClearError(t *testing.T) {
	r := newRig(t)
	entry := func(members string) string { return `[{"hostPort":80,"containerPort":8080,` + members + `}]` }
	for name, test := range map[string]struct {
		entries string
		code    uint
		says    string
	}{
		"an object":             {`{"hostPort":80}`, 6, "decode runtimeConfig.portMappings"},
		"a text":                {`"80:8080"`, 6, "decode runtimeConfig.portMappings"},
		"an entry null":         {`[null]`, 6, "portMappings[0]"},
		"an entry a list":       {`[{},[]]`, 6, "portMappings[1]"},
		"port a text":           {`[{"hostPort":"80"}]`, 6, "portMappings[0].hostPort"},
		"port with a fraction":  {`[{"hostPort":80.5}]`, 6, "portMappings[0].hostPort"},
		"port too great":        {`[{"hostPort":65536,"containerPort":1,"protocol":"tcp"}]`, 7, "hostPort: 65536 is not a port"},
		"port of 100 digits":    {`[{"hostPort":` + strings.Repeat("9", 100) + `}]`, 6, "portMappings[0].hostPort"},
		"port wraps to 0":       {`[{"hostPort":131072,"containerPort":1,"protocol":"tcp"}]`, 7, "131072 is not a port"},
		"port negative":         {`[{"hostPort":-1,"containerPort":1,"protocol":"tcp"}]`, 7, "-1 is not a port"},
		"no container port":     {`[{"hostPort":80,"protocol":"tcp"}]`, 7, "containerPort: 0 is not a port"},
		"container too great":   {`[{"hostPort":80,"containerPort":65536,"protocol":"tcp"}]`, 7, "containerPort: 65536 is not a port"},
		"container negative":    {`[{"hostPort":80,"containerPort":-5,"protocol":"tcp"}]`, 7, "containerPort: -5 is not a port"},
		"no protocol":           {`[{"hostPort":80,"containerPort":8080}]`, 7, `protocol: "" is none of`},
		"protocol icmp":         {entry(`"protocol":"icmp"`), 7, `protocol: "icmp" is none of`},
		"protocol a number":     {entry(`"protocol":6`), 6, "protocol"},
		"protocol with space":   {entry(`"protocol":"tcp "`), 7, "protocol"},
		"protocol long":         {entry(`"protocol":"` + strings.Repeat("x", 10_000) + `"`), 7, "…"},
		"hostIP a name":         {entry(`"protocol":"tcp","hostIP":"localhost"`), 7, `hostIP: "localhost" is not an IP address`},
		"hostIP with port":      {entry(`"protocol":"tcp","hostIP":"192.0.2.1:80"`), 7, "is not an IP address"},
		"hostIP a prefix":       {entry(`"protocol":"tcp","hostIP":"192.0.2.0/24"`), 7, "is not an IP address"},
		"hostIP with zone":      {entry(`"protocol":"tcp","hostIP":"fe80::1%eth0"`), 7, "cannot be a node's"},
		"hostIP a group":        {entry(`"protocol":"tcp","hostIP":"224.0.0.1"`), 7, "cannot be a node's"},
		"hostIP a number":       {entry(`"protocol":"tcp","hostIP":1`), 6, ""},
		"a key twice":           {`[{"hostPort":80,"HostPort":81,"containerPort":80,"protocol":"tcp"}]`, 2, `"runtimeConfig.portMappings[0].hostPort": 80`},
		"unknown key":           {entry(`"protocol":"tcp","range":5`), 2, `"runtimeConfig.portMappings[0].range": 5`},
		"one port, two targets": {`[{"hostPort":80,"containerPort":1,"protocol":"tcp"},{"hostPort":80,"containerPort":2,"protocol":"TCP"}]`, 7, "asked for twice"},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			if f := r.mustFail("polder-cni", "ADD", ports(test.entries), nil, test.code); !strings.Contains(f.Msg, test.says) || len(f.Msg) > 500 || strings.Contains(f.Msg, "\n") {
				t.Errorf("%+v", f)
			}
			if asked := r.agent.asked(); asked != "" {
				t.Errorf("the agent was asked: %s", asked)
			}
		})
	}
	// Behind another plugin the link is not ours.
	chained := withPrev(ports(entry(`"protocol":"tcp"`)), `{"cniVersion":"1.1.0","ips":[{"address":"10.3.0.1/32"}]}`)
	if f := r.mustFail("polder-cni", "ADD", chained, nil, api.CodeUnsupported); !strings.Contains(f.Msg, "runtimeConfig.portMappings") {
		t.Errorf("%+v", f)
	}
	r.mustRun("polder-cni", "ADD", withPrev(ports(`[{"hostPort":0}]`), `{"cniVersion":"1.1.0"}`), nil)
	r.mustRun(ipamName, "ADD", ports(`[{"hostPort":-1}]`), nil) // none of the IPAM plugin's business
}

func TestARefusedHostPortGivesTheDelegatesAddressesBack(t *testing.T) {
	r := newRig(t)
	r.ipam("ADD", given, 0)
	r.agent.change(func() {
		r.agent.refuse[api.Add] = api.Error{Code: api.CodePortTaken, Msg: "host port 0.0.0.0:80/TCP is taken"}
	})
	c := conf("1.1.0", `"ipam":{"type":"fake-ipam"}`, `"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":1,"protocol":"tcp"}]}`)
	if f := r.mustFail("polder-cni", "ADD", c, nil, api.CodePortTaken); f.Msg != "host port 0.0.0.0:80/TCP is taken" {
		t.Errorf("%+v", f)
	}
	if calls := r.ipamCalls(); calls != "ADD DEL" {
		t.Errorf("the IPAM plugin was called for %s", calls)
	}
}
