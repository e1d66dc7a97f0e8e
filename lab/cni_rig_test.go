package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/testnet"
	"github.com/polder-net/polder/lab"
)

// The folders of CNI on every node.
const (
	cniNet     = "/etc/cni/net.d"
	cniBin     = "/opt/cni/bin"
	cniConf    = "05-polder.conflist"
	cniTimeout = 2 * time.Minute
)

// runtimeNode is a node of a lab as its container runtime sees it: the installed configuration and plugins, driven by
// libcni.
type runtimeNode struct {
	*lab.Node
	t      *testing.T
	path   []string // where plugins are
	shaped bool     // pods have a limited bandwidth, as far as Polder's plugin is told
	ports  bool     // pods have host ports
}

func newRuntimeNode(t *testing.T, n *lab.Node) *runtimeNode {
	return &runtimeNode{Node: n, t: t, path: []string{cniBin}}
}

// in runs f in the node's network and mount namespaces.
func (n *runtimeNode) in(f func() error) error {
	return n.Do(func() error { // on a thread that nobody else will ever use
		mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", n.PID()))
		if err != nil {
			return err
		}
		defer mounts.Close()
		if err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS)); err != nil {
			return fmt.Errorf("enter mount namespace of %s: %w", n.Name, err)
		}
		return f()
	})
}

// with is the same node for a subtest.
func (n *runtimeNode) with(t *testing.T) *runtimeNode {
	other := *n
	other.t = t
	return &other
}

// cni runs f inside the node with libcni.
func (n *runtimeNode) cni(f func(context.Context, *libcni.CNIConfig) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), cniTimeout)
	defer cancel()
	return n.in(func() error {
		run := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: io.Discard}, PluginDecoder: version.PluginDecoder{}}
		return f(ctx, libcni.NewCNIConfigWithCacheDir(n.path, "/var/lib/cni", run))
	})
}

// installed is the configuration that the agent wrote.
func (n *runtimeNode) installed() *libcni.NetworkConfigList {
	n.t.Helper()
	if n.shaped {
		return n.network("polder", `{"type":"polder-cni","capabilities":{"bandwidth":true}}`)
	}
	body, err := os.ReadFile(filepath.Join(n.Path(cniNet), cniConf))
	if err != nil {
		n.t.Fatal(err)
	}
	return n.conf(string(body))
}

// installedAs is the same in one version of the specification.
func (n *runtimeNode) installedAs(v string) *libcni.NetworkConfigList {
	n.t.Helper()
	var fields map[string]any
	body, err := os.ReadFile(filepath.Join(n.Path(cniNet), cniConf))
	if err == nil {
		err = json.Unmarshal(body, &fields)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	delete(fields, "cniVersions")
	fields["cniVersion"] = v
	if body, err = json.Marshal(fields); err != nil {
		n.t.Fatal(err)
	}
	return n.conf(string(body))
}

func (n *runtimeNode) conf(body string) *libcni.NetworkConfigList {
	n.t.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(body))
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

// network is a configuration of one network in the newest version.
func (n *runtimeNode) network(name string, plugins ...string) *libcni.NetworkConfigList {
	n.t.Helper()
	return n.conf(fmt.Sprintf(`{"cniVersion":"1.1.0","name":%q,"plugins":[%s]}`, name, strings.Join(plugins, ",")))
}

// container is what a runtime gives a network to.
type container struct {
	*libcni.RuntimeConf
	ns *testnet.NS
}

// limited is a container whose bandwidth is limited.
func limited(c container) container {
	c.CapabilityArgs = map[string]any{"bandwidth": map[string]any{"ingressRate": 1_000_000, "ingressBurst": 1_000_000}}
	return c
}

// published is a container with host ports.
func published(c container) container {
	c.CapabilityArgs = map[string]any{"portMappings": []any{mapping("", 30080, "tcp"), mapping("127.0.0.1", 30080, "udp")}}
	return c
}

// newContainer is a container with a network namespace of its own, which ends with the test. It is no pod of Kubernetes': of
// one that no manifest knows, Polder would wait for the policies.
func newContainer(t *testing.T, id string) container {
	t.Helper()
	ns := testnet.New(t)
	return container{&libcni.RuntimeConf{ContainerID: id, NetNS: ns.Path(), IfName: "eth0", Args: [][2]string{{"IgnoreUnknown", "1"}}}, ns}
}

// tryAdd calls ADD and returns the result in the newest form.
func (n *runtimeNode) tryAdd(list *libcni.NetworkConfigList, c container) (result *types100.Result, err error) {
	err = n.cni(func(ctx context.Context, cni *libcni.CNIConfig) error {
		r, err := cni.AddNetworkList(ctx, list, c.RuntimeConf)
		if err != nil {
			return err
		}
		if r.Version() != list.CNIVersion {
			return fmt.Errorf("the result has version %s, the configuration %s", r.Version(), list.CNIVersion)
		}
		result, err = types100.NewResultFromResult(r)
		return err
	})
	return result, err
}

func (n *runtimeNode) add(list *libcni.NetworkConfigList, c container) *types100.Result {
	n.t.Helper()
	r, err := n.tryAdd(list, c)
	if err != nil {
		n.t.Fatalf("ADD %s: %v", c.ContainerID, err)
	}
	return r
}

func (n *runtimeNode) tryDel(list *libcni.NetworkConfigList, c container) error {
	return n.cni(func(ctx context.Context, cni *libcni.CNIConfig) error {
		return cni.DelNetworkList(ctx, list, c.RuntimeConf)
	})
}

func (n *runtimeNode) del(list *libcni.NetworkConfigList, c container) {
	n.t.Helper()
	if err := n.tryDel(list, c); err != nil {
		n.t.Fatalf("DEL %s: %v", c.ContainerID, err)
	}
}

func (n *runtimeNode) check(list *libcni.NetworkConfigList, c container) error {
	return n.cni(func(ctx context.Context, cni *libcni.CNIConfig) error {
		return cni.CheckNetworkList(ctx, list, c.RuntimeConf)
	})
}

func (n *runtimeNode) status(list *libcni.NetworkConfigList) error {
	return n.cni(func(ctx context.Context, cni *libcni.CNIConfig) error { return cni.GetStatusNetworkList(ctx, list) })
}

// gc calls GC with a cache that knows of no container, so that nothing but GC itself collects.
func (n *runtimeNode) gc(list *libcni.NetworkConfigList, valid ...container) error {
	if err := os.RemoveAll(filepath.Join(n.Path("/var/lib/cni"), "results")); err != nil {
		return err
	}
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for _, c := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: c.ContainerID, IfName: c.IfName})
	}
	return n.cni(func(ctx context.Context, cni *libcni.CNIConfig) error { return cni.GCNetworkList(ctx, list, args) })
}

