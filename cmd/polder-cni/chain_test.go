package main

import (
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
)

func TestBehindAnotherPluginItsResultIsPassedOn(t *testing.T) {
	for _, version := range supported() {
		t.Run(version, func(t *testing.T) {
			r := newRig(t)
			prev := `{"cniVersion":"` + version + `","interfaces":[{"name":"veth9","vendor":[1]},{"name":"eth0","sandbox":"` + r.netns + `"}],
				"ips":[{"version":"4","address":"10.1.0.5/16","interface":1}],"dns":{"domain":"x"},"more":{"a":null}}`
			c := withPrev(conf(version), prev)
			sameJSON(t, r.mustRun("polder-cni", "ADD", c, nil), prev)
			if version >= "0.4.0" {
				r.mustRun("polder-cni", "CHECK", c, nil)
			}
			if asked := r.agent.asked(); asked != "" {
				t.Errorf("the agent was asked: %s", asked)
			}
			r.mustRun("polder-cni", "DEL", c, nil)
			r.agent.stop()
			r.mustRun("polder-cni", "DEL", c, nil)
			if version >= "1.1.0" {
				r.mustFail("polder-cni", "STATUS", conf(version), nil, api.CodeNotAvailable)
			}
		})
	}
}

func TestEarlierResultOfAnotherVersionIsConverted(t *testing.T) {
	r := newRig(t)
	prev := `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x","mtu":1400}],"ips":[{"address":"10.1.0.5/16","interface":0}]}`
	sameJSON(t, r.mustRun("polder-cni", "ADD", withPrev(conf("0.4.0"), prev), nil),
		`{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"version":"4","address":"10.1.0.5/16","interface":0}],"dns":{}}`)
	sameJSON(t, r.mustRun("polder-cni", "ADD", withPrev(conf("0.3.1"), `{"ips":[{"version":"4","address":"10.1.0.5/16"}]}`), nil),
		`{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.0.5/16"}]}`)
}

func TestBrokenEarlierResultIsAnErrorForAddAndCheck(t *testing.T) {
	r := newRig(t)
	for prev, code := range map[string]uint{
		`"x"`: api.CodeDecode, `[]`: api.CodeDecode, `7`: api.CodeDecode, `{"ips":"x"}`: api.CodeDecode,
		`{"interfaces":[null]}`: api.CodeDecode, `{"ips":[null]}`: api.CodeDecode, `{"routes":[null]}`: api.CodeDecode,
		`{"ips":[{"address":"x"}]}`: api.CodeDecode, `{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.1/8"}}`: api.CodeIncompatible,
		`{"cniVersion":"7.0.0"}`: api.CodeIncompatible, `{"cniVersion":{}}`: api.CodeDecode,
	} {
		for _, version := range []string{"0.4.0", "1.1.0"} {
			for _, verb := range []string{"ADD", "CHECK"} {
				r.mustFail("polder-cni", verb, withPrev(conf(version), prev), nil, code)
			}
			r.mustRun("polder-cni", "DEL", withPrev(conf(version), prev), nil)
		}
	}
	if asked := r.agent.asked(); strings.Contains(asked, "add") || strings.Contains(asked, "check") {
		t.Errorf("the agent was asked: %s", asked)
	}
}

// The main plugin may use the same IPAM plugin with the same store: DEL of ours comes first, and must not free its
// addresses while its link is there.
func TestAddressesOfAnotherMainPluginAreLeftToIt(t *testing.T) {
	r := newRig(t)
	c := conf("1.1.0", `"ipam":{"type":"fake-ipam"}`)
	prev := `{"cniVersion":"1.1.0","interfaces":[{"name":"veth9"},{"name":"eth0","sandbox":"` + r.netns + `"}],"ips":[{"address":"10.1.0.5/16"}]}`
	r.mustRun("polder-cni", "DEL", withPrev(c, prev), nil)
	r.mustFail("polder-cni", "ADD", withPrev(c, prev), nil, api.CodeUnsupported)
	if r.ipamCalls() != "" {
		t.Errorf("plugin was called for %s", r.ipamCalls())
	}
}
