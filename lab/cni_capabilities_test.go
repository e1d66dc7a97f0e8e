package lab_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
)

// withReferences has the agent chain the reference plugins behind Polder's, as on a node that has them.
func (m *mesh) withReferences(t *testing.T, n *runtimeNode) {
	t.Helper()
	for _, name := range []string{"portmap", "bandwidth"} {
		body, err := os.ReadFile(filepath.Join(references(t), name))
		if err == nil {
			err = os.WriteFile(filepath.Join(n.Path(cniBin), name), body, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	n.sync(m.Cluster)
	eventually(t, time.Minute, "the plugins are chained", func() error {
		body, err := os.ReadFile(filepath.Join(n.Path(cniNet), cniConf))
		if err == nil && !(strings.Contains(string(body), "portmap") && strings.Contains(string(body), "bandwidth")) {
			err = fmt.Errorf("the configuration is %s", body)
		}
		return err
	})
}

// Portmap itself needs a program of the node's for it: nft, or iptables.
func TestHostPortsLeadToTheirPodFromEverywhere(t *testing.T) {
	_, noNft := exec.LookPath("nft")
	_, noIptables := exec.LookPath("iptables")
	if noNft != nil && noIptables != nil {
		t.Skip("portmap needs nft or iptables")
	}
	m := newMesh(t)
	m.withReferences(t, m.near)
	mapping := func(protocol string) any {
		return map[string]any{"hostPort": 30080, "containerPort": 8080, "protocol": protocol}
	}
	pod := create(t, m.Cluster, lab.PodOptions{Name: "web", Node: m.near.Name,
		Capabilities: map[string]any{"portMappings": []any{mapping("tcp"), mapping("udp")}}})
	seer(t, pod.Do, pod.Addresses, 8080)
	near := m.near.Cluster().Addresses
	reach := func() (failed []error) {
		for what, from := range map[string]place{"the other node": m.far.Do, "a pod of the other node": m.farPod.Do,
			"a pod beside it": m.nearPod.Do, "its node": m.near.Do, "the pod itself": pod.Do} {
			for _, a := range near {
				for _, network := range []string{"tcp", "udp"} {
					if seen, err := seenAs(from, network, a, 30080); err != nil {
						failed = append(failed, fmt.Errorf("%s from %s to %s: %w", network, what, a, err))
					} else if what == "a pod of the other node" && !strings.Contains(fmt.Sprint(m.farPod.Addresses), seen) {
						failed = append(failed, fmt.Errorf("%s from %s to %s: seen as %s", network, what, a, seen))
					}
				}
			}
		}
		return failed
	}
	if failed := reach(); len(failed) > 0 {
		t.Errorf("host port:\n%v", errors.Join(failed...))
	}
	for what, from := range map[string]place{"the other node": m.far.Do, "a pod beside it": m.nearPod.Do} {
		for _, network := range []string{"tcp", "udp"} { // its own port still works beside the mapped one
			if _, err := seenAs(from, network, pod.Addresses[0], 8080); err != nil {
				t.Errorf("%s from %s to the pod's own port: %v", network, what, err)
			}
		}
	}
	if err := m.DeletePod(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if seen, err := seenOnce(m.far.Do, "tcp", near[0], 30080); err == nil {
		t.Errorf("the pod is gone, and its host port leads to %s", seen)
	}
}

// rate sends so many bytes from one place to an address at another, and returns what arrived a second, in bits.
func rate(from, to place, addr netip.Addr, bytes int64) (float64, error) {
	var l net.Listener
	err := to(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	sent := make(chan error, 1)
	go func() {
		var conn net.Conn
		err := from(func() (err error) {
			conn, err = net.DialTimeout("tcp", l.Addr().String(), 20*time.Second)
			return err
		})
		if err == nil {
			_, err = io.CopyN(conn, zeros{}, bytes)
			err = errors.Join(err, conn.Close())
		}
		if err != nil {
			l.Close()
		}
		sent <- err
	}()
	conn, err := l.Accept()
	if err != nil {
		return 0, errors.Join(err, <-sent)
	}
	defer conn.Close()
	began := time.Now()
	conn.SetReadDeadline(began.Add(2 * time.Minute))
	got, err := io.Copy(io.Discard, conn)
	took := time.Since(began).Seconds()
	if err = errors.Join(err, <-sent); err == nil && got != bytes {
		err = fmt.Errorf("%d of %d bytes arrived", got, bytes)
	}
	return float64(bytes*8) / took, err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestALimitedBandwidthHoldsInBothDirectionsAndForNobodyElse(t *testing.T) {
	m := newMesh(t)
	m.withReferences(t, m.near)
	const limit, burst, volume = 16_000_000, 1_000_000, 2_000_000 // bits a second, bits, bytes
	shaped := create(t, m.Cluster, lab.PodOptions{Name: "shaped", Node: m.near.Name, Capabilities: map[string]any{
		"bandwidth": map[string]any{"ingressRate": limit, "ingressBurst": burst, "egressRate": limit, "egressBurst": burst}}})
	for i := range 2 {
		for what, other := range map[string]*lab.Pod{"on its node": m.nearPod, "of the other node": m.farPod} {
			for way, do := range map[string]func() (float64, error){
				"to a pod ":   func() (float64, error) { return rate(shaped.Do, other.Do, other.Addresses[i], volume) },
				"from a pod ": func() (float64, error) { return rate(other.Do, shaped.Do, shaped.Addresses[i], volume) },
			} {
				bits, err := do()
				if err != nil || bits > 2*limit || bits < limit/20 { // a busy machine may make it slower, never faster
					t.Errorf("%s%s: %.1f Mbit/s with a limit of %d: %v", way, what, bits/1e6, limit/1_000_000, err)
				}
				t.Logf("%s%s, %s: %.1f Mbit/s", way, what, shaped.Addresses[i], bits/1e6)
			}
		}
	}
	for what, from := range map[string]*lab.Pod{"near to far": m.nearPod, "far to near": m.farPod} {
		to := m.farPod
		if from == to {
			to = m.nearPod
		}
		bits, err := rate(from.Do, to.Do, to.Addresses[0], 40*volume)
		if err != nil || bits < 4*limit {
			t.Errorf("pods without a limit, %s: %.1f Mbit/s: %v", what, bits/1e6, err)
		}
		t.Logf("pods without a limit, %s: %.1f Mbit/s", what, bits/1e6)
	}
	if err := m.DeletePod(t.Context(), "shaped"); err != nil {
		t.Fatal(err)
	}
}
