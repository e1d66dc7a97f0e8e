package rig

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const containerdSocket = "/run/containerd/containerd.sock"

// startNode makes a machine a node: its link, containerd with the images, and a kubelet.
func (r *Rig) startNode(ctx context.Context, number int) error {
	m := r.nodes[number-1]
	if err := r.connect(ctx, m, number); err != nil {
		return err
	}
	if err := r.installPlugins(m); err != nil {
		return err
	}
	config := filepath.Join(m.Dir, "containerd.toml")
	if err := os.WriteFile(config, []byte(containerdConfig(r.Pause)), 0o644); err != nil {
		return fmt.Errorf("write containerd's configuration: %w", err)
	}
	containerd, err := r.start(m, "containerd", "env", "PATH="+r.searchPath(), r.Programs["containerd"], "--config", config, "--log-level", "warn")
	if err != nil {
		return err
	}
	err = containerd.Ready(ctx, time.Minute, func() error {
		_, err := m.Run(ctx, r.Programs["ctr"], "--address", containerdSocket, "version")
		return err
	})
	if err != nil {
		return err
	}
	for _, archive := range r.Images {
		if err := r.importImages(ctx, m, archive); err != nil {
			return err
		}
	}
	return nil
}

// connect joins a machine to the bridge by a cable.
func (r *Rig) connect(ctx context.Context, m *Machine, number int) error {
	plug := "to-" + m.Name
	if err := runSteps(ctx, r.control, []string{
		"link add " + plug + " type veth peer name eth0 netns " + strconv.Itoa(m.PID),
		"link set " + plug + " master br0 up",
	}); err != nil {
		return err
	}
	steps := []string{"link set lo up", "link set eth0 up"}
	for i, address := range r.Plan.NodeAddresses(number) {
		steps = append(steps, "address add "+address+bits(address)+" dev eth0"+nodad(address),
			family(address)+" route add default via "+r.Plan.ControlPlaneAddresses()[i])
	}
	return runSteps(ctx, m, steps)
}

func family(address string) string {
	if strings.Contains(address, ":") {
		return "-6"
	}
	return "-4"
}

// installPlugins copies the reference plugins, as other plugins may replace or join them there.
func (r *Rig) installPlugins(m *Machine) error {
	for _, source := range r.Plugins {
		content, err := os.ReadFile(source)
		if err != nil {
			return fmt.Errorf("install CNI plugin: %w", err)
		}
		if err := os.WriteFile(filepath.Join(m.Dir, "disk/opt/cni/bin", filepath.Base(source)), content, 0o755); err != nil {
			return fmt.Errorf("install CNI plugin: %w", err)
		}
	}
	return nil
}

func (r *Rig) importImages(ctx context.Context, m *Machine, archive string) error {
	_, err := m.Run(ctx, r.Programs["ctr"], "--address", containerdSocket, "-n", "k8s.io", "images", "import", archive)
	return err
}

// containerdConfig never lowers a container's out-of-memory score below containerd's own, which not every root may.
func containerdConfig(pause string) string {
	return `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
address = "` + containerdSocket + `"

[plugins.'io.containerd.cri.v1.images']
snapshotter = "overlayfs"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "` + pause + `"

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false
`
}

// startKubelet starts a node's kubelet. Every node is a zone of its own, for the tests about topology.
func (r *Rig) startKubelet(number int) error {
	m := r.nodes[number-1]
	config := filepath.Join(m.Dir, "kubelet.yaml")
	if err := os.WriteFile(config, []byte(kubeletConfig(r.Plan.DNSAddress())), 0o644); err != nil {
		return fmt.Errorf("write kubelet's configuration: %w", err)
	}
	_, err := r.start(m, "kubelet", "env", "PATH="+r.searchPath(), r.Programs["kubelet"],
		"--config="+config, "--kubeconfig="+r.kubeconfig("system:node:"+m.Name), "--hostname-override="+m.Name,
		"--node-ip="+strings.Join(r.Plan.NodeAddresses(number), ","),
		"--node-labels=topology.kubernetes.io/zone=zone"+strconv.Itoa(number)+",topology.kubernetes.io/region=rig")
	return err
}

// kubeletConfig is for a kernel with control groups of version 1 as well as 2, and for tests that exec into pods.
func kubeletConfig(dns string) string {
	return `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://` + containerdSocket + `
authentication:
  anonymous: {enabled: true}
  webhook: {enabled: false}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
evictionHard: {memory.available: 10Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
clusterDomain: cluster.local
clusterDNS: ["` + dns + `"]
resolvConf: /etc/resolv.conf
maxPods: 200
`
}

// startProxy starts kube-proxy on a node.
func (r *Rig) startProxy(number int) error {
	m := r.nodes[number-1]
	config := filepath.Join(m.Dir, "kube-proxy.yaml")
	content := proxyConfig(r.kubeconfig("system:kube-proxy"), m.Name, strings.Join(r.Plan.ClusterCIDRs(), ","))
	if err := os.WriteFile(config, []byte(content), 0o644); err != nil {
		return fmt.Errorf("write kube-proxy's configuration: %w", err)
	}
	_, err := r.start(m, "kube-proxy", "kube-proxy", "--config="+config)
	return err
}

// proxyConfig leaves the size of the connection table alone: only this computer's own namespace may set it.
func proxyConfig(kubeconfig, node, cidrs string) string {
	return `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: ` + kubeconfig + `}
hostnameOverride: ` + node + `
clusterCIDR: "` + cidrs + `"
detectLocalMode: ClusterCIDR
conntrack: {maxPerCore: 0, min: 0}
nftables: {minSyncPeriod: 1s}
`
}
