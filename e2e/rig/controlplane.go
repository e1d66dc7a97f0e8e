package rig

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// startUnderlay makes the bridge that joins all machines. The control plane routes between it and nothing, so that a
// packet for the rest of the world is answered with "unreachable" at once.
func (r *Rig) startUnderlay(ctx context.Context) error {
	steps := []string{"link set lo up", "link add br0 type bridge", "link set br0 up"}
	for _, address := range r.Plan.ControlPlaneAddresses() {
		steps = append(steps, "address add "+address+bits(address)+" dev br0"+nodad(address))
	}
	if err := runSteps(ctx, r.control, steps); err != nil {
		return err
	}
	// Bridged packets are no business of the bridge's own firewall. Kernels without the module lack the setting.
	_, err := r.control.Run(ctx, "sh", "-c", "cd /proc/sys/net/bridge 2>/dev/null || exit 0; for f in bridge-nf-call-*; do echo 0 > $f; done")
	return err
}

func runSteps(ctx context.Context, m *Machine, steps []string) error {
	for _, step := range steps {
		if err := m.ip(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// nodad skips duplicate address detection, which would delay an IPv6 address by a second or two.
func nodad(address string) string {
	if strings.Contains(address, ":") {
		return " nodad"
	}
	return ""
}

// startAPIServer starts etcd and the API server and waits until it is ready.
func (r *Rig) startAPIServer(ctx context.Context) error {
	etcd, err := r.start(r.control, "etcd", "etcd", "--data-dir=/var/lib/etcd", "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--quota-backend-bytes=4294967296")
	if err != nil {
		return err
	}
	api, err := r.start(r.control, "kube-apiserver", r.apiServerArguments()...)
	if err != nil {
		return err
	}
	return api.Ready(ctx, 2*time.Minute, func() error {
		select {
		case <-etcd.exited:
			return permanent{fmt.Errorf("etcd ended: %s", r.control.lastLines("etcd"))}
		default:
		}
		_, err := r.Kubectl(ctx, nil, "get", "--raw", "/readyz")
		return err
	})
}

func (r *Rig) apiServerArguments() []string {
	address := r.Plan.ControlPlaneAddresses()[0]
	return []string{"kube-apiserver",
		"--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + address, "--bind-address=" + address, "--secure-port=" + strconv.Itoa(apiPort),
		"--tls-cert-file=" + r.credentials.certificate(), "--tls-private-key-file=" + r.credentials.key(),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + r.credentials.key(), "--service-account-signing-key-file=" + r.credentials.key(),
		"--token-auth-file=" + r.credentials.tokenFile(),
		"--authorization-mode=Node,RBAC", "--allow-privileged",
		"--service-cluster-ip-range=" + strings.Join(r.Plan.ServiceCIDRs(), ","),
		"--kubelet-preferred-address-types=InternalIP",
		"--profiling=false",
	}
}

// startControllers starts the controller manager and the scheduler; nothing waits for them.
func (r *Rig) startControllers() error {
	manager := []string{"kube-controller-manager",
		"--kubeconfig=" + r.kubeconfig("system:kube-controller-manager"), "--leader-elect=false", "--use-service-account-credentials",
		"--service-account-private-key-file=" + r.credentials.key(), "--root-ca-file=" + r.credentials.certificate(),
		"--allocate-node-cidrs", "--configure-cloud-routes=false",
		"--cluster-cidr=" + strings.Join(r.Plan.ClusterCIDRs(), ","),
		"--service-cluster-ip-range=" + strings.Join(r.Plan.ServiceCIDRs(), ","),
	}
	if r.Plan.Family == "dual" {
		manager = append(manager, "--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64")
	}
	if _, err := r.start(r.control, "kube-controller-manager", manager...); err != nil {
		return err
	}
	_, err := r.start(r.control, "kube-scheduler", "kube-scheduler", "--kubeconfig="+r.kubeconfig("system:kube-scheduler"), "--leader-elect=false")
	return err
}
