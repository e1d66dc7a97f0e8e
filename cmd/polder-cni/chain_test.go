package main

import (
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
)

func TestBehindAnotherPluginItsResultIsPassedOnAndItsLinkGuarded(t *testing.T) {
	for _, version := range supported() {
		t.Run(version, func(t *testing.T) {
			r := newRig(t)
			prev := `{"cniVersion":"` + version + `","interfaces":[{"name":"veth9","vendor":[1]},{"name":"eth0","sandbox":"` + r.netns + `"}],
				"ips":[{"version":"4","address":"10.1.0.5/16","interface":1}],"dns":{"domain":"x"},"more":{"a":null}}`
			c := withPrev(conf(version), prev)
			args := env{"CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u-1"}
			sameJSON(t, r.mustRun("polder-cni", "ADD", c, args), prev)
			req, netns := r.agent.last(t)
			if !req.Behind || !netns || req.PodNamespace != "default" || req.PodName != "web" || req.PodUID != "u-1" || len(req.Addresses) != 1 ||
				req.Addresses[0].Prefix.String() != "10.1.0.5/16" || req.Pod == nil || req.Pod.Name != "eth0" {
				t.Errorf("the agent was asked: %+v, with a namespace: %t", req, netns)
			}
			if version >= "0.4.0" {
				r.mustRun("polder-cni", "CHECK", c, nil)
			}
			r.mustRun("polder-cni", "DEL", c, nil)
			if version >= "0.4.0" {
				r.mustFail("polder-cni", "CHECK", c, nil, api.CodeUnknownContainer)
			}
			r.agent.stop()
			r.mustRun("polder-cni", "DEL", c, nil)
			r.mustFail("polder-cni", "ADD", c, nil, api.CodeTryAgain) // it would be open
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
	r.mustRun("polder-cni", "DEL", conf("0.4.0"), nil)
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

func TestWithoutAnAddressThereIsNothingToGuard(t *testing.T) {
	r := newRig(t)
	prev := `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"` + r.netns + `"},{"name":"eth1","sandbox":"` + r.netns + `"}],
		"ips":[{"address":"10.1.0.5/16","interface":1}]}`
	c := withPrev(conf("1.1.0"), prev)
	sameJSON(t, r.mustRun("polder-cni", "ADD", c, nil), prev)
	r.mustRun("polder-cni", "CHECK", c, nil)
	if asked := r.agent.asked(); asked != "" {
		t.Errorf("the agent was asked: %s", asked)
	}
}

func TestAGuardThatTheAgentRefusesFailsTheAddition(t *testing.T) {
	r := newRig(t)
	prev := `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"` + r.netns + `"}],"ips":[{"address":"10.1.0.5/16","interface":0}]}`
	c := withPrev(conf("1.1.0"), prev)
	r.agent.change(func() { r.agent.refuse[api.Add] = api.Error{Code: api.CodeUnsupported, Msg: "no veth"} })
	r.mustFail("polder-cni", "ADD", c, nil, api.CodeUnsupported)
	if asked := r.agent.asked(); asked != "add" {
		t.Errorf("the agent was asked: %s", asked)
	}
	r.agent.change(func() { delete(r.agent.refuse, api.Add); r.agent.vanish[api.Add] = true })
	r.mustFail("polder-cni", "ADD", c, nil, api.CodeInternal)
	if asked := r.agent.asked(); asked != "add del" || len(r.agent.guarded) > 0 {
		t.Errorf("the agent was asked: %s", asked)
	}
}
