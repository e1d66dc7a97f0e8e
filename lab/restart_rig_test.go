package lab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// world is a lab with every kind of path: node-1 and node-3 are neighbours, node-2 is behind the tunnel.
type world struct {
	*lab.Cluster
	near, far, neighbour *lab.Node // node-1, node-2, node-3
	one, two             *lab.Pod  // on node-1
	tunnelled            *lab.Pod  // on node-2
	native               *lab.Pod  // on node-3
}

func newWorld(t *testing.T, args ...string) *world {
	t.Helper()
	return worldOf(t, lab.Options{AgentArgs: args})
}

// worldOf makes it in a lab whose agents are as the options say.
func worldOf(t *testing.T, o lab.Options) *world {
	t.Helper()
	o.Nodes, o.Racks, o.Deadline = 3, 2, 2*time.Minute
	c := labtest.Up(t, &programs, o)
	nodes := c.Nodes()
	w := &world{Cluster: c, near: nodes[0], far: nodes[1], neighbour: nodes[2]}
	w.one = create(t, c, lab.PodOptions{Name: "one", Node: w.near.Name})
	w.two = create(t, c, lab.PodOptions{Name: "two", Node: w.near.Name})
	w.tunnelled = create(t, c, lab.PodOptions{Name: "tunnelled", Node: w.far.Name})
	w.native = create(t, c, lab.PodOptions{Name: "native", Node: w.neighbour.Name})
	return w
}

// pods are those that newWorld made.
func (w *world) pods() []*lab.Pod { return []*lab.Pod{w.one, w.two, w.tunnelled, w.native} }

// paths are all kinds of paths, in both families.
func (w *world) paths() []traffic.Path {
	var paths []traffic.Path
	for i, family := range []string{"IPv4", "IPv6"} {
		pod := func(p *lab.Pod) traffic.End { return traffic.End{Place: p.Place, Addr: p.Addresses[i]} }
		node := func(n *lab.Node) traffic.End { return traffic.End{Place: n.Place, Addr: n.Cluster().Addresses[i]} }
		add := func(name string, from, to traffic.End) {
			paths = append(paths, traffic.Path{Name: name + " " + family, From: from, To: to})
		}
		add("same node", pod(w.one), pod(w.two))
		add("native", pod(w.one), pod(w.native))
		add("tunnel", pod(w.one), pod(w.tunnelled))
		add("pod to its node", pod(w.one), node(w.near))
		add("pod to neighbour", pod(w.one), node(w.neighbour))
		add("pod to far node", pod(w.one), node(w.far))
		add("node to its pod", node(w.near), pod(w.two))
		add("node to far pod", node(w.near), pod(w.tunnelled))
	}
	return paths
}

// reportOf asks a node's agent; while none answers, it waits for the next.
func reportOf(t testing.TB, n *lab.Node) api.NodeReport {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		r, err := askReport(ctx, n)
		if err == nil {
			return r
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: no report: %v\n%s", n.Name, err, n.LastLog(20))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func askReport(ctx context.Context, n *lab.Node) (r api.NodeReport, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	resp, err := api.Call(ctx, filepath.Join(n.Path(filepath.Dir(api.Socket)), filepath.Base(api.Socket)),
		api.Request{Verb: api.Report}, nil)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(resp.Report, &r)
}

// eventually waits until a condition holds, and says what was missing when it never does. How long that takes is not
// what it asserts, unless limit is a promise.
func eventually(t testing.TB, limit time.Duration, what string, holds func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if err = holds(); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after %s: %v", what, limit, err)
		}
	}
}

// settled waits until every agent serves, sees no problem but missing reference plugins and, while it does not read
// that, the ServiceCIDR, and has as many pods as the
// lab. It then wants the second sync to have changed nothing.
func (w *world) settled(t testing.TB) {
	t.Helper()
	for _, n := range w.Nodes() {
		eventually(t, time.Minute, n.Name+" settles", func() error { return w.asShouldBe(t, n) })
	}
}

func (w *world) asShouldBe(t testing.TB, n *lab.Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := askReport(ctx, n)
	if err != nil {
		return err
	}
	if !r.Ready {
		return fmt.Errorf("agent is not ready")
	}
	for _, p := range r.Problems {
		if !strings.Contains(p.Message, "reference CNI plugins") && !strings.HasPrefix(p.Object, "ServiceCIDR/") {
			return fmt.Errorf("problem with %s: %s", p.Object, p.Message)
		}
	}
	pods, err := w.podAddresses(n)
	if err != nil {
		return err
	}
	if len(r.Pods) != len(pods)/2 {
		return fmt.Errorf("the agent has %d pods, the lab %d", len(r.Pods), len(pods)/2)
	}
	return nil
}

// podAddresses are the addresses of the lab's pods on a node.
func (w *world) podAddresses(n *lab.Node) ([]netip.Addr, error) {
	pods, err := w.Pods()
	var addrs []netip.Addr
	for _, p := range pods {
		if p.Node == n.Name {
			addrs = append(addrs, p.Addresses...)
		}
	}
	return addrs, err
}

// build is an agent that was built, and the version that it says.
type build struct{ program, version string }

// otherAgents builds agents that can take the place of the lab's: a newer one, and one whose maps have another
// layout. Its maps are made twice as big by a source file that takes the place of the generated one (go help build,
// -overlay): the same programs and loader, other pins.
func otherAgents(t *testing.T) []build {
	t.Helper()
	root := moduleRoot(t)
	generated := filepath.Join(root, "internal/datapath/bpf_bpfel.go")
	const before, after = "\treturn spec, err\n",
		"\tfor _, name := range []string{\"endpoints\", \"rules\", \"remotes\", \"configuration\", \"frontends\", \"backends\", \"members\"} {\n" +
			"\t\tspec.Maps[name].MaxEntries *= 2\n\t}\n\treturn spec, err\n"
	source := readFile(generated)
	if strings.Count(source, before) != 1 {
		t.Fatalf("%s is not as this test expects it: want one %q", generated, before)
	}
	dir := t.TempDir()
	replaced, overlay := filepath.Join(dir, "bpf_bpfel.go"), filepath.Join(dir, "overlay.json")
	write(t, replaced, strings.Replace(source, before, after, 1))
	text, err := json.Marshal(map[string]any{"Replace": map[string]string{generated: replaced}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, overlay, string(text))
	return []build{
		{buildAgent(t, root, "newer"), "newer"},
		{buildAgent(t, root, "other-layout", "-overlay="+overlay), "other-layout"},
	}
}

func buildAgent(t *testing.T, root, version string, flags ...string) string {
	t.Helper()
	folder := t.TempDir()
	agent := filepath.Join(folder, "polder-agent")
	args := append([]string{"build", "-o", agent, "-ldflags=-X main.version=" + version}, flags...)
	cmd := exec.Command("go", append(args, "./cmd/polder-agent")...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build agent %s: %v\n%s", version, err, out)
	}
	if err := os.Link(filepath.Join(programs.Folder(t), "polder-cni"), filepath.Join(folder, "polder-cni")); err != nil {
		t.Fatal(err)
	}
	return agent
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
