package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
)

// withReferences installs the reference plugins on a node, and waits until its agent has chained those that it needs.
func (m *mesh) withReferences(t *testing.T, n *runtimeNode, chained ...string) {
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
		var types []string
		for _, p := range n.installed().Plugins[1:] {
			types = append(types, p.Network.Type)
		}
		if !slices.Equal(types, chained) {
			return fmt.Errorf("%v are", types)
		}
		return nil
	})
}

// client is who asks, and by which addresses it should be seen, IPv4 and IPv6.
type hostPortClient struct {
	ask func(network string, to netip.Addr, port int) (seen string, err error)
	own []netip.Addr
}

// packets are a client whose socket is out of the agent's reach, as that of a pod in a virtual machine.
func packets(from place, own []netip.Addr) hostPortClient {
	return hostPortClient{func(network string, to netip.Addr, port int) (string, error) { return seenAs(from, network, to, port) }, own}
}

// process is a client in the control group of a place.
func process(from lab.Place, own []netip.Addr) hostPortClient {
	read := map[string]string{"tcp": "cat <&3", "udp": "printf who? >&3 && dd bs=100 count=1 <&3 2>/dev/null"}
	return hostPortClient{func(network string, to netip.Addr, port int) (seen string, err error) {
		script := fmt.Sprintf("exec 3<>/dev/%s/%s/%d && %s", network, to, port, read[network])
		for range 5 { // a datagram may get lost
			ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
			out, failed := from.Command(ctx, "bash", "-c", script).Output()
			cancel()
			if seen, err = string(out), failed; err == nil || network == "tcp" {
				break
			}
		}
		return seen, err
	}, own}
}

func (c hostPortClient) sees(t *testing.T, what string, to []netip.Addr, port int) {
	t.Helper()
	for i, a := range to {
		for _, network := range []string{"tcp", "udp"} {
			if seen, err := c.ask(network, a, port); err != nil || seen != c.own[i].String() {
				t.Errorf("%s, %s to %s: seen as %q, not %s: %v", what, network, a, seen, c.own[i], err)
			}
		}
	}
}

func (c hostPortClient) isRefused(t *testing.T, what string, to netip.Addr, port int) {
	t.Helper()
	if seen, err := c.ask("tcp", to, port); err == nil {
		t.Errorf("%s to port %d of %s: somebody answered, who saw %s", what, port, to, seen)
	}
}

// strangers are all who may ask but the node and the pod that are asked.
func (m *mesh) strangers(t *testing.T) map[string]hostPortClient {
	t.Helper()
	outside := newOutsider(t, m.Cluster)
	return map[string]hostPortClient{
		"outside":                              packets(outside.Do, outside.addresses),
		"the other node":                       packets(m.far.Do, m.far.Cluster().Addresses),
		"a process of the other node":          process(m.far.Place, m.far.Cluster().Addresses),
		"a pod beside it":                      packets(m.nearPod.Do, m.nearPod.Addresses),
		"a process of a pod beside it":         process(m.nearPod.Place, m.nearPod.Addresses),
		"a pod of the other node":              packets(m.farPod.Do, m.farPod.Addresses),
		"a process of a pod of the other node": process(m.farPod.Place, m.farPod.Addresses),
	}
}

func mapping(hostIP string, hostPort int, protocol string) any {
	return map[string]any{"hostIP": hostIP, "hostPort": hostPort, "containerPort": 8080, "protocol": protocol}
}

