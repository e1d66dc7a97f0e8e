package lab_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

func create(t testing.TB, c *lab.Cluster, o lab.PodOptions) *lab.Pod {
	t.Helper()
	p, err := c.CreatePod(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPodsComeAndGo(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 2})
	one := create(t, c, lab.PodOptions{Name: "one"})
	two := create(t, c, lab.PodOptions{Name: "two"})
	three := create(t, c, lab.PodOptions{Name: "three", Node: "node-1"})

	t.Run("they are spread over the nodes", func(t *testing.T) {
		if one.Node == two.Node || three.Node != "node-1" {
			t.Errorf("they are on %s, %s, %s", one.Node, two.Node, three.Node)
		}
	})
	t.Run("their addresses are of their nodes' pod CIDRs", func(t *testing.T) {
		for _, p := range []*lab.Pod{one, two, three} {
			n, err := c.Node(p.Node)
			if err != nil {
				t.Fatal(err)
			}
			for i, cidr := range n.Cluster().PodCIDRs {
				if len(p.Addresses) != 2 || !cidr.Contains(p.Addresses[i]) {
					t.Errorf("%s on %s has %v, want one of each of %v", p.Name, p.Node, p.Addresses, n.Cluster().PodCIDRs)
				}
			}
		}
	})
	t.Run("their manifests say so", func(t *testing.T) {
		text := readFile(filepath.Join(c.Manifests(), "pod-one.yaml"))
		for _, a := range one.Addresses {
			if !strings.Contains(text, "- ip: "+a.String()) {
				t.Errorf("no %s in\n%s", a, text)
			}
		}
	})
	t.Run("a name is taken once", func(t *testing.T) {
		for _, name := range []string{"one", "node-1", "fabric", "", "../x", "A", strings.Repeat("x", 64)} {
			if _, err := c.CreatePod(t.Context(), lab.PodOptions{Name: name}); err == nil {
				t.Errorf("a second %q was created", name)
			}
		}
	})
	t.Run("after deletion nothing of them remains", func(t *testing.T) {
		if err := c.DeletePod(t.Context(), "one"); err != nil {
			t.Fatal(err)
		}
		if one.PID() != 0 {
			t.Error("its process runs")
		}
		n, _ := c.Node(one.Node)
		for _, path := range []string{
			filepath.Join(c.Manifests(), "pod-one.yaml"), filepath.Join(c.State(), "pods/one.json"), n.Path("/run/netns/one"),
		} {
			if _, err := os.Stat(path); err == nil {
				t.Errorf("%s is there", path)
			}
		}
		if err := c.DeletePod(t.Context(), "one"); err == nil {
			t.Error("it was deleted twice")
		}
	})
	t.Run("its name is free again", func(t *testing.T) { create(t, c, lab.PodOptions{Name: "one"}) })
}

func TestAPodThatCannotBeConnectedLeavesNothing(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	conf := filepath.Join(c.Nodes()[0].Path("/etc/cni/net.d"), "00-broken.conflist")
	const broken = `{"cniVersion":"1.1.0","name":"broken","plugins":[{"type":"no-such-plugin"}]}`
	if err := os.WriteFile(conf, []byte(broken), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := c.CreatePod(t.Context(), lab.PodOptions{Name: "one"})
	if err == nil || !strings.Contains(err.Error(), "no-such-plugin") {
		t.Errorf("error is %v", err)
	}
	if err := os.Remove(conf); err != nil {
		t.Fatal(err)
	}
	// DEL failed as ADD did, so the pod is still on record; with the plugins back it can be deleted.
	if err := c.DeletePod(t.Context(), "one"); err != nil {
		t.Error(err)
	}
	if pods, err := c.Pods(); len(pods) != 0 || err != nil {
		t.Errorf("pods are %v, %v", pods, err)
	}
}

func TestCommandsRunInsideTheirPlace(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 2})
	pod := create(t, c, lab.PodOptions{Name: "web", Node: "node-2"})
	node, err := c.Node("node-2")
	if err != nil {
		t.Fatal(err)
	}
	output := func(p lab.Place, script string) string {
		t.Helper()
		out, err := p.Command(t.Context(), "sh", "-c", script).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := output(node.Place, "hostname"); got != "node-2" {
		t.Errorf("the node's host name is %q", got)
	}
	if got := output(pod.Place, "hostname"); got != "web" {
		t.Errorf("the pod's host name is %q", got)
	}
	if got := output(node.Place, "ls /sys/class/net"); !strings.Contains(got, "eth0") || !strings.Contains(got, "pdr") {
		t.Errorf("the node's links are %q", got)
	}
	if got := output(node.Place, "ls /run/netns"); got != "web" {
		t.Errorf("the node's named namespaces are %q", got)
	}
	if got := output(pod.Place, "cat /proc/net/fib_trie"); !strings.Contains(got, pod.Addresses[0].String()) {
		t.Error("the pod's address is not in its routing table")
	}
	if got := output(node.Place, "cat /proc/self/cgroup"); !strings.HasSuffix(got, "/node-2") {
		t.Errorf("a command in the node is in the control group %q", got)
	}
}

func TestExecPassesTheExitStatusOn(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	create(t, c, lab.PodOptions{Name: "web"})
	for _, place := range []string{"node-1", "web", "fabric"} {
		cmd := polder(t, "lab", "exec", "--state", c.State(), place, "--", "sh", "-c", "cat; exit 7")
		cmd.Stdin = strings.NewReader("hello")
		out, err := cmd.Output()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 7 || string(out) != "hello" {
			t.Errorf("%s: %v, output %q", place, err, out)
		}
	}
	if out, err := polder(t, "lab", "exec", "--state", c.State(), "nowhere", "true").CombinedOutput(); err == nil {
		t.Errorf("there is no place nowhere, but: %s", out)
	}
}

func TestAnAgentComesBack(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	n := c.Nodes()[0]
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen := []int{n.AgentPID()}
	next := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		pid := n.AgentPID()
		if pid == 0 || slices.Contains(seen, pid) {
			t.Errorf("%s: the agent is %d, before it was %v", what, pid, seen)
		}
		seen = append(seen, pid)
		if err := n.Status(ctx); err != nil {
			t.Errorf("%s: not ready: %v", what, err)
		}
	}
	next("restart", n.RestartAgent(ctx))
	if err := n.KillAgent(); err != nil {
		t.Fatal(err)
	}
	next("kill", n.RestartAgent(ctx))

	other := filepath.Join(t.TempDir(), "polder-agent")
	program, err := os.ReadFile(filepath.Join(c.Bin(), "polder-agent"))
	if err == nil {
		err = os.WriteFile(other, program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	next("upgrade", n.UpgradeAgent(ctx, other))
	next("upgrade again", n.UpgradeAgent(ctx, other))
	if exe, _ := os.Readlink(filepath.Join("/proc", strconv.Itoa(n.AgentPID()), "exe")); exe != filepath.Join(c.State(), "nodes/node-1/bin/polder-agent") {
		t.Errorf("after the upgrade %s runs", exe)
	}
	if err := n.UpgradeAgent(ctx, "/etc/passwd"); err == nil {
		t.Error("a file that is no program became the agent")
	}
}
