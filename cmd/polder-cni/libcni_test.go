package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/polder-net/polder/internal/api"
)

// runtime is libcni with its cache, as container runtimes have it.
type runtime struct {
	*rig
	cni  *libcni.CNIConfig
	list *libcni.NetworkConfigList
}

func newRuntime(t *testing.T, r *rig, version, plugins string) *runtime {
	t.Helper()
	t.Setenv("POLDER_CNI_TEST_SOCKET", r.socket)
	t.Setenv("FAKE_IPAM_DIR", r.dir)
	t.Setenv("GORACE", "atexit_sleep_ms=0")
	list, err := libcni.NetworkConfFromBytes([]byte(`{"cniVersion":"` + version + `","name":"net1","plugins":[` + plugins + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return &runtime{r, libcni.NewCNIConfigWithCacheDir([]string{r.bin}, t.TempDir(), nil), list}
}

func (r *runtime) container(id string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: id, NetNS: r.netns, IfName: "eth0",
		Args:           [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "ns1"}, {"K8S_POD_NAME", id}},
		CapabilityArgs: map[string]any{"portMappings": []any{map[string]any{"hostPort": 80}}, "mac": "02:00:00:00:00:09"},
	}
}

func TestLibcniDrivesTheMainPluginInEveryVersion(t *testing.T) {
	for _, version := range supported() {
		t.Run(version, func(t *testing.T) {
			r := newRuntime(t, newRig(t), version, `{"type":"polder-cni"}`)
			ctx := context.Background()
			if _, err := r.cni.ValidateNetworkList(ctx, r.list); err != nil {
				t.Fatal(err)
			}
			for _, id := range []string{"c1", "c2", "c3"} {
				result, err := r.cni.AddNetworkList(ctx, r.list, r.container(id))
				if err != nil {
					t.Fatal(err)
				}
				newest, err := types100.NewResultFromResult(result)
				if err != nil || result.Version() != version || len(newest.IPs) != 2 || newest.Interfaces[1].Sandbox != r.netns {
					t.Errorf("result %+v of version %s: %v", newest, result.Version(), err)
				}
			}
			if version >= "0.4.0" {
				if err := r.cni.CheckNetworkList(ctx, r.list, r.container("c1")); err != nil {
					t.Error(err)
				}
			}
			for range 2 {
				if err := r.cni.DelNetworkList(ctx, r.list, r.container("c1")); err != nil {
					t.Error(err)
				}
			}
			if err := r.cni.GetStatusNetworkList(ctx, r.list); err != nil {
				t.Error(err)
			}
			// GC deletes what is in the cache and not valid, and then asks the plugin.
			r.agent.asked()
			err := r.cni.GCNetworkList(ctx, r.list, &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "c3", IfName: "eth0"}}})
			want := "del"
			if version >= "1.1.0" {
				want = "del gc"
			}
			if links, _ := r.agent.held(); err != nil || links != 1 {
				t.Errorf("%d links are left: %v", links, err)
			}
			if asked := r.agent.asked(); asked != want {
				t.Errorf("GC asked %q, want %q", asked, want)
			}
		})
	}
}

// A runtime whose cache is lost: only GC knows. Without arguments libcni leaves the list out, and nothing is removed.
func TestLibcniGCWithoutACache(t *testing.T) {
	r := newRuntime(t, newRig(t), "1.1.0", `{"type":"polder-cni"}`)
	ctx := context.Background()
	for _, id := range []string{"c1", "c2"} {
		r.mustRun("polder-cni", "ADD", conf("1.1.0"), env{"CNI_CONTAINERID": id})
	}
	if err := r.cni.GCNetworkList(ctx, r.list, nil); err == nil || !strings.Contains(err.Error(), "valid-attachments is missing") {
		t.Errorf("without a list: %v", err)
	}
	if links, _ := r.agent.held(); links != 2 {
		t.Errorf("%d links are left", links)
	}
	if err := r.cni.GCNetworkList(ctx, r.list, &libcni.GCArgs{}); err != nil { // null
		t.Error(err)
	}
	if links, _ := r.agent.held(); links != 0 {
		t.Errorf("%d links are left", links)
	}
}

