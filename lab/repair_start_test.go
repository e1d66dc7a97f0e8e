package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
)

func TestAnAgentWhoseSourceSaysNothingDeletesNothing(t *testing.T) {
	w := newWorld(t)
	before := w.fresh(t)
	run, err := traffic.Start(w.paths(), traffic.Control(t), traffic.Load{Flows: 1, Every: 20 * time.Millisecond, Connects: 2, Datagrams: 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { run.Stop() })
	original := filepath.Join(w.Bin(), "polder-agent")
	empty := t.TempDir()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	write(t, kubeconfig, deadAPI)

	for _, c := range []struct{ name, source string }{
		{"an API server that is down", "--kubeconfig " + kubeconfig},
		{"a folder of manifests that is not there", "--manifests /nowhere"},
		{"a folder of manifests that is empty", "--manifests " + empty},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := w.near.SetAgent(withSource(t, original, c.source)); err != nil {
				t.Fatal(err)
			}
			old := w.near.AgentPID()
			if err := w.near.KillAgent(); err != nil && old != 0 {
				t.Fatal(err)
			}
			eventually(t, time.Minute, "the agent starts", func() error {
				if pid := w.near.AgentPID(); pid == 0 || pid == old {
					return errors.New("the old one runs, or none")
				}
				return nil
			})
			time.Sleep(2 * time.Second) // whatever it is going to do, it does at once
			now, err := w.stateOf(w.near)
			if err == nil {
				err = before[w.near.Name].differs(now)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("and the next that hears something repairs nothing", func(t *testing.T) {
		if err := w.near.UpgradeAgent(t.Context(), original); err != nil {
			t.Fatal(err)
		}
		w.asBefore(t, before)
		if r := reportOf(t, w.near).Repairs; len(r) > 0 {
			t.Errorf("repairs: %v", r)
		}
	})
	report, err := run.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	for _, lost := range report.Lost() {
		t.Error(lost)
	}
}

// deadAPI leads to an address that nobody has (RFC 5737).
const deadAPI = `apiVersion: v1
kind: Config
clusters: [{name: dead, cluster: {server: "https://192.0.2.1:6443"}}]
users: [{name: nobody, user: {}}]
contexts: [{name: dead, context: {cluster: dead, user: nobody}}]
current-context: dead
`

// withSource is a program that runs the agent with another source than the lab gives it.
func withSource(t *testing.T, agent, source string) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "polder-agent")
	// The lab's arguments are --manifests FOLDER --node NAME and more.
	text := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = --manifests ] || exit 3\nshift 2\nexec %s %s \"$@\"\n", agent, source)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

func TestTheAgentRefusesToStartWhereItCannotWork(t *testing.T) {
	w := newWorld(t)
	agent := filepath.Join(w.Bin(), "polder-agent")
	for _, c := range []struct{ name, before, says string }{
		{"the bpf file system is not mounted", "while umount /sys/fs/bpf 2>/dev/null; do :; done", "mount -t bpf bpf /sys/fs/bpf"},
		{"a plain folder is in its place", "mount -t tmpfs tmpfs /sys/fs/bpf", "mount -t bpf bpf /sys/fs/bpf"},
		{"there is no such folder", "mount -t tmpfs tmpfs /sys/fs", "mount -t bpf bpf /sys/fs/bpf"},
		{"the kernel has no BTF", "mount -t tmpfs tmpfs /sys/kernel", "CONFIG_DEBUG_INFO_BTF"},
		{"another agent runs on the node", ":", "another agent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := w.fresh(t)[w.near.Name]
			script := c.before + "; exec " + agent + " --manifests " + w.Manifests() + " --node node-1 --cni-bin= --listen= --log-level=error"
			out, err := inOwnMounts(t, w.near, script)
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() < 1 {
				t.Errorf("it ended with %v", err)
			}
			if strings.Count(out, "\n") != 1 || !strings.Contains(out, c.says) {
				t.Errorf("it said %q, want one line with %q", out, c.says)
			}
			w.nodeAsBefore(t, w.near, before, time.Second)
		})
	}
}

// inOwnMounts runs a script in a node, in a mount namespace that ends with it, and returns what it says.
func inOwnMounts(t *testing.T, n *lab.Node, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := n.Command(ctx, "sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}
