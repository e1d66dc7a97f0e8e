package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/lab"
)

// containers calls a network's plugins as a container runtime does, through libcni. Everybody's plugins are started in
// the same way.
type containers struct {
	name string
	call func(func(*libcni.CNIConfig, *libcni.NetworkConfigList) error) error
}

// sandbox is what a pod is to CNI.
type sandbox struct {
	id    string
	netns *os.File
	name  string // of a pod of the API server's; empty: a container that Kubernetes knows nothing of
}

func newSandbox() (sandbox, error) {
	var b [32]byte
	rand.Read(b[:])
	netns, err := rig.NewNetns()
	return sandbox{id: hex.EncodeToString(b[:]), netns: netns}, err
}

func (s sandbox) close() { s.netns.Close() }

func (s sandbox) conf() *libcni.RuntimeConf {
	c := &libcni.RuntimeConf{ContainerID: s.id, NetNS: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.netns.Fd()), IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}}}
	if s.name != "" { // ADD waits for what the API server says of it
		c.Args = append(c.Args, [][2]string{{"K8S_POD_NAMESPACE", namespace}, {"K8S_POD_NAME", s.name}, {"K8S_POD_INFRA_CONTAINER_ID", s.id}}...)
	}
	return c
}

// add is ADD; it says how long it took and which addresses came of it.
func (r containers) add(ctx context.Context, s sandbox) (took time.Duration, addresses []netip.Addr, err error) {
	err = r.call(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		began := time.Now()
		result, err := cni.AddNetworkList(ctx, list, s.conf())
		took = time.Since(began)
		if err != nil {
			return err
		}
		current, err := types100.NewResultFromResult(result)
		if err != nil {
			return err
		}
		for _, ip := range current.IPs {
			if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
				addresses = append(addresses, a.Unmap())
			}
		}
		return nil
	})
	if err != nil {
		return took, nil, fmt.Errorf("%s: ADD: %w", r.name, err)
	}
	return took, addresses, nil
}

func (r containers) del(ctx context.Context, s sandbox) (took time.Duration, err error) {
	err = r.call(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
		began := time.Now()
		err := cni.DelNetworkList(ctx, list, s.conf())
		took = time.Since(began)
		return err
	})
	if err != nil {
		return took, fmt.Errorf("%s: DEL: %w", r.name, err)
	}
	return took, nil
}

// alone is the same without the plugins that are chained after the main one.
func (r containers) alone() containers {
	return containers{r.name + ", no portmap", func(f func(*libcni.CNIConfig, *libcni.NetworkConfigList) error) error {
		return r.call(func(cni *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
			short := *list
			short.Plugins = list.Plugins[:1]
			return f(cni, &short)
		})
	}}
}

// onNode is Polder's runtime: the node's own network configuration.
func onNode(n *lab.Node) containers {
	return containers{polder, func(f func(*libcni.CNIConfig, *libcni.NetworkConfigList) error) error {
		return n.CNI(func(_ *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
			return f(libcni.NewCNIConfigWithCacheDir([]string{"/opt/cni/bin"}, "/var/lib/cni", nil), list)
		})
	}}
}

// reference is a runtime with the reference plugins, on a node that is a network namespace.
type reference struct {
	containers
	node *os.File
	data string // host-local's folder
}

// newReference makes one; its files go below folder. main is "bridge" or "ptp".
func newReference(name, main, plugins, folder string, ipv6 bool) (reference, error) {
	data := filepath.Join(folder, name)
	list, err := libcni.ConfListFromBytes([]byte(referenceConf(main, data, ipv6)))
	if err != nil {
		return reference{}, fmt.Errorf("configure %s: %w", name, err)
	}
	node, err := rig.NewNetns()
	if err != nil {
		return reference{}, err
	}
	r := reference{node: node, data: filepath.Join(data, "bench")}
	r.containers = containers{name, func(f func(*libcni.CNIConfig, *libcni.NetworkConfigList) error) error {
		return rig.In(node, func() error {
			return f(libcni.NewCNIConfigWithCacheDir([]string{plugins}, filepath.Join(data, "cache"), nil), list)
		})
	}}
	return r, nil
}

func (r reference) close() { r.node.Close() }

// referenceConf is what containerd's documentation gives for the bridge plugin, less ipMasq and promiscMode.
func referenceConf(main, data string, ipv6 bool) string {
	ranges, routes := `[{"subnet": "10.88.0.0/16"}]`, `{"dst": "0.0.0.0/0"}`
	if ipv6 {
		ranges += `, [{"subnet": "fd00:88::/64"}]`
		routes += `, {"dst": "::/0"}`
	}
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "bench", "plugins": [
		{"type": %q, "bridge": "cni0", "isGateway": true,
		 "ipam": {"type": "host-local", "dataDir": %q, "ranges": [%s], "routes": [%s]}},
		{"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}]}`, main, data, ranges, routes)
}