func TestLibcniChainsAPluginBehindOurs(t *testing.T) {
	for _, order := range []string{`{"type":"polder-cni"},{"type":"echo"}`, `{"type":"echo","first":true},{"type":"polder-cni"}`} {
		rig := newRig(t)
		// The other plugin of the chain: passes the result on, or makes one.
		write(t, filepath.Join(rig.bin, "echo"), echoPlugin, 0o755)
		r := newRuntime(t, rig, "1.1.0", order)
		ctx := context.Background()
		result, err := r.cni.AddNetworkList(ctx, r.list, r.container("c1"))
		if err != nil {
			t.Fatal(err)
		}
		if text, err := json.Marshal(result); err != nil || !strings.Contains(string(text), "/32") {
			t.Errorf("result %s: %v", text, err)
		}
		if err := r.cni.CheckNetworkList(ctx, r.list, r.container("c1")); err != nil {
			t.Error(err)
		}
		if err := r.cni.DelNetworkList(ctx, r.list, r.container("c1")); err != nil {
			t.Error(err)
		}
		if asked := r.agent.asked(); asked != "add check del" {
			t.Errorf("%s asked %q", order, asked)
		}
	}
}

const echoPlugin = `#!/bin/sh
input=$(cat)
case "$CNI_COMMAND $input" in
ADD*prevResult*) printf '%s' "$input" | sed 's/.*"prevResult":\({.*}\),"type".*/\1/' ;;
ADD*) echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.3.0.1/32","interface":0}]}' ;;
VERSION*) echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}' ;;
esac
`

// The reference host-local plugin, built from its release, holds the addresses.
func TestHostLocalGivesAddresses(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a plugin")
	}
	rig := newRig(t)
	build := exec.Command("go", "install", "github.com/containernetworking/plugins/plugins/ipam/host-local@v1.9.1")
	build.Env = append(os.Environ(), "GOBIN="+rig.bin, "CGO_ENABLED=0", "GOFLAGS=")
	build.Dir = t.TempDir() // outside this module, whose requirements it must not touch
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("get host-local: %v: %s", err, out)
	}
	store := t.TempDir()
	r := newRuntime(t, rig, "1.1.0", `{"type":"polder-cni","ipam":{"type":"host-local","dataDir":"`+store+`",
		"ranges":[[{"subnet":"10.8.0.0/29"}],[{"subnet":"fd00:8::/64"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"},{"dst":"10.99.0.0/16"}]}}`)
	ctx := context.Background()
	reserved := func() int {
		files, err := filepath.Glob(filepath.Join(store, "net1", "*[0-9a-f]"))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range files {
			if base := filepath.Base(f); strings.HasPrefix(base, "10.8.") || strings.HasPrefix(base, "fd00") {
				n++
			}
		}
		return n
	}
	for _, id := range []string{"c1", "c2", "c3", "c4", "c5"} { // of a /29: less network, broadcast and gateway
		if _, err := r.cni.AddNetworkList(ctx, r.list, r.container(id)); err != nil {
			t.Fatal(err)
		}
	}
	req, _ := r.agent.last(t)
	if len(req.Addresses) != 2 || req.Addresses[0].Gateway.String() != "10.8.0.1" || len(req.Routes) != 1 {
		t.Errorf("agent got %+v", req)
	}
	if err := r.cni.CheckNetworkList(ctx, r.list, r.container("c5")); err != nil {
		t.Error(err)
	}
	if _, err := r.cni.AddNetworkList(ctx, r.list, r.container("c6")); err == nil || !strings.Contains(err.Error(), "IPAM plugin host-local") {
		t.Errorf("with all addresses given: %v", err)
	}
	r.agent.change(func() { r.agent.refuse[api.Add] = api.Error{Code: 100, Msg: "no"} })
	if err := r.cni.DelNetworkList(ctx, r.list, r.container("c5")); err != nil {
		t.Error(err)
	}
	if _, err := r.cni.AddNetworkList(ctx, r.list, r.container("c6")); err == nil || reserved() != 8 {
		t.Errorf("after a refused ADD %d addresses are reserved: %v", reserved(), err)
	}
	if err := r.cni.GetStatusNetworkList(ctx, r.list); err != nil {
		t.Error(err)
	}
	valid := []types.GCAttachment{{ContainerID: "c1", IfName: "eth0"}}
	if err := r.cni.GCNetworkList(ctx, r.list, &libcni.GCArgs{ValidAttachments: valid}); err != nil || reserved() != 2 {
		t.Errorf("after GC %d addresses are reserved: %v", reserved(), err)
	}
	if err := r.cni.DelNetworkList(ctx, r.list, r.container("c1")); err != nil || reserved() != 0 {
		t.Errorf("after DEL %d addresses are reserved: %v", reserved(), err)
	}
}
