package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
)

const given = `{"cniVersion":"1.1.0","ips":[{"address":"10.7.0.5/24","gateway":"10.7.0.1"}],
	"routes":[{"dst":"0.0.0.0/0"},{"dst":"192.168.7.9/16","gw":"10.7.0.1","mtu":1300}],"dns":{"nameservers":["10.7.0.53"]}}`

func TestDelegatedPluginGetsEverythingAndItsAddressesAreUsed(t *testing.T) {
	for _, version := range supported() {
		t.Run(version, func(t *testing.T) {
			r := newRig(t)
			r.ipam("ADD", strings.Replace(given, "1.1.0", version, 1), 0)
			c := conf(version, `"ipam":{"type":"fake-ipam","subnet":"10.7.0.0/24"}`, `"runtimeConfig":{"ips":["10.7.0.5"]}`)
			a := r.run("polder-cni", "ADD", c, env{"CNI_ARGS": "IgnoreUnknown=1;IP=10.7.0.5"})
			if a.rc != 0 || !strings.Contains(a.stderr, "fake-ipam says ADD") {
				t.Fatalf("%+v", a)
			}
			for _, want := range []string{`"10.7.0.5/24"`, `"gateway": "10.7.0.1"`, `"192.168.0.0/16"`, `"10.7.0.53"`, `"interface": 1`} {
				if !strings.Contains(a.stdout, want) {
					t.Errorf("result lacks %s: %s", want, a.stdout)
				}
			}
			req, _ := r.agent.last(t)
			if !req.DelegatedIPAM || len(req.Addresses) != 1 || req.Addresses[0].Prefix.String() != "10.7.0.5/24" ||
				len(req.Routes) != 1 || req.Routes[0].Dst.String() != "192.168.0.0/16" || req.Routes[0].MTU != 1300 {
				t.Errorf("agent got %+v", req)
			}
			input, _ := os.ReadFile(filepath.Join(r.dir, "ADD.in"))
			vars, _ := os.ReadFile(filepath.Join(r.dir, "ADD.env"))
			want := "CNI_ARGS=IgnoreUnknown=1;IP=10.7.0.5\nCNI_COMMAND=ADD\nCNI_CONTAINERID=c1\nCNI_IFNAME=eth0\nCNI_NETNS=" + r.netns + "\nCNI_PATH=" + r.bin + "\n"
			if string(input) != c || string(vars) != want {
				t.Errorf("plugin got %s with %s", input, vars)
			}
			if version >= "0.4.0" {
				r.mustRun("polder-cni", "CHECK", withPrev(c, a.stdout), nil)
			}
			r.mustRun("polder-cni", "DEL", withPrev(c, a.stdout), nil)
			r.mustRun("polder-cni", "DEL", c, env{"CNI_NETNS": ""})
			if got := strings.Replace(r.ipamCalls(), " CHECK", "", 1); got != "ADD DEL DEL" {
				t.Errorf("plugin was called for %s", got)
			}
		})
	}
}

func TestDelegatedPluginIsCalledForEveryVerb(t *testing.T) {
	r := newRig(t)
	c := conf("1.1.0", `"ipam":{"type":"fake-ipam"}`)
	r.ipam("ADD", given, 0)
	result := r.mustRun("polder-cni", "ADD", c, nil)
	gc := conf("1.1.0", `"ipam":{"type":"fake-ipam"}`, `"cni.dev/valid-attachments":[]`)
	r.mustRun("polder-cni", "STATUS", c, nil)
	if req, _ := r.agent.last(t); !req.DelegatedIPAM {
		t.Error("the agent is not told that addresses come from elsewhere")
	}
	broken := `{"code":11,"msg":"lock is taken"}`
	for _, test := range []struct {
		verb, conf string
		code       uint
	}{{"CHECK", withPrev(c, result), 11}, {"STATUS", c, 50}, {"GC", gc, 11}, {"DEL", c, 11}} {
		r.ipam(test.verb, broken, 1)
		f := r.mustFail("polder-cni", test.verb, test.conf, nil, test.code)
		if want := test.verb + " of IPAM plugin fake-ipam: lock is taken"; f.Msg != want {
			t.Errorf("%q, want %q", f.Msg, want)
		}
	}
	r.ipam("STATUS", `{"code":51,"msg":"worse"}`, 1)
	r.mustFail("polder-cni", "STATUS", c, nil, api.CodeLimited)
	// Without the key, the plugin must not be let loose either: it may take that for an empty list.
	before := r.ipamCalls()
	r.mustFail("polder-cni", "GC", c, nil, api.CodeInvalidConfig)
	if r.ipamCalls() != before {
		t.Error("GC without a list was forwarded")
	}
	// Ours fails, theirs runs.
	r.ipam("GC", "", 0)
	r.agent.change(func() { r.agent.refuse[api.GC] = api.Error{Code: 5, Msg: "netlink is busy"} })
	if f := r.mustFail("polder-cni", "GC", gc, nil, 5); f.Msg != "netlink is busy" || r.ipamCalls() != before+" GC" {
		t.Errorf("%+v, calls %s", f, r.ipamCalls())
	}
	r.ipam("GC", broken, 1)
	if f := r.mustFail("polder-cni", "GC", gc, nil, 5); !strings.Contains(f.Details, "netlink is busy") || !strings.Contains(f.Details, "lock is taken") {
		t.Errorf("%+v", f)
	}
}