func TestHostPortsLeadToTheirPodFromEverywhere(t *testing.T) {
	m := newMesh(t)
	m.withReferences(t, m.near, "bandwidth") // portmap is there, and nobody needs it
	pod := create(t, m.Cluster, lab.PodOptions{Name: "web", Node: m.near.Name, Capabilities: map[string]any{"portMappings": []any{
		mapping("", 30080, "tcp"), mapping("", 30080, "udp"), mapping("127.0.0.1", 30081, "tcp"), mapping("127.0.0.1", 30081, "udp")}}})
	seer(t, pod.Do, pod.Addresses, 8080)
	near, strangers := m.near.Cluster().Addresses, m.strangers(t)
	node, own := process(m.near.Place, near), process(pod.Place, pod.Addresses)
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	look := func(when string) {
		t.Helper()
		for what, c := range strangers {
			c.sees(t, when+" from "+what, near, 30080)
			for _, a := range append(loopback, near...) {
				c.isRefused(t, when+" from "+what, a, 30081)
			}
		}
		packets(pod.Do, near).sees(t, when+" from the pod itself", near, 30080) // which would answer itself, else
		own.sees(t, when+" from a process of the pod itself", near, 30080)
		node.sees(t, when+" from its node", near, 30080)
		node.sees(t, when+" by the node's loopback", loopback, 30080)
		node.sees(t, when+" by the node's loopback alone", loopback[:1], 30081)
		for _, a := range append(near, loopback[1]) {
			node.isRefused(t, when+" from its node", a, 30081)
		}
		own.isRefused(t, when+" from a process of the pod itself", loopback[0], 30081)
		strangers["a pod beside it"].sees(t, when+" past the node, from a pod beside it", pod.Addresses, 8080)
	}
	look("after ADD")
	if err := m.near.RestartAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	look("after a restart")
}

func TestAHostPortIsOnePodsAndEndsWithIt(t *testing.T) {
	m := newMesh(t)
	web := func(name string) lab.PodOptions {
		return lab.PodOptions{Name: name, Node: m.near.Name, Capabilities: map[string]any{"portMappings": []any{
			mapping("", 30080, "TCP"), mapping("", 30080, "UDP")}}}
	}
	first := create(t, m.Cluster, web("first"))
	seer(t, first.Do, first.Addresses, 8080)
	if _, err := m.CreatePod(t.Context(), web("second")); err == nil || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("a second pod with the port: %v", err)
	}
	near, clients := m.near.Cluster().Addresses, m.strangers(t)
	clients["its node"] = process(m.near.Place, near)
	for what, c := range clients {
		c.sees(t, "from "+what, near, 30080)
	}
	if err := m.DeletePod(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	for what, c := range clients {
		for _, a := range near {
			c.isRefused(t, "after DEL from "+what, a, 30080)
		}
	}
	heir := create(t, m.Cluster, web("second"))
	seer(t, heir.Do, heir.Addresses, 8080)
	for what, c := range clients {
		c.sees(t, "to the next pod, from "+what, near, 30080)
	}
}

// Portmap itself needs a program of the node's for it: nft, or iptables.
func TestPortmapLeadsHostPortsToTheirPodWhereServicesAreOff(t *testing.T) {
	_, noNft := exec.LookPath("nft")
	_, noIptables := exec.LookPath("iptables")
	if noNft != nil && noIptables != nil {
		t.Skip("portmap needs nft or iptables")
	}
	m := newMesh(t, "--services", "off")
	m.withReferences(t, m.near, "portmap", "bandwidth")
	pod := create(t, m.Cluster, lab.PodOptions{Name: "web", Node: m.near.Name,
		Capabilities: map[string]any{"portMappings": []any{mapping("", 30080, "tcp"), mapping("", 30080, "udp")}}})
	seer(t, pod.Do, pod.Addresses, 8080)
	near, strangers := m.near.Cluster().Addresses, m.strangers(t)
	for what, c := range strangers {
		c.sees(t, "from "+what, near, 30080)
	}
	for what, c := range map[string]hostPortClient{"its node": packets(m.near.Do, near), "the pod itself": packets(pod.Do, pod.Addresses)} {
		for _, a := range near { // portmap masquerades these
			for _, network := range []string{"tcp", "udp"} {
				if _, err := c.ask(network, a, 30080); err != nil {
					t.Errorf("%s from %s to %s: %v", network, what, a, err)
				}
			}
		}
	}
	for _, what := range []string{"the other node", "a pod beside it"} { // its own port still works beside the mapped one
		strangers[what].sees(t, "past the node, from "+what, pod.Addresses, 8080)
	}
	if err := m.DeletePod(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	strangers["the other node"].isRefused(t, "after DEL", near[0], 30080)
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
	m.withReferences(t, m.near, "bandwidth")
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
