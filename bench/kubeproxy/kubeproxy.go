// Package kubeproxy runs the real kube-proxy, in nftables mode, in a network namespace of its own, against an API server
// that is reached there. It is what Polder's service proxy is compared with.
package kubeproxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/polder-net/polder/bench/rig"
)

// Program is where the tests against a real Kubernetes build kube-proxy; an error says how.
func Program() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w", err)
	}
	found, _ := filepath.Glob(filepath.Join(cache, "polder-e2e", "bin", "kubernetes-*", "kube-proxy"))
	if len(found) == 0 {
		return "", errors.New("there is no kube-proxy: make e2e-smoke builds one")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return "", fmt.Errorf("kube-proxy needs nft: %w", err)
	}
	return found[len(found)-1], nil
}

// Proxy is a kube-proxy that runs.
type Proxy struct {
	cmd   *exec.Cmd
	end   rig.End
	log   bytes.Buffer
	ended chan struct{}
}

// metricsAddress is where it tells its metrics, in its namespace.
const metricsAddress = "127.0.0.1:10249"

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: bench, cluster: {server: %q}}]
contexts: [{name: bench, context: {cluster: bench}}]
current-context: bench
`

const config = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: %s
detectLocalMode: ClusterCIDR
clusterCIDR: 10.244.0.0/16
clientConnection: {kubeconfig: %q, contentType: application/json}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
metricsBindAddress: %q
`

// Kubeconfig writes the file that tells a client of an API server.
func Kubeconfig(file, url string) error {
	return os.WriteFile(file, fmt.Appendf(nil, kubeconfig, url), 0o600)
}

// Start starts the program for a node of that name. Its files go into a folder.
func Start(program string, end rig.End, node, url, folder string) (*Proxy, error) {
	client, file := filepath.Join(folder, "kube-proxy.kubeconfig"), filepath.Join(folder, "kube-proxy.yaml")
	if err := Kubeconfig(client, url); err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, fmt.Appendf(nil, config, node, client, metricsAddress), 0o600); err != nil {
		return nil, err
	}
	p := &Proxy{cmd: exec.Command(program, "--config", file), end: end, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// The thread that starts it must not end before it (prctl(2), PR_SET_PDEATHSIG).
	started := make(chan error)
	go func() {
		defer close(p.ended)
		_ = rig.In(end.NS, func() error {
			err := p.cmd.Start()
			started <- err
			if err == nil {
				err = p.cmd.Wait()
			}
			return err
		})
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start kube-proxy: %w", err)
	}
	return p, nil
}

// Stop ends it.
func (p *Proxy) Stop() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// PID is its process number.
func (p *Proxy) PID() int { return p.cmd.Process.Pid }

// WaitSynced returns when it has written all that it knows of IPv4 Services, and how long that took it, from its objects
// to the kernel's table.
func (p *Proxy) WaitSynced(ctx context.Context) (time.Duration, error) {
	for {
		took, err := p.synced(ctx)
		if err == nil && took > 0 {
			return took, nil
		}
		select {
		case <-ctx.Done():
			return 0, errors.Join(context.Cause(ctx), err)
		case <-p.ended:
			return 0, fmt.Errorf("kube-proxy has ended: %s", lastLines(p.log.String(), 5))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// synced reads the time of its syncs, 0 if there was none.
func (p *Proxy) synced(ctx context.Context) (took time.Duration, err error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: p.dial}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metricsAddress+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var seconds float64
		if _, err := fmt.Sscanf(lines.Text(), `kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family="IPv4"} %g`, &seconds); err == nil {
			took = time.Duration(seconds * float64(time.Second))
		}
	}
	return took, nil
}

func (p *Proxy) dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = rig.In(p.end.NS, func() error {
		c, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Services counts those that its table has.
func (p *Proxy) Services() (count int, err error) {
	err = rig.In(p.end.NS, func() error {
		out, err := exec.Command("nft", "list", "map", "ip", "kube-proxy", "service-ips").Output()
		count = strings.Count(string(out), "goto service-")
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("list kube-proxy's table: %w", err)
	}
	return count, nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
