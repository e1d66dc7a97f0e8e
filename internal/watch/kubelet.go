package watch

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"
)

// hostRoot is the node's file system: that of its first process, which the agent sees since it has the node's process
// IDs. No file has to be mounted, which the runtime would make as an empty folder where it is not there.
const hostRoot = "/proc/1/root"

// kubeletFiles are where installers put the configuration by which a kubelet reaches the API server. The first counts.
func kubeletFiles() []string {
	return []string{
		"/etc/kubernetes/kubelet.conf",                          // kubeadm, and what is built on it
		"/var/lib/kubelet/kubeconfig",                           // EKS, AKS, GKE, kOps, OpenShift
		"/var/lib/rancher/k3s/agent/kubelet.kubeconfig",         // k3s
		"/var/lib/rancher/rke2/agent/kubelet.kubeconfig",        // RKE2
		"/var/lib/k0s/kubelet.conf",                             // k0s
		"/etc/kubernetes/kubeconfig-kubelet",                    // Talos
		"/var/snap/microk8s/current/credentials/kubelet.config", // MicroK8s
	}
}

// preferKubelet makes the API server's address the one that this node's kubelet uses, which works without any
// Service. It returns what the address was before, to be tried next. Credentials and whom to trust stay as they are;
// so it takes no address whose certificate they would not trust.
func preferKubelet(cfg *rest.Config, root string, log *slog.Logger) (others []string) {
	host, err := os.OpenRoot(root)
	if err != nil {
		log.Debug("the node's files cannot be read", "err", err)
		return nil
	}
	defer func() { _ = host.Close() }()
	for _, file := range kubeletFiles() {
		server, err := kubeletServer(host, file, cfg.CAFile)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			log.Info("the kubelet's address of the API server is not used", "file", file, "err", err)
			return nil
		}
		log.Info("the API server is reached as the kubelet does", "file", file, "server", server, "instead", cfg.Host)
		if before := address(cfg); before != "" {
			others = []string{before}
		}
		cfg.Host = server
		return others
	}
	return nil
}

// kubeletServer reads the API server's URL, and nothing else that it keeps, from a kubelet's configuration.
func kubeletServer(host *os.Root, file, trusted string) (string, error) {
	data, err := host.ReadFile(strings.TrimPrefix(file, "/"))
	if err != nil {
		return "", err
	}
	cfg, err := clientcmd.Load(data)
	if err != nil {
		return "", err
	}
	context := cfg.Contexts[cfg.CurrentContext]
	if context == nil || cfg.Clusters[context.Cluster] == nil {
		return "", errors.New("names no cluster")
	}
	to := cfg.Clusters[context.Cluster]
	if u, err := url.Parse(to.Server); err != nil || u.Scheme != "https" || u.Hostname() == "" {
		return "", fmt.Errorf("server %q is no https URL", to.Server)
	}
	authority := to.CertificateAuthorityData
	if len(authority) == 0 {
		from := to.CertificateAuthority
		if !path.IsAbs(from) {
			from = path.Join(path.Dir(file), from)
		}
		if authority, err = host.ReadFile(strings.TrimPrefix(from, "/")); err != nil {
			return "", fmt.Errorf("read certificate authority: %v", err) // %v: its not being there is a fault
		}
	}
	own, err := os.ReadFile(trusted)
	if err != nil {
		return "", fmt.Errorf("read certificate authority: %v", err)
	}
	if !shareAuthority(authority, own) {
		return "", errors.New("its certificate authority is none that the service account trusts")
	}
	return to.Server, nil
}

// shareAuthority says whether two PEM files have a certificate in common.
func shareAuthority(a, b []byte) bool {
	as, errA := cert.ParseCertsPEM(a)
	bs, errB := cert.ParseCertsPEM(b)
	return errA == nil && errB == nil &&
		slices.ContainsFunc(as, func(c *x509.Certificate) bool { return slices.ContainsFunc(bs, c.Equal) })
}