func TestBadAnswerOfADelegatedPluginIsTakenBack(t *testing.T) {
	r := newRig(t)
	c := conf("1.1.0", `"ipam":{"type":"fake-ipam"}`)
	for name, test := range map[string]struct {
		out  string
		rc   int
		code uint
	}{
		"nothing":             {"", 0, api.CodeDecode},
		"null":                {"null", 0, api.CodeDecode},
		"no JSON":             {"oops", 0, api.CodeDecode},
		"too much":            {strings.Repeat(" ", maxInput+1), 0, api.CodeInternal},
		"exit status alone":   {"", 3, api.CodeInternal},
		"error":               {`{"code":107,"msg":"full"}`, 1, 107},
		"error without code":  {`{"msg":"full"}`, 1, api.CodeInternal},
		"no address":          {`{"ips":[]}`, 0, api.CodeInternal},
		"ips null":            {`{"ips":[null]}`, 0, api.CodeDecode},
		"routes null":         {`{"ips":[{"address":"10.7.0.5/24"}],"routes":[null]}`, 0, api.CodeDecode},
		"address not one":     {`{"ips":[{"address":"10.7.0"}]}`, 0, api.CodeDecode},
		"address missing":     {`{"ips":[{"gateway":"10.7.0.1"}]}`, 0, api.CodeDecode},
		"route to nowhere":    {`{"ips":[{"address":"10.7.0.5/24"}],"routes":[{"gw":"10.7.0.1"}]}`, 0, api.CodeDecode},
		"loopback":            {`{"ips":[{"address":"127.0.0.1/8"}]}`, 0, api.CodeInternal},
		"address twice":       {`{"ips":[{"address":"10.7.0.5/24"},{"address":"10.7.0.5/16"}]}`, 0, api.CodeInternal},
		"gateway of other":    {`{"ips":[{"address":"10.7.0.5/24","gateway":"fd00::1"}]}`, 0, api.CodeInternal},
		"route with a table":  {`{"ips":[{"address":"10.7.0.5/24"}],"routes":[{"dst":"10.0.0.0/8","table":9}]}`, 0, api.CodeUnsupported},
		"version of tomorrow": {`{"cniVersion":"9.0.0","ips":[{"address":"10.7.0.5/24"}]}`, 0, api.CodeIncompatible},
		"version a number":    {`{"cniVersion":1,"ips":[{"address":"10.7.0.5/24"}]}`, 0, api.CodeDecode},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rig{t: t, agent: r.agent, dir: t.TempDir(), bin: r.bin, socket: r.socket, netns: r.netns}
			r.ipam("ADD", test.out, test.rc)
			r.mustFail("polder-cni", "ADD", c, nil, test.code)
			if r.ipamCalls() != "ADD DEL" || r.agent.asked() != "" {
				t.Errorf("plugin was called for %s, agent was asked %s", r.ipamCalls(), r.agent.asked())
			}
		})
	}
}

func TestResultOfAnOlderPluginWithoutAVersionIsUnderstood(t *testing.T) {
	r := newRig(t)
	r.ipam("ADD", `{"ips":[{"version":"4","address":"10.7.0.5/24"},{"address":"fd00:7::5/64"}]}`, 0)
	r.mustRun("polder-cni", "ADD", conf("0.3.1", `"ipam":{"type":"fake-ipam"}`), nil)
	if req, _ := r.agent.last(t); len(req.Addresses) != 2 || req.Addresses[1].Prefix.String() != "fd00:7::5/64" {
		t.Errorf("%+v", req)
	}
}