// plugin runs a plugin's binary as it is, with variables "CONTAINERID=…" and input, and returns what it prints and its
// error as the specification has it.
func (n *runtimeNode) plugin(name, verb, input string, variables ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), cniTimeout)
	defer cancel()
	cmd := n.Command(ctx, filepath.Join(cniBin, name))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_PATH="+strings.Join(n.path, ":"))
	for _, v := range variables {
		cmd.Env = append(cmd.Env, "CNI_"+v)
	}
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if err == nil {
		return string(out), nil
	}
	var said types.Error
	if json.Unmarshal(out, &said) != nil || said.Code == 0 {
		return string(out), fmt.Errorf("%s %s: no error of the specification: %w: %s", name, verb, err, out)
	}
	return string(out), &said
}

// ipam runs polder-ipam for a container.
func (n *runtimeNode) ipam(verb, network, id string) (*types100.Result, error) {
	out, err := n.plugin("polder-ipam", verb, fmt.Sprintf(`{"cniVersion":"1.1.0","name":%q,"type":"ptp","ipam":{"type":"polder-ipam"}}`, network),
		"CONTAINERID="+id, "IFNAME=eth0", "NETNS=/var/run/netns/none")
	if err != nil || verb != "ADD" {
		return nil, err
	}
	r, err := types100.NewResult([]byte(out))
	if err != nil {
		return nil, err
	}
	return r.(*types100.Result), nil
}

// code is the code of a CNI error, 0 for another or none.
func code(err error) uint {
	var said *types.Error
	if errors.As(err, &said) {
		return said.Code
	}
	return 0
}

// addresses of a result, without their prefix lengths.
func addresses(r *types100.Result) []netip.Addr {
	var list []netip.Addr
	for _, ip := range r.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		list = append(list, a.Unmap())
	}
	return list
}

// pool is what the agent says of the node's IPv4 addresses.
func (n *runtimeNode) pool() api.Pool {
	n.t.Helper()
	for _, p := range reportOf(n.t, n.Node).Addresses {
		if p.CIDR.Addr().Is4() {
			return p
		}
	}
	return api.Pool{}
}

// sync has the agent compare everything soon, and not at its next tick only: it changes an object that matters to
// nobody.
func (n *runtimeNode) sync(c *lab.Cluster) {
	n.t.Helper()
	write(n.t, filepath.Join(c.Manifests(), "touch.yaml"), fmt.Sprintf(
		"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: touch-%d\n", time.Now().UnixNano()))
}

// parallel runs f for every number below count, all at once, and returns their errors.
func parallel(count int, f func(i int) error) error {
	errs := make([]error, count)
	var wait sync.WaitGroup
	for i := range count {
		wait.Go(func() { errs[i] = f(i) })
	}
	wait.Wait()
	return errors.Join(errs...)
}
