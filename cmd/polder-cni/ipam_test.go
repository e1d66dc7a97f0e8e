package main

import (
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
)

// ptp is a configuration of another main plugin that uses Polder's addresses.
func ptp(version string, members ...string) string {
	members = append([]string{`"mtu":1400`, `"ipMasq":false`, `"dns":{"domain":"x"}`, `"runtimeConfig":{"mac":"02:00:00:00:00:07"}`, `"ipam":{"type":"polder-ipam"}`}, members...)
	return strings.Replace(conf(version, members...), "polder-cni", "ptp", 1)
}

func TestIPAMPluginGivesAddressesToOtherPlugins(t *testing.T) {
	for _, version := range supported() {
		t.Run(version, func(t *testing.T) {
			r := newRig(t)
			c := ptp(version)
			four, six, dns := "", "", ""
			if strings.HasPrefix(version, "0.") {
				four, six, dns = `"version":"4",`, `"version":"6",`, `,"dns":{}`
			}
			want := `{"cniVersion":"` + version + `","ips":[{` + four + `"address":"10.9.0.3/32","gateway":"169.254.1.1"},
				{` + six + `"address":"fd00:9::3/128","gateway":"fe80::1"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]` + dns + `}`
			out := r.mustRun(ipamName, "ADD", c, nil)
			sameJSON(t, out, want)
			sameJSON(t, r.mustRun(ipamName, "ADD", c, nil), want)
			if req, netns := r.agent.last(t); netns || req.Verb != api.Reserve {
				t.Errorf("asked %+v, with a namespace: %v", req, netns)
			}
			if version >= "0.4.0" {
				prev := `{"cniVersion":"` + version + `","interfaces":[{"name":"v"},{"name":"eth0","sandbox":"` + r.netns + `"}],
					"ips":[{"version":"4","address":"10.9.0.3/24","interface":1},{"version":"6","address":"fd00:9::3/64","interface":1},{"version":"4","address":"10.250.0.1/24"}]}`
				r.mustRun(ipamName, "CHECK", withPrev(c, prev), nil)
				r.mustFail(ipamName, "CHECK", withPrev(c, strings.Replace(prev, "10.9.0.3", "10.9.0.9", 1)), nil, api.CodeNotAsExpected)
				r.mustFail(ipamName, "CHECK", c, nil, api.CodeInvalidConfig)
			}
			r.mustRun(ipamName, "DEL", c, env{"CNI_NETNS": ""})
			r.mustRun(ipamName, "DEL", c, nil)
			if _, reservations := r.agent.held(); reservations != 0 {
				t.Errorf("%d reservations are left", reservations)
			}
		})
	}
}

func TestIPAMPluginCollectsReservationsAndNotLinks(t *testing.T) {
	r := newRig(t)
	r.mustRun("polder-cni", "ADD", conf("1.1.0"), nil)
	for _, id := range []string{"c1", "c2"} {
		r.mustRun(ipamName, "ADD", ptp("1.1.0"), env{"CNI_CONTAINERID": id})
	}
	r.mustFail(ipamName, "GC", ptp("1.1.0"), nil, api.CodeInvalidConfig)
	r.mustRun(ipamName, "GC", ptp("1.1.0", `"cni.dev/valid-attachments":[{"containerID":"c2","ifname":"eth0"}]`), nil)
	if links, reservations := r.agent.held(); links != 1 || reservations != 1 {
		t.Errorf("%d links and %d reservations are left", links, reservations)
	}
	r.mustRun("polder-cni", "GC", conf("1.1.0", `"cni.dev/valid-attachments":[]`), nil)
	if links, reservations := r.agent.held(); links != 0 || reservations != 1 {
		t.Errorf("%d links and %d reservations are left", links, reservations)
	}
}

func TestIPAMPluginWithoutAnAgentKeepsWhatIsReserved(t *testing.T) {
	r := newRig(t)
	r.mustRun(ipamName, "STATUS", ptp("1.1.0"), nil)
	r.agent.stop()
	r.mustFail(ipamName, "ADD", ptp("1.1.0"), nil, api.CodeTryAgain)
	r.mustFail(ipamName, "DEL", ptp("1.1.0"), env{"CNI_NETNS": ""}, api.CodeTryAgain)
	r.mustFail(ipamName, "STATUS", ptp("1.1.0"), nil, api.CodeNotAvailable)
}

func TestIPAMPluginRefusesWishesForAddresses(t *testing.T) {
	r := newRig(t)
	for _, c := range []string{
		conf("1.1.0", `"ipam":{"type":"polder-ipam","subnet":"10.0.0.0/8"}`),
		conf("1.1.0", `"ipam":{"type":"polder-ipam"}`, `"runtimeConfig":{"ips":["10.0.0.5"]}`),
		conf("1.1.0", `"runtimeConfig":{"ipRanges":[[{"subnet":"10.0.0.0/8"}]]}`),
	} {
		for _, name := range []string{ipamName, "polder-cni"} {
			r.mustFail(name, "ADD", c, nil, api.CodeUnsupported)
			r.mustFail(name, "STATUS", c, nil, api.CodeNotAvailable)
		}
	}
	if asked := r.agent.asked(); asked != "" {
		t.Errorf("the agent was asked: %s", asked)
	}
}
