package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/polder-net/polder/internal/api"
)

// Whatever the runtime gives, the answer is an error of the specification, and nobody is asked to do anything.
func TestHostileInputChangesNothing(t *testing.T) {
	r := newRig(t)
	good := conf("1.1.0", `"ipam":{"type":"fake-ipam"}`)
	r.ipam("ADD", given, 0)
	fifo := filepath.Join(r.dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	type test struct {
		conf    string
		changes env
		code    uint
	}
	tests := map[string]test{
		"empty input":         {"", nil, 6},
		"blank input":         {" \n", nil, 6},
		"null":                {"null", nil, 6},
		"a list":              {"[]", nil, 6},
		"a text":              {`"x"`, nil, 6},
		"cut off":             {good[:len(good)-1], nil, 6},
		"something after":     {good + "x", nil, 6},
		"two":                 {good + good, nil, 6},
		"10 MB of blanks":     {strings.Repeat(" ", 10<<20), nil, 6},
		"10 MB of JSON":       {conf("1.1.0", `"x":"`+strings.Repeat("x", 10<<20)+`"`), nil, 6},
		"deep list":           {conf("1.1.0", `"x":`+strings.Repeat("[", 500_000)), nil, 6},
		"deep and whole":      {conf("1.1.0", `"x":`+strings.Repeat("[", 200_000)+strings.Repeat("]", 200_000)), nil, 6},
		"NUL bytes":           {strings.Repeat("\x00", 4096), nil, 6},
		"invalid UTF-8":       {`{"cniVersion":"1.1.0","name":"` + "\xff" + `"}`, nil, 7},
		"no version":          {`{"name":"net1","type":"polder-cni"}`, nil, 1},
		"version empty":       {conf(""), nil, 1},
		"version 0.2.0":       {conf("0.2.0"), nil, 1},
		"version 1.1":         {conf("1.1"), nil, 1},
		"version of tomorrow": {conf("4.3.2"), nil, 1},
		"version negative":    {conf("-1.1.0"), nil, 1},
		"version long":        {conf(strings.Repeat("1", 100_000)), nil, 1},
		"version a number":    {`{"cniVersion":1.1,"name":"net1"}`, nil, 6},
		"no name":             {`{"cniVersion":"1.1.0"}`, nil, 7},
		"name null":           {`{"cniVersion":"1.1.0","name":null}`, nil, 7},
		"name a list":         {`{"cniVersion":"1.1.0","name":["net1"]}`, nil, 6},
		"name climbs":         {`{"cniVersion":"1.1.0","name":"../../etc"}`, nil, 7},
		"name hidden":         {`{"cniVersion":"1.1.0","name":".net"}`, nil, 7},
		"name long":           {`{"cniVersion":"1.1.0","name":"` + strings.Repeat("n", 64) + `"}`, nil, 7},
		"name with NUL":       {`{"cniVersion":"1.1.0","name":"net\u0000"}`, nil, 7},
		"name with newline":   {`{"cniVersion":"1.1.0","name":"net\n"}`, nil, 7},
		"name of other case":  {`{"cniVersion":"1.1.0","Name":"net1"}`, nil, 7},
		"ipam a text":         {conf("1.1.0", `"ipam":"host-local"`), nil, 6},
		"ipam without type":   {conf("1.1.0", `"ipam":{"subnet":"10.0.0.0/8"}`), nil, 7},
		"ipam.type a number":  {conf("1.1.0", `"ipam":{"type":1}`), nil, 6},
		"ipam.type climbs":    {conf("1.1.0", `"ipam":{"type":"../../bin/sh"}`), nil, 7},

		"no container":            {good, env{"CNI_CONTAINERID": ""}, 4},
		"container climbs":        {good, env{"CNI_CONTAINERID": "../../../etc/passwd"}, 4},
		"container with slash":    {good, env{"CNI_CONTAINERID": "a/b"}, 4},
		"container of 300":        {good, env{"CNI_CONTAINERID": strings.Repeat("a", 300)}, 4},
		"container in unicode":    {good, env{"CNI_CONTAINERID": "контейнер"}, 4},
		"container invalid UTF-8": {good, env{"CNI_CONTAINERID": "c\xff"}, 4},
		"container with space":    {good, env{"CNI_CONTAINERID": "c 1"}, 4},
		"container with newline":  {good, env{"CNI_CONTAINERID": "c1\n"}, 4},
		"container as an option":  {good, env{"CNI_CONTAINERID": "-rf"}, 4},
		"all names too long":      {strings.Replace(good, "net1", strings.Repeat("n", 63), 1), env{"CNI_CONTAINERID": strings.Repeat("a", 128)}, 4},
		"no ifname":               {good, env{"CNI_IFNAME": ""}, 4},
		"ifname climbs":           {good, env{"CNI_IFNAME": "../eth0"}, 4},
		"ifname dots":             {good, env{"CNI_IFNAME": ".."}, 4},
		"ifname of 16":            {good, env{"CNI_IFNAME": strings.Repeat("e", 16)}, 4},
		"ifname of 300":           {good, env{"CNI_IFNAME": strings.Repeat("e", 300)}, 4},
		"ifname with colon":       {good, env{"CNI_IFNAME": "eth0:0"}, 4},
		"ifname with tab":         {good, env{"CNI_IFNAME": "eth\t0"}, 4},
		"ifname a template":       {good, env{"CNI_IFNAME": "eth%d"}, 4},
		"ifname invalid UTF-8":    {good, env{"CNI_IFNAME": "\xc3\x28"}, 4},
		"unknown verb":            {good, env{"CNI_COMMAND": "UPDATE"}, 4},
		"verb in small letters":   {good, env{"CNI_COMMAND": "add"}, 4},
		"no verb":                 {good, env{"CNI_COMMAND": ""}, 4},
	}
	for _, verb := range []string{"ADD", "CHECK", "DEL"} {
		for name, test := range tests {
			t.Run(verb+"/"+name, func(t *testing.T) {
				c := test.conf
				if verb == "CHECK" && (strings.HasSuffix(c, `"}`) || strings.HasSuffix(c, `}}`)) { // it needs one to come as far
					c = withPrev(c, `{"cniVersion":"1.1.0"}`)
				}
				r.in(t).refused("polder-cni", verb, c, test.changes, test.code)
			})
		}
	}
	onlyAdd := map[string]test{
		"no netns":               {good, env{"CNI_NETNS": ""}, 4},
		"netns relative":         {good, env{"CNI_NETNS": "run/netns/x"}, 8},
		"netns not there":        {good, env{"CNI_NETNS": "/run/netns/none"}, 8},
		"netns a pipe":           {good, env{"CNI_NETNS": fifo}, 8},
		"netns a device":         {good, env{"CNI_NETNS": "/dev/zero"}, 8},
		"netns a folder":         {good, env{"CNI_NETNS": "/"}, 8},
		"netns another kind":     {good, env{"CNI_NETNS": "/proc/self/ns/mnt"}, 8},
		"netns the host's":       {good, env{"CNI_NETNS": "/proc/self/ns/net"}, 8},
		"netns long":             {good, env{"CNI_NETNS": "/" + strings.Repeat("x/", 4000)}, 8},
		"args no pairs":          {good, env{"CNI_ARGS": "nonsense"}, 4},
		"args unknown":           {good, env{"CNI_ARGS": "IP=10.0.0.1"}, 4},
		"args a struct's name":   {good, env{"CNI_ARGS": "IgnoreUnknown=1;CommonArgs=1"}, 4},
		"args with bad bool":     {good, env{"CNI_ARGS": "IgnoreUnknown=maybe"}, 4},
		"args with a climb":      {good, env{"CNI_ARGS": "K8S_POD_NAMESPACE=a;K8S_POD_NAME=../b"}, 4},
		"args with a long UID":   {good, env{"CNI_ARGS": "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=" + strings.Repeat("c", 300)}, 4},
		"args with a space":      {good, env{"CNI_ARGS": "K8S_POD_NAMESPACE=a b;K8S_POD_NAME=c"}, 4},
		"args with a long name":  {good, env{"CNI_ARGS": "K8S_POD_NAMESPACE=a;K8S_POD_NAME=" + strings.Repeat("b", 300)}, 4},
		"unknown setting":        {conf("1.1.0", `"mtu":1400`), nil, 2},
		"setting of other case":  {conf("1.1.0", `"DNS":{}`), nil, 2},
		"ipMasq false":           {conf("1.1.0", `"ipMasq":false`), nil, 2},
		"ipMasq a text":          {conf("1.1.0", `"ipMasq":"yes"`), nil, 6},
		"dns a list":             {conf("1.1.0", `"dns":["10.0.0.1"]`), nil, 6},
		"runtimeConfig a list":   {conf("1.1.0", `"runtimeConfig":[]`), nil, 6},
		"mac wanted":             {conf("1.1.0", `"runtimeConfig":{"mac":"02:00:00:00:00:01"}`), nil, 2},
		"mac wanted of delegate": {conf("1.1.0", `"ipam":{"type":"fake-ipam"}`, `"runtimeConfig":{"mac":"x"}`), nil, 2},
	}
	for name, test := range onlyAdd {
		t.Run("ADD/"+name, func(t *testing.T) { r.in(t).refused("polder-cni", "ADD", test.conf, test.changes, test.code) })
	}
}

// in is the rig for a subtest.
func (r *rig) in(t *testing.T) *rig {
	sub := *r
	sub.t = t
	return &sub
}

// refused is mustFail where nobody may be asked for anything.
func (r *rig) refused(name, verb, conf string, changes env, code uint) {
	r.t.Helper()
	r.mustFail(name, verb, conf, changes, code)
	if asked := r.agent.asked(); asked != "" {
		r.t.Errorf("the agent was asked: %s", asked)
	}
	if calls := r.ipamCalls(); calls != "" {
		r.t.Errorf("the IPAM plugin was called for %s", calls)
	}
}

func TestWhatIsUnsupportedIsNamedWithItsValue(t *testing.T) {
	r := newRig(t)
	for member, want := range map[string]string{
		`"mtu": 1400`:                            `unsupported field "mtu": 1400`,
		`"x\"y":{"a": [1, 2]}`:                   `unsupported field "x\"y": {"a":[1,2]}`,
		`"ipMasq":false`:                         `unsupported field "ipMasq": false`,
		`"runtimeConfig":{"ips":["10.0.0.5"]}`:   `unsupported field "runtimeConfig.ips": ["10.0.0.5"]`,
		`"y":"` + strings.Repeat("é", 300) + `"`: `unsupported field "y": "` + strings.Repeat("é", 199) + "…",
	} {
		if f := r.mustFail("polder-cni", "ADD", conf("1.1.0", member), nil, api.CodeUnsupported); f.Msg != want {
			t.Errorf("%s: %q, want %q", member, f.Msg, want)
		}
	}
}

func TestWhatAsksForNothingIsFine(t *testing.T) {
	r := newRig(t)
	for i, member := range []string{
		`"ipMasq":true`, `"ipMasq":null`, `"dns":{}`, `"ipam":{}`, `"ipam":null`, `"ipam":{"type":"polder-ipam"}`,
		`"runtimeConfig":{"portMappings":[],"mac":"","bandwidth":{},"ips":null}`, `"args":{"cni":{"labels":[{"key":"a","value":"b"}]}}`,
		`"capabilities":{"mac":true}`, `"cni.dev/anything":7`, `"prevResult":null`,
	} {
		r.mustRun("polder-cni", "ADD", conf("1.1.0", member), env{"CNI_CONTAINERID": "c" + string(rune('a'+i)), "CNI_ARGS": "IgnoreUnknown=1;X=1;"})
		if req, _ := r.agent.last(t); req.Masquerade != strings.HasSuffix(member, `"ipMasq":true`) || req.DelegatedIPAM {
			t.Errorf("%s: %+v", member, req)
		}
	}
}

func TestEnvironmentErrorsNameEveryVariable(t *testing.T) {
	r := newRig(t)
	f := r.mustFail("polder-cni", "ADD", conf("0.4.0"), env{"CNI_NETNS": "", "CNI_CONTAINERID": "", "CNI_IFNAME": ""}, api.CodeEnvironment)
	for _, name := range []string{"CNI_NETNS", "CNI_CONTAINERID", "CNI_IFNAME"} {
		if !strings.Contains(f.Msg, name) {
			t.Errorf("%q does not name %s", f.Msg, name)
		}
	}
	if f.CNIVersion != "0.4.0" {
		t.Errorf("error is in version %s", f.CNIVersion)
	}
	if a := r.run("polder-cni", "", "", nil); !strings.Contains(a.stderr, "polder-cni is a CNI plugin") || a.rc == 0 {
		t.Errorf("called by hand: %+v", a)
	}
	// CNI_PATH is not needed where nothing is to be called.
	r.mustRun("polder-cni", "ADD", conf("1.1.0"), env{"CNI_PATH": ""})
	if _, err := os.Stat(r.socket); err != nil {
		t.Error(err)
	}
}
