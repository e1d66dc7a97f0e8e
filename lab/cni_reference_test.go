package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// The reference plugins and cnitool, of the releases that Polder is tested with.
const (
	referencePlugins = "github.com/containernetworking/plugins/plugins/"
	referenceVersion = "v1.9.1"
	cnitoolPackage   = "github.com/containernetworking/cni/cnitool@v1.3.1"
)

// references returns a folder with them. They are built when they are first needed, outside this module, and kept.
func references(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(cache, "polder-test", "cni-"+referenceVersion)
	if _, err := os.Stat(folder); err == nil {
		return folder
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o755); err != nil {
		t.Fatal(err)
	}
	building, err := os.MkdirTemp(filepath.Dir(folder), ".building-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(building)
	var plugins []string
	for _, p := range []string{"main/ptp", "main/bridge", "main/macvlan", "main/loopback", "ipam/host-local", "meta/portmap", "meta/bandwidth"} {
		plugins = append(plugins, referencePlugins+p+"@"+referenceVersion)
	}
	for _, packages := range [][]string{plugins, {cnitoolPackage}} {
		cmd := exec.Command("go", append([]string{"install"}, packages...)...)
		cmd.Dir, cmd.Env = building, append(os.Environ(), "GOBIN="+building, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		if out, err := outside(cmd); err != nil {
			if os.Getenv("POLDER_ROOT_TESTS") == "1" {
				t.Fatalf("get reference plugins: %v: %s", err, out)
			}
			t.Skipf("get reference plugins: %v: %s", err, out)
		}
	}
	if err := os.Rename(building, folder); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return folder
}

// outside runs a command in the network of the process that started this one, which has a way to the module proxy:
// tests are in a network namespace of their own.
func outside(cmd *exec.Cmd) (out []byte, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		here, inside := os.Open("/proc/thread-self/ns/net")
		there, above := os.Open(fmt.Sprintf("/proc/%d/ns/net", os.Getppid()))
		if err = errors.Join(inside, above); err != nil {
			return
		}
		defer here.Close()
		defer there.Close()
		if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		out, err = cmd.CombinedOutput()
		if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // else the thread ends here
		}
	}()
	<-done
	return out, err
}

// mesh is a lab of two nodes with a pod of the lab's on each, that listen.
type mesh struct {
	*lab.Cluster
	near, far       *runtimeNode
	nearPod, farPod *lab.Pod
}

const seerPort = 7777

// newMesh makes one; args are its agents'.
func newMesh(t *testing.T, args ...string) *mesh {
	t.Helper()
	folder := references(t)
	c := labtest.Up(t, &programs, lab.Options{Nodes: 2, AgentArgs: args})
	m := &mesh{Cluster: c, near: newRuntimeNode(t, c.Nodes()[0]), far: newRuntimeNode(t, c.Nodes()[1])}
	m.near.path = append(m.near.path, folder)
	m.nearPod = create(t, c, lab.PodOptions{Name: "near", Node: m.near.Name})
	m.farPod = create(t, c, lab.PodOptions{Name: "far", Node: m.far.Name})
	seer(t, m.near.Do, m.near.Cluster().Addresses, seerPort)
	seer(t, m.far.Do, m.far.Cluster().Addresses, seerPort)
	seer(t, m.nearPod.Do, m.nearPod.Addresses, seerPort)
	seer(t, m.farPod.Do, m.farPod.Addresses, seerPort)
	return m
}

// reaches checks that a container reaches everything in the lab and everything reaches it, nobody in disguise.
func (m *mesh) reaches(t *testing.T, c container, own []netip.Addr) {
	t.Helper()
	seer(t, c.place(), own, seerPort)
	near, far := m.near.Cluster().Addresses, m.far.Cluster().Addresses
	for what, other := range map[string]struct {
		at    place
		addrs []netip.Addr
	}{
		"its node": {m.near.Do, near}, "the other node": {m.far.Do, far},
		"a pod beside it": {m.nearPod.Do, m.nearPod.Addresses}, "a pod of the other node": {m.farPod.Do, m.farPod.Addresses},
	} {
		sees(t, "to "+what, c.place(), own, other.addrs, seerPort)
		if what == "its node" { // which may use any of its addresses there
			for _, a := range own {
				if _, err := seenAs(other.at, "tcp", a, seerPort); err != nil {
					t.Errorf("from its node to %s: %v", a, err)
				}
			}
			continue
		}
		sees(t, "from "+what, other.at, other.addrs, own, seerPort)
	}
}