func TestAddressesAreFreedOnlyWhenNoLinkHoldsThem(t *testing.T) {
	c := conf("1.1.0", `"ipam":{"type":"fake-ipam"}`)
	for name, test := range map[string]struct {
		prepare func(*rig)
		code    uint
		calls   string
	}{
		"agent refuses":     {func(r *rig) { r.agent.refuse[api.Add] = api.Error{Code: 100, Msg: "no"} }, 100, "ADD DEL"},
		"agent has failed":  {func(r *rig) { r.agent.vanish[api.Add] = true }, api.CodeInternal, "ADD DEL"},
		"and cannot delete": {func(r *rig) { r.agent.vanish[api.Add], r.agent.refuse[api.Del] = true, api.Error{Code: 5, Msg: "no"} }, api.CodeInternal, "ADD"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.ipam("ADD", given, 0)
			r.agent.change(func() { test.prepare(r) })
			r.mustFail("polder-cni", "ADD", c, nil, test.code)
			if links, _ := r.agent.held(); r.ipamCalls() != test.calls || links > 0 && test.calls == "ADD DEL" {
				t.Errorf("plugin was called for %s; links: %d", r.ipamCalls(), links)
			}
		})
	}
	t.Run("no agent", func(t *testing.T) {
		r := newRig(t)
		r.ipam("ADD", given, 0)
		r.agent.stop()
		r.mustFail("polder-cni", "ADD", c, nil, api.CodeTryAgain)
		r.mustFail("polder-cni", "DEL", c, nil, api.CodeTryAgain)
		if r.ipamCalls() != "ADD DEL" {
			t.Errorf("plugin was called for %s: the link may be there still", r.ipamCalls())
		}
		r.mustRun("polder-cni", "DEL", c, env{"CNI_NETNS": ""})
		if r.ipamCalls() != "ADD DEL DEL" {
			t.Errorf("plugin was called for %s", r.ipamCalls())
		}
	})
}

// A second ADD must not have the addresses of the first freed by the DEL that follows the plugin's refusal.
func TestSecondAddDoesNotReachTheDelegatedPlugin(t *testing.T) {
	ip, err := exec.LookPath("ip")
	if err != nil || os.Geteuid() != 0 {
		if os.Getenv("POLDER_ROOT_TESTS") == "1" {
			t.Fatal("needs root and iproute2")
		}
		t.Skip("needs root and iproute2")
	}
	r := newRig(t)
	// The plugin runs in a namespace of the test's, in which there is a link of that name.
	script := "set -e; " + ip + " link add " + hostOf("c1", "eth0") + " type veth peer name other; exec " + filepath.Join(r.bin, "polder-cni")
	write(t, filepath.Join(r.bin, "again"), "#!/bin/sh\nexec unshare -n sh -c '"+script+"'\n", 0o755)
	r.mustFail("again", "ADD", conf("1.1.0", `"ipam":{"type":"fake-ipam"}`), nil, api.CodeExists)
	if r.ipamCalls() != "" {
		t.Errorf("plugin was called for %s", r.ipamCalls())
	}
}

func TestDelegatedPluginIsFoundSafely(t *testing.T) {
	r := newRig(t)
	write(t, filepath.Join(r.bin, "not-executable"), "", 0o644)
	if err := os.Mkdir(filepath.Join(r.bin, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(r.bin, "fake-ipam"), filepath.Join(r.dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	for name, code := range map[string]uint{
		"../fake-ipam": 7, "/bin/true": 7, `..\\x`: 7, "..": 7, ".": 7, "none": 7, "not-executable": 7, "folder": 7, "polder-cni": 7, "elsewhere": 7,
	} {
		r.mustFail("polder-cni", "ADD", conf("1.1.0", `"ipam":{"type":"`+name+`"}`), nil, code)
	}
	c := conf("1.1.0", `"ipam":{"type":"fake-ipam"}`)
	r.mustFail("polder-cni", "ADD", c, env{"CNI_PATH": ""}, api.CodeEnvironment)
	r.mustFail("polder-cni", "ADD", c, env{"CNI_PATH": "relative:"}, api.CodeInvalidConfig)
	r.ipam("ADD", given, 0)
	r.mustRun("polder-cni", "ADD", c, env{"CNI_PATH": "/nonexistent::" + r.bin})
	if r.agent.asked() != "add" {
		t.Error("the agent was asked more than once")
	}
}
