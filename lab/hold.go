package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// restartDelay is how long a node waits before it starts an agent again that has ended.
const restartDelay = 200 * time.Millisecond

// stopTimeout is how long an agent may take to end after SIGTERM.
const stopTimeout = 5 * time.Second

// Hold is the life of a node's first process, which starts in the node's new namespaces and control group: it mounts
// what the node sees, then keeps an agent running until ctx is done.
func Hold(ctx context.Context, state, node string) error {
	f := folder(state)
	r, err := f.load()
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(node)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := mountNode(f, node, r.nodeGroup(node)); err != nil {
		return err
	}
	log, err := os.OpenFile(f.node(node, "agent.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open agent's log: %w", err)
	}
	defer log.Close()
	for ctx.Err() == nil {
		if err := runAgent(ctx, f, r, node, log); err != nil {
			fmt.Fprintf(log, "%s lab: agent ended: %v\n", time.Now().Format(time.RFC3339Nano), err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(restartDelay):
		}
	}
	return nil
}

// HoldStill is the life of a process that only keeps its namespaces: it does nothing, until ctx is done.
func HoldStill(ctx context.Context) { <-ctx.Done() }

// runAgent runs the agent once. When ctx is done it gets SIGTERM and, if that does not end it, SIGKILL.
func runAgent(ctx context.Context, f folder, r record, node string, log *os.File) error {
	binary, err := f.agentBinary(node)
	if err != nil {
		return err
	}
	args := append([]string{"--manifests", f.manifests(), "--node", node, "--cni-bin", "/opt/cni/bin"}, r.AgentArgs...)
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), r.AgentEnv...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		return err
	}
	agent, err := identify(cmd.Process.Pid)
	if err == nil {
		err = writeJSON(f.node(node, "agent.json"), agent)
	}
	if err != nil && !errors.Is(err, errGone) {
		fmt.Fprintf(log, "lab: record agent's process: %v\n", err)
	}
	return cmd.Wait()
}

// agentBinary returns the program that a node runs as its agent.
func (f folder) agentBinary(node string) (string, error) {
	b, err := os.ReadFile(f.node(node, "agent.path"))
	if err != nil {
		return "", fmt.Errorf("find agent's program: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
