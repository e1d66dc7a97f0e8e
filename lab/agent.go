package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// agent returns the node's agent as it runs now; errGone when none does.
func (n *Node) agent() (process, error) {
	var p process
	b, err := os.ReadFile(n.lab.folder.node(n.Name, "agent.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return p, errGone
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("read agent's process of %s: %w", n.Name, err)
	}
	if !p.alive() {
		return process{}, errGone
	}
	return p, nil
}

// AgentPID returns the process number of the node's agent, 0 while none runs.
func (n *Node) AgentPID() int {
	p, err := n.agent()
	if err != nil {
		return 0
	}
	return p.PID
}

// KillAgent kills the node's agent as kill -9 does, and returns at once; the node starts another 200 ms later.
// It is an error when none runs.
func (n *Node) KillAgent() error { return n.signalAgent(unix.SIGKILL) }

// StopAgent asks the agent to end, as an upgrade does, and returns at once; the node starts another when it has.
func (n *Node) StopAgent() error { return n.signalAgent(unix.SIGTERM) }

func (n *Node) signalAgent(sig unix.Signal) error {
	p, err := n.agent()
	if err == nil {
		err = p.signal(sig)
	}
	if err != nil {
		return fmt.Errorf("send signal to agent of %s: %w", n.Name, err)
	}
	return nil
}

// RestartAgent ends the node's agent and returns when the next one is ready.
func (n *Node) RestartAgent(ctx context.Context) error {
	old, err := n.agent()
	if err == nil {
		err = n.StopAgent()
	}
	if err != nil && !errors.Is(err, errGone) {
		return err
	}
	return n.waitNextAgent(ctx, old)
}

// UpgradeAgent makes a program the node's agent from now on, and returns when it is ready.
func (n *Node) UpgradeAgent(ctx context.Context, program string) error {
	if err := n.SetAgent(program); err != nil {
		return err
	}
	return n.RestartAgent(ctx)
}

// SetAgent makes a program the one that is started when the node's agent has ended the next time. The node takes a copy,
// and one of the polder-cni beside it; where there is none, of the lab's: an agent installs the one it finds at its
// side.
func (n *Node) SetAgent(program string) error {
	if info, err := os.Stat(program); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("%s is not a program", program)
	}
	plugin := filepath.Join(filepath.Dir(program), "polder-cni")
	if _, err := os.Stat(plugin); err != nil {
		plugin = filepath.Join(n.lab.record.Bin, "polder-cni")
	}
	bin := n.lab.folder.node(n.Name, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	agent := filepath.Join(bin, "polder-agent")
	if err := errors.Join(copyProgram(program, agent), copyProgram(plugin, filepath.Join(bin, "polder-cni"))); err != nil {
		return fmt.Errorf("copy program for %s: %w", n.Name, err)
	}
	return writeFile(n.lab.folder.node(n.Name, "agent.path"), []byte(agent+"\n"))
}

// copyProgram replaces a program that may be running.
func copyProgram(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	temporary, err := writeTemporary(to, b)
	if err != nil {
		return err
	}
	return errors.Join(os.Chmod(temporary, 0o755), os.Rename(temporary, to))
}

// waitNextAgent waits until an agent other than old runs and is ready.
func (n *Node) waitNextAgent(ctx context.Context, old process) error {
	for {
		if p, err := n.agent(); err == nil && p != old {
			return n.WaitReady(ctx)
		}
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("wait for next agent of %s: %w", n.Name, err)
		}
	}
}

// crashes is how often an agent may end while it is waited for.
const crashes = 5

// WaitReady waits until the node's CNI plugin says that ADD would succeed.
func (n *Node) WaitReady(ctx context.Context) error {
	agents := map[process]bool{}
	for {
		err := n.Status(ctx)
		if err == nil {
			return nil
		}
		if !n.holder.alive() {
			return fmt.Errorf("%s has died: %s", n.Name, n.lastLines("holder.log", 5))
		}
		if p, err := n.agent(); err == nil {
			agents[p] = true
		}
		stop := sleep(ctx, 50*time.Millisecond)
		if len(agents) > crashes {
			stop = fmt.Errorf("its agent ended %d times", crashes)
		}
		if stop != nil {
			return fmt.Errorf("%s is not ready: %w: %w\nlast lines of its agent's log, %s:\n%s",
				n.Name, stop, err, n.LogPath(), n.lastLines("agent.log", 15))
		}
	}
}

// LogPath is the file that has the agent's output.
func (n *Node) LogPath() string { return n.lab.folder.node(n.Name, "agent.log") }

// LastLog returns the last lines of the agent's output.
func (n *Node) LastLog(lines int) string { return n.lastLines("agent.log", lines) }

func (n *Node) lastLines(file string, count int) string {
	b, err := os.ReadFile(n.lab.folder.node(n.Name, file))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-count):], "\n")
}

// sleep waits for a while, or errors when ctx is done before.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
