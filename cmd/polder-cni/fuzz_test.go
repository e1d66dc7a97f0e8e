package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
)

// Whatever the configuration is, the process answers in the form of the specification, and what it accepts is valid.
// There is no agent, so that an accepted ADD, for one, ends in "try again".
func FuzzConfig(f *testing.F) {
	prev := `{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"version":"4","address":"10.1.0.5/16","interface":0}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{}}`
	for _, seed := range []string{
		"", "null", "[]", "{", conf("1.1.0"), conf("0.3.0"), conf("9"), conf("1.1.0", `"ipam":{"type":"polder-ipam"}`),
		conf("1.0.0", `"ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/24"}]]}`),
		conf("1.1.0", `"cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]`, `"cni.dev/attachments":null`),
		conf("1.1.0", `"dns":{"nameservers":["1.1.1.1"]}`, `"ipMasq":true`, `"args":{}`, `"runtimeConfig":{"mac":""}`),
		conf("1.1.0", `"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":"::1"},{"hostPort":0}]}`),
		withPrev(conf("0.4.0"), prev), withPrev(conf("1.1.0"), prev), withPrev(conf("1.1.0"), `{"ips":[null],"interfaces":[null],"routes":[null]}`),
		withPrev(conf("0.3.1"), `{"cniVersion":"1.1.0","ips":[{"address":"fd00::1/64","gateway":"::"}]}`),
	} {
		for verb := range uint8(12) {
			f.Add([]byte(seed), verb)
		}
	}
	verbNames := []string{"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"}
	f.Fuzz(func(t *testing.T, input []byte, choice uint8) {
		verb, r := verbNames[int(choice)%len(verbNames)], role(int(choice)/len(verbNames)%2)
		checkRun(t, input, verb, r)
		if verb == "VERSION" {
			return
		}
		conf, err := parseConfig(input, verb, r)
		if err != nil {
			var coded *api.Error
			if !errors.As(err, &coded) || !slices.Contains([]uint{1, 2, 6, 7, 50}, coded.Code) {
				t.Fatalf("%s: error %v", verb, err)
			}
			return
		}
		checkAccepted(t, conf, verb)
	})
}

// checkRun runs the whole process.
func checkRun(t *testing.T, input []byte, verb string, r role) {
	vars := env{"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/nonexistent", "CNI_NETNS": "/nonexistent"}
	var stdout, stderr bytes.Buffer
	p := process{
		name: [2]string{"polder-cni", ipamName}[r], env: func(name string) string { return vars[name] },
		socket: "/nonexistent/agent.sock", stdin: bytes.NewReader(input), stdout: &stdout, stderr: &stderr,
	}
	rc := p.run()
	if stderr.Len() > 0 {
		t.Fatalf("%s: %s", verb, stderr.String())
	}
	if rc == 0 && verb != "ADD" && verb != "VERSION" {
		if stdout.Len() > 0 {
			t.Fatalf("%s prints %s", verb, stdout.String())
		}
		return
	}
	var answer struct {
		CNIVersion string
		Code       uint
		Msg        string
	}
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil || answer.CNIVersion == "" {
		t.Fatalf("%s: answer %s: %v", verb, stdout.String(), err)
	}
	if (rc != 0) != (answer.Code != 0 && answer.Msg != "") && verb != "ADD" { // a result passed on may have any member
		t.Fatalf("%s: exit status %d with answer %s", verb, rc, stdout.String())
	}
}

func checkAccepted(t *testing.T, conf config, verb string) {
	if api.ValidateNetwork(conf.name) != nil || !slices.Contains(supported(), conf.version) || strings.Contains(conf.ipam, "/") {
		t.Fatalf("%s: accepted %+v", verb, conf)
	}
	for _, a := range conf.valid {
		if a.Validate() != nil || a.Network != conf.name {
			t.Fatalf("%s: accepted %+v", verb, a)
		}
	}
	if conf.prev == nil {
		return
	}
	out, err := passOn(conf)
	if err != nil {
		return
	}
	before, err := parseResult("prevResult", conf.prev, conf.version)
	if err != nil {
		t.Fatalf("%s was passed on but: %v", conf.prev, err)
	}
	after, err := parseResult("passed on", out, conf.version)
	if err != nil {
		t.Fatalf("%s became %s: %v", conf.prev, out, err)
	}
	if len(before.IPs)+len(after.IPs) > 0 && !reflect.DeepEqual(before.IPs, after.IPs) { // nil and empty mean the same
		t.Fatalf("%s became %s", conf.prev, out)
	}
	for _, ip := range before.IPs {
		if p, err := decodePrefix(ip.Address); err == nil && !p.IsValid() {
			t.Fatalf("address %v was accepted", ip)
		}
	}
}

// What CNI_ARGS, CNI_CONTAINERID and CNI_IFNAME may be is what a link's record can hold.
func FuzzArgs(f *testing.F) {
	for _, seed := range []string{
		"", ";", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u", "K8S_POD_NAME=a=b", "IgnoreUnknown=x",
		"IgnoreUnknown=1;CommonArgs=1", "K8S_POD_NAMESPACE=ns", "=", "A=1;A=2", "IgnoreUnknown=1;=",
	} {
		f.Add(seed, "c1", "eth0")
	}
	f.Add("", "../c1", "eth%d")
	f.Fuzz(func(t *testing.T, args, id, ifname string) {
		var req api.Request
		if err := namePod(&req, args); err == nil {
			if strings.ContainsAny(req.PodNamespace+req.PodName, " /\n\x00,") || len(req.PodNamespace)+len(req.PodName) > 316 || len(req.PodUID) > 253 {
				t.Fatalf("accepted pod %q/%q of UID %q", req.PodNamespace, req.PodName, req.PodUID)
			}
		}
		vars := env{"CNI_CONTAINERID": id, "CNI_IFNAME": ifname}
		c, err := newCall(process{env: func(n string) string { return vars[n] }}, []string{"CNI_CONTAINERID", "CNI_IFNAME"}, config{name: "net1"})
		if err != nil {
			var coded *api.Error
			if !errors.As(err, &coded) || coded.Code != api.CodeEnvironment || !strings.Contains(coded.Msg, "CNI_") && !strings.Contains(coded.Msg, "not set") {
				t.Fatalf("error %v", err)
			}
			return
		}
		sent, err := json.Marshal(c.request(api.Del))
		var got api.Request
		if err != nil || json.Unmarshal(sent, &got) != nil || got.Attachment != c.Attachment || strings.ContainsAny(id+ifname, " /\n\x00") {
			t.Fatalf("%+v became %+v", c.Attachment, got.Attachment)
		}
	})
}
