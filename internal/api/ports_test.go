package api

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/plain"
)

func TestPortMappingsAreCheckedOneByOneAndTogether(t *testing.T) {
	mapping := func(host string, port, container uint16, protocol plain.Protocol) PortMapping {
		m := PortMapping{HostPort: port, ContainerPort: container, Protocol: protocol}
		if host != "" {
			m.HostIP = netip.MustParseAddr(host)
		}
		return m
	}
	web := mapping("", 80, 8080, plain.TCP)
	for name, test := range map[string]struct {
		mappings []PortMapping
		why      string // "": it is fine
	}{
		"one":                       {[]PortMapping{web}, ""},
		"twice the same":            {[]PortMapping{web, web, mapping("::", 80, 8080, plain.TCP)}, ""},
		"another protocol":          {[]PortMapping{web, mapping("", 80, 1, plain.UDP), mapping("", 80, 1, plain.SCTP)}, ""},
		"one address of all":        {[]PortMapping{web, mapping("192.0.2.1", 80, 9090, plain.TCP)}, ""},
		"two families":              {[]PortMapping{mapping("0.0.0.0", 80, 1, plain.TCP), mapping("::", 80, 2, plain.TCP)}, ""},
		"twice":                     {[]PortMapping{web, mapping("", 80, 9090, plain.TCP)}, "*:80/TCP to 9090: the port is asked for twice, the other leads to 8080"},
		"twice in a family":         {[]PortMapping{web, mapping("::", 80, 9090, plain.TCP)}, "[::]:80/TCP to 9090: the port is asked for twice"},
		"twice, the other way":      {[]PortMapping{mapping("0.0.0.0", 80, 9090, plain.TCP), web}, "*:80/TCP to 8080: the port is asked for twice"},
		"no protocol":               {[]PortMapping{mapping("", 80, 8080, 0)}, "without a protocol"},
		"ICMP":                      {[]PortMapping{mapping("", 80, 8080, 1)}, "without a protocol"},
		"port 0 of the node":        {[]PortMapping{mapping("", 0, 8080, plain.TCP)}, "no port is 0"},
		"port 0 of the pod":         {[]PortMapping{mapping("", 80, 0, plain.TCP)}, "no port is 0"},
		"an address with a zone":    {[]PortMapping{mapping("fe80::1%eth0", 80, 1, plain.TCP)}, "cannot be a node's"},
		"a mapped address":          {[]PortMapping{mapping("::ffff:192.0.2.1", 80, 1, plain.TCP)}, "cannot be a node's"},
		"the address of a group":    {[]PortMapping{mapping("ff02::1", 80, 1, plain.TCP)}, "cannot be a node's"},
		"a bad one among good ones": {[]PortMapping{web, mapping("", 81, 0, plain.TCP), web}, "*:81/TCP to 0"},
	} {
		req := Request{Verb: Add, Attachment: Attachment{"n", "c", "eth0"}, PortMappings: test.mappings}
		if err := req.Validate(); test.why == "" && err != nil || test.why != "" && (err == nil || !strings.Contains(err.Error(), test.why)) {
			t.Errorf("%s: %v", name, err)
		}
		body, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decode(body); test.why == "" && (err != nil || !reflect.DeepEqual(got, req)) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
