package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"syscall"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// The folders of CNI, as container runtimes use them by default. They are the node's own.
const (
	confFolder   = "/etc/cni/net.d"
	pluginFolder = "/opt/cni/bin"
	cniCache     = "/var/lib/cni"
)

// CNI runs f inside the node with its network configuration, as its container runtime would: the first one in
// /etc/cni/net.d, plugins from /opt/cni/bin.
func (n *Node) CNI(f func(*libcni.CNIConfig, *libcni.NetworkConfigList) error) error {
	group, err := os.Open(n.cgroup)
	if err != nil {
		return fmt.Errorf("enter %s: %w", n.Name, err)
	}
	defer group.Close()
	return n.in(inside, func() error {
		list, err := firstConf()
		if err != nil {
			return fmt.Errorf("read network configuration of %s: %w", n.Name, err)
		}
		return f(libcni.NewCNIConfigWithCacheDir([]string{pluginFolder}, cniCache, &plugins{group: group}), list)
	})
}

func firstConf() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(confFolder, []string{".conflist"})
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no .conflist in %s yet", confFolder)
	}
	return libcni.NetworkConfFromFile(files[0])
}

// Status asks the node's plugins by CNI's STATUS whether they could set up a pod now.
func (n *Node) Status(ctx context.Context) error {
	return n.CNI(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		return cni.GetStatusNetworkList(ctx, list)
	})
}

// runtimeConf says a pod to CNI as Kubernetes' runtimes do.
func (p podRecord) runtimeConf() *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: p.ContainerID,
		NetNS:       netnsPath(p.Name),
		IfName:      "eth0",
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", p.namespace()},
			{"K8S_POD_NAME", p.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", p.ContainerID},
			{"K8S_POD_UID", p.UID},
		},
		CapabilityArgs: p.Capabilities,
	}
}

// resultAddresses are the addresses that a result of ADD gives to the pod.
func resultAddresses(result types.Result) ([]netip.Addr, error) {
	r, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("read result of ADD: %w", err)
	}
	var addresses []netip.Addr
	for _, ip := range r.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, fmt.Errorf("read result of ADD: bad address %s", ip.Address.IP)
		}
		addresses = append(addresses, a.Unmap())
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("read result of ADD: no address")
	}
	return addresses, nil
}

// plugins runs CNI plugins in the calling thread's namespaces and in a node's control group. libcni's own way of
// running them does not know of control groups.
type plugins struct {
	version.PluginDecoder
	group *os.File
}

// FindInPath returns the file of a plugin.
func (p *plugins) FindInPath(plugin string, folders []string) (string, error) {
	for _, folder := range folders {
		path := folder + "/" + plugin
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("no plugin %q in %v", plugin, folders)
}

// ExecPlugin runs a plugin; what it says on standard output is the result or the error.
func (p *plugins) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(p.group.Fd())}
	err := cmd.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	var said types.Error
	if json.Unmarshal(stdout.Bytes(), &said) == nil && said.Msg != "" {
		return nil, &said
	}
	return nil, fmt.Errorf("run %s: %w: %s%s", path, err, stdout.Bytes(), stderr.Bytes())
}
