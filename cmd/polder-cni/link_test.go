package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
)

// withPrev adds an earlier result to a configuration.
func withPrev(conf, result string) string {
	return strings.TrimSuffix(conf, "}") + `,"prevResult":` + result + "}"
}

func sameJSON(t *testing.T, got, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal([]byte(got), &g); err != nil {
		t.Fatalf("%s: %v", got, err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("%s: %v", want, err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// What ADD prints, to the letter, in each version: 0.x says the family of an address, only 1.1.0 knows an MTU.
func TestResultIsInTheVersionOfTheConfiguration(t *testing.T) {
	for _, version := range supported() {
		t.Run(version, func(t *testing.T) {
			r := newRig(t)
			out := r.mustRun("polder-cni", "ADD", conf(version, `"dns":{"nameservers":["10.0.0.53"],"search":["a.b"]}`), nil)
			mtu, four, six := "", "", ""
			if version == "1.1.0" {
				mtu = `,"mtu":1450`
			}
			if strings.HasPrefix(version, "0.") {
				four, six = `"version":"4",`, `"version":"6",`
			}
			sameJSON(t, out, `{"cniVersion":"`+version+`",
				"interfaces":[{"name":"`+hostOf("c1", "eth0")+`","mac":"ee:ee:ee:ee:ee:ee"`+mtu+`},
					{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"`+r.netns+`"`+mtu+`}],
				"ips":[{`+four+`"address":"10.9.0.3/32","gateway":"169.254.1.1","interface":1},
					{`+six+`"address":"fd00:9::3/128","gateway":"fe80::1","interface":1}],
				"routes":[{"dst":"0.0.0.0/0","gw":"169.254.1.1"`+mtu+`},{"dst":"::/0"`+mtu+`}],
				"dns":{"nameservers":["10.0.0.53"],"search":["a.b"]}}`)
		})
	}
}

func hostOf(id, ifname string) string {
	return api.Attachment{Network: "net1", ContainerID: id, Ifname: ifname}.HostLink()
}

func TestLifeOfALinkInEveryVersion(t *testing.T) {
	for _, version := range supported() {
		t.Run(version, func(t *testing.T) {
			r := newRig(t)
			c := conf(version)
			result := r.mustRun("polder-cni", "ADD", c, env{"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=web-0;K8S_POD_UID=u-1"})
			req, netns := r.agent.last(t)
			if req.PodNamespace != "ns1" || req.PodName != "web-0" || req.PodUID != "u-1" || !netns || req.DelegatedIPAM || req.Masquerade {
				t.Errorf("ADD asked %+v, with a namespace: %v", req, netns)
			}
			if version >= "0.4.0" {
				r.mustRun("polder-cni", "CHECK", withPrev(c, result), nil)
				if req, netns := r.agent.last(t); !netns || req.Host.Name != req.HostLink() || req.Pod.Name != "eth0" || len(req.Addresses) != 2 || len(req.Routes) != 2 {
					t.Errorf("CHECK asked %+v, with a namespace: %v", req, netns)
				}
			} else {
				r.mustFail("polder-cni", "CHECK", withPrev(c, result), nil, api.CodeIncompatible)
			}
			r.mustFail("polder-cni", "ADD", c, nil, api.CodeExists)
			r.agent.asked()
			r.mustRun("polder-cni", "DEL", withPrev(c, result), nil)
			if links, _ := r.agent.held(); links != 0 {
				t.Errorf("%d links are left", links)
			}
			for _, changes := range []env{nil, {"CNI_NETNS": ""}, {"CNI_NETNS": "/proc/0/ns/net"}, {"CNI_CONTAINERID": "unknown"}} {
				r.mustRun("polder-cni", "DEL", c, changes)
			}
			if version >= "0.4.0" {
				r.mustFail("polder-cni", "CHECK", withPrev(c, result), nil, api.CodeNotAsExpected)
			}
		})
	}
}

// The bandwidth plugin, later in the chain, has queues on the link; the agent must know before the first packet.
func TestAgentLearnsOfALimitedBandwidth(t *testing.T) {
	r := newRig(t)
	for id, limit := range map[string]string{"c1": `{"ingressRate":1000}`, "c2": `{}`, "c3": `null`} {
		r.mustRun("polder-cni", "ADD", conf("1.1.0", `"runtimeConfig":{"bandwidth":`+limit+`}`), env{"CNI_CONTAINERID": id})
		if req, _ := r.agent.last(t); req.Shaped != (id == "c1") {
			t.Errorf("bandwidth %s: %+v", limit, req)
		}
	}
}

func TestDelWorksUnderAnyConfiguration(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]string{
		"settings of others": conf("1.1.0", `"mtu":"big"`, `"ipMasq":7`, `"dns":[]`, `"runtimeConfig":{"mac":"x"}`),
		"broken prevResult":  conf("1.1.0", `"prevResult":{"ips":"none"}`),
		"prevResult a list":  conf("1.1.0", `"prevResult":[]`),
		"prevResult null":    conf("1.1.0", `"prevResult":null`),
	} {
		t.Run(name, func(t *testing.T) {
			r := &rig{t: t, agent: r.agent, dir: r.dir, bin: r.bin, socket: r.socket, netns: r.netns}
			r.mustRun("polder-cni", "ADD", conf("1.1.0"), nil)
			r.mustRun("polder-cni", "DEL", c, env{"CNI_ARGS": "nonsense;;", "CNI_PATH": ""})
			if links, _ := r.agent.held(); links != 0 {
				t.Error("the link is left")
			}
		})
	}
}

func TestVersionAnswersInTheVersionOfTheQuestion(t *testing.T) {
	r := newRig(t)
	all := `["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]`
	for input, version := range map[string]string{
		`{"cniVersion":"0.4.0"}`: "0.4.0", `{"cniVersion":"1.1.0"}`: "1.1.0", `{"cniVersion":"2.0.0"}`: "2.0.0",
		``: "1.1.0", `{}`: "1.1.0", `{"cniVersion":"<script>"}`: "1.1.0", `{"cniVersion":5}`: "1.1.0", `x`: "1.1.0",
	} {
		out := r.mustRun("polder-cni", "VERSION", input, env{"CNI_PATH": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_CONTAINERID": ""})
		sameJSON(t, out, `{"cniVersion":"`+version+`","supportedVersions":`+all+`}`)
	}
}

func TestStatusSaysWhetherAddWouldSucceed(t *testing.T) {
	r := newRig(t)
	c := conf("1.1.0")
	only := env{"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": "", "CNI_PATH": ""}
	r.mustRun("polder-cni", "STATUS", c, only)
	r.mustFail("polder-cni", "STATUS", conf("1.0.0"), only, api.CodeIncompatible)
	r.mustFail("polder-cni", "STATUS", conf("1.1.0", `"mtu":1400`), only, api.CodeNotAvailable)
	for refused, code := range map[uint]uint{
		api.CodeNotAvailable: api.CodeNotAvailable, api.CodeLimited: api.CodeLimited,
		api.CodeTryAgain: api.CodeNotAvailable,
	} {
		r.agent.change(func() { r.agent.refuse[api.Status] = api.Error{Code: refused, Msg: "10.0.0.0/30 is full"} })
		if f := r.mustFail("polder-cni", "STATUS", c, only, code); f.Msg != "10.0.0.0/30 is full" {
			t.Errorf("%+v", f)
		}
	}
}

func TestGCNeedsTheListAndTakesItAsItIs(t *testing.T) {
	r := newRig(t)
	only := env{"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""}
	keep := `[{"containerID":"c1","ifname":"eth0"}]`
	for name, test := range map[string]struct {
		members []string
		code    uint // 0: success
		left    int
	}{
		"no key":              {nil, api.CodeInvalidConfig, 2},
		"key of other case":   {[]string{`"CNI.dev/Valid-Attachments":[]`}, api.CodeInvalidConfig, 2},
		"one left":            {[]string{`"cni.dev/valid-attachments":` + keep}, 0, 1},
		"older key":           {[]string{`"cni.dev/attachments":` + keep}, 0, 1},
		"both":                {[]string{`"cni.dev/attachments":` + keep, `"cni.dev/valid-attachments":` + keep}, 0, 1},
		"both, one empty":     {[]string{`"cni.dev/attachments":` + keep, `"cni.dev/valid-attachments":[]`}, 0, 1},
		"none valid":          {[]string{`"cni.dev/valid-attachments":[]`}, 0, 0},
		"null, as libcni has": {[]string{`"cni.dev/valid-attachments":null`}, 0, 0},
		"an object":           {[]string{`"cni.dev/valid-attachments":{}`}, api.CodeDecode, 2},
		"a text":              {[]string{`"cni.dev/valid-attachments":"c1"`}, api.CodeDecode, 2},
		"an entry null":       {[]string{`"cni.dev/valid-attachments":[null]`}, api.CodeInvalidConfig, 2},
		"an entry empty":      {[]string{`"cni.dev/valid-attachments":[{}]`}, api.CodeInvalidConfig, 2},
		"an entry climbs":     {[]string{`"cni.dev/valid-attachments":[{"containerID":"../c1","ifname":"eth0"}]`}, api.CodeInvalidConfig, 2},
		"half the entries":    {[]string{`"cni.dev/valid-attachments":[{"containerID":"c1"}]`}, api.CodeInvalidConfig, 2},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rig{t: t, agent: r.agent, dir: r.dir, bin: r.bin, socket: r.socket, netns: r.netns}
			r.agent.change(func() { clear(r.agent.links) })
			for _, id := range []string{"c1", "c2"} {
				r.mustRun("polder-cni", "ADD", conf("1.1.0"), env{"CNI_CONTAINERID": id})
			}
			r.mustRun("polder-cni", "ADD", strings.Replace(conf("1.1.0"), "net1", "net2", 1), nil)
			r.agent.asked()
			if test.code == 0 {
				r.mustRun("polder-cni", "GC", conf("1.1.0", test.members...), only)
			} else {
				r.mustFail("polder-cni", "GC", conf("1.1.0", test.members...), only, test.code)
				if asked := r.agent.asked(); asked != "" {
					t.Errorf("the agent was asked: %s", asked)
				}
			}
			if got, _ := r.agent.held(); got != test.left+1 { // and that of the other network
				t.Errorf("%d links are left, want %d", got, test.left+1)
			}
		})
	}
	r.mustFail("polder-cni", "GC", conf("1.0.0", `"cni.dev/valid-attachments":[]`), only, api.CodeIncompatible)
	r.mustFail("polder-cni", "GC", conf("1.1.0", `"cni.dev/valid-attachments":[]`), env{"CNI_PATH": ""}, api.CodeEnvironment)
}

func TestWithoutAnAgentVerbsSayTryAgainAndStatusSaysUnavailable(t *testing.T) {
	r := newRig(t)
	c := conf("1.1.0")
	result := r.mustRun("polder-cni", "ADD", c, nil)
	r.agent.stop()
	r.mustFail("polder-cni", "ADD", c, nil, api.CodeTryAgain)
	r.mustFail("polder-cni", "CHECK", withPrev(c, result), nil, api.CodeTryAgain)
	r.mustFail("polder-cni", "GC", conf("1.1.0", `"cni.dev/valid-attachments":[]`), nil, api.CodeTryAgain)
	r.mustFail("polder-cni", "STATUS", c, nil, api.CodeNotAvailable)
	for _, conf := range []string{c, withPrev(c, result)} {
		r.mustFail("polder-cni", "DEL", conf, nil, api.CodeTryAgain)
	}
	// A link goes with its namespace: nothing is left to be done.
	empty := filepath.Join(t.TempDir(), "unmounted")
	write(t, empty, "", 0o600)
	for _, netns := range []string{"", "/run/netns/never-was", empty} {
		r.mustRun("polder-cni", "DEL", c, env{"CNI_NETNS": netns})
	}
}

func TestCheckFindsAnotherNamespaceAndAMissingInterface(t *testing.T) {
	r := newRig(t)
	c := conf("1.1.0")
	result := r.mustRun("polder-cni", "ADD", c, nil)
	r.mustFail("polder-cni", "CHECK", c, nil, api.CodeInvalidConfig)
	r.mustFail("polder-cni", "CHECK", withPrev(c, result), env{"CNI_NETNS": newNetns(t)}, api.CodeNotAsExpected)
	r.mustFail("polder-cni", "CHECK", withPrev(c, strings.Replace(result, `"eth0"`, `"eth9"`, 1)), nil, api.CodeInvalidConfig)
	r.mustFail("polder-cni", "CHECK", withPrev(c, strings.Replace(result, "10.9.0.3", "10.9.0.4", 1)), nil, api.CodeNotAsExpected)
	r.mustFail("polder-cni", "CHECK", withPrev(c, strings.Replace(result, "02:00:00:00:00:01", "02:00:00:00:00:02", 1)), nil, api.CodeNotAsExpected)

	link := filepath.Join(t.TempDir(), "netns") // another path to the same namespace
	if err := os.Symlink(r.netns, link); err != nil {
		t.Fatal(err)
	}
	r.mustRun("polder-cni", "CHECK", withPrev(c, result), env{"CNI_NETNS": link})

	// A later plugin may add an interface with addresses of its own.
	var changed map[string]any
	if err := json.Unmarshal([]byte(result), &changed); err != nil {
		t.Fatal(err)
	}
	changed["interfaces"] = append(changed["interfaces"].([]any), map[string]any{"name": "eth1", "sandbox": r.netns})
	changed["ips"] = append(changed["ips"].([]any), map[string]any{"address": "192.168.1.2/24", "interface": 2})
	more, err := json.Marshal(changed)
	if err != nil {
		t.Fatal(err)
	}
	r.mustRun("polder-cni", "CHECK", withPrev(c, string(more)), nil)
}