func TestPolderAndTheReferencePluginsWorkInAnyCombination(t *testing.T) {
	m := newMesh(t)
	bare := m.near.pool().Used
	for _, test := range []struct {
		name   string
		list   *libcni.NetworkConfigList
		unmesh bool // its pods are on a network of their own
	}{
		{"ptp with Polder's addresses", m.near.network("ptp", `{"type":"ptp","ipam":{"type":"polder-ipam"}}`), false},
		{"ptp with Polder's addresses, and Polder behind it", m.near.network("chained", `{"type":"ptp","ipam":{"type":"polder-ipam"}}`, `{"type":"polder-cni"}`), false},
		{"Polder with host-local's addresses", m.near.network("delegated", `{"type":"polder-cni","ipam":{"type":"host-local","dataDir":"/run/polder/host-local",
			"ranges":[[{"subnet":"10.244.1.0/24","rangeStart":"10.244.1.200","rangeEnd":"10.244.1.210"}],[{"subnet":"fd00:244:0:1::/64","rangeStart":"fd00:244:0:1::2000"}]]}}`), false},
		{"Polder with its addresses by name", m.near.network("named", `{"type":"polder-cni","ipam":{"type":"polder-ipam"}}`), false},
		{"bridge with Polder's addresses", m.near.network("bridge", `{"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"polder-ipam"}}`), true},
		{"macvlan with Polder's addresses", m.near.network("macvlan", `{"type":"macvlan","master":"eth0","ipam":{"type":"polder-ipam"}}`), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := m.near.with(t)
			one, two := newContainer(t, "one"), newContainer(t, "two")
			first := addresses(n.add(test.list, one))
			second := addresses(n.add(test.list, two))
			if len(first) != 2 || first[0] == second[0] || !n.inPodCIDR(first[0]) || !n.inPodCIDR(first[1]) {
				t.Errorf("addresses are %v and %v", first, second)
			}
			if test.unmesh {
				seer(t, two.place(), second, seerPort)
				sees(t, "to its neighbour", one.place(), first, second, seerPort)
			} else {
				m.reaches(t, one, first)
			}
			for _, c := range []container{one, two} {
				if err := n.check(test.list, c); err != nil {
					t.Errorf("CHECK: %v", err)
				}
			}
			if err := n.status(test.list); err != nil {
				t.Errorf("STATUS: %v", err)
			}
			if err := n.gc(test.list, one, two); err != nil {
				t.Errorf("GC: %v", err)
			}
			if p := n.pool(); p.Used != bare+2 {
				t.Errorf("with two pods %d addresses are in use", p.Used)
			}
			n.del(test.list, one)
			n.del(test.list, one)
			if err := n.gc(test.list); err != nil { // which the reference plugins do not pass on to theirs
				t.Errorf("GC: %v", err)
			}
			two.ns.Close()
			two.NetNS = "/run/netns/it-is-gone"
			n.del(test.list, two)
			eventually(t, time.Minute, "all addresses are given back", func() error {
				if p := n.pool(); p.Used != bare {
					return fmt.Errorf("%d are in use", p.Used)
				}
				return nil
			})
		})
	}
}

func TestCnitoolDrivesTheInstalledConfiguration(t *testing.T) {
	folder := references(t)
	lab := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	n := newRuntimeNode(t, lab.Nodes()[0])
	c := newContainer(t, "unused")
	cnitool := func(verb string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), cniTimeout)
		defer cancel()
		cmd := n.Command(ctx, filepath.Join(folder, "cnitool"), verb, "polder", c.NetNS)
		cmd.Env = append(os.Environ(), "CNI_PATH="+cniBin, "NETCONFPATH="+cniNet, "CNI_ARGS=IgnoreUnknown=1")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, step := range []struct {
		verb string
		fine bool
		says string
	}{
		{"status", true, ""},
		{"del", true, ""}, // of nothing
		{"add", true, "10.244.1."},
		{"check", true, ""},
		{"add", false, "eth0"},
		{"check", true, ""},
		{"del", true, ""},
		{"del", true, ""},
		{"check", false, ""},
		{"add", true, "10.244.1."},
		{"gc", false, "cni.dev/valid-attachments is missing"}, // this cnitool has no list, and libcni calls DEL for all
		{"check", false, ""},
		{"status", true, ""},
	} {
		out, err := cnitool(step.verb)
		if (err == nil) != step.fine || !strings.Contains(out, step.says) {
			t.Errorf("cnitool %s: %v: %s", step.verb, err, out)
		}
	}
	n.nothingLeft()
}
