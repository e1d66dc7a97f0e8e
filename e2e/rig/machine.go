package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is a computer of the rig: a set of namespaces, kept by its first process, and a control group in every tree.
type Machine struct {
	Name   string
	Dir    string   // its disk
	PID    int      // its first process, as this machine numbers it
	groups []string // folders of its control groups
}

// startMachine creates a machine. init is the command line that becomes its first process and calls Init.
func startMachine(ctx context.Context, state, name string, init []string) (*Machine, error) {
	m := &Machine{Name: name, Dir: filepath.Join(state, name)}
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("create machine %s: %w", name, err)
	}
	groups, err := makeCgroups(name)
	if err != nil {
		return nil, fmt.Errorf("create machine %s: %w", name, err)
	}
	m.groups = groups
	unshare := []string{"unshare", "--mount", "--uts", "--net", "--ipc", "--pid", "--cgroup", "--fork"}
	exited, err := m.spawn("init", m.join(append(unshare, append(init, name, m.Dir)...)))
	if err != nil {
		return nil, fmt.Errorf("create machine %s: %w", name, err)
	}
	err = wait(ctx, 30*time.Second, "machine "+name, func() error {
		select {
		case <-exited:
			return permanent{fmt.Errorf("first process ended: %s", m.lastLines("init"))}
		default:
		}
		m.PID, err = readPID(m.Dir)
		return err
	})
	if err != nil {
		return nil, err
	}
	m.groups, err = leaveRoot(m.groups)
	return m, err
}

// openMachine finds a machine that an earlier command started.
func openMachine(state, name string) (*Machine, error) {
	m := &Machine{Name: name, Dir: filepath.Join(state, name)}
	pid, err := readPID(m.Dir)
	if err != nil {
		return nil, fmt.Errorf("find machine %s: %w", name, err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		return nil, fmt.Errorf("find machine %s: process %d: %w", name, pid, err)
	}
	m.PID = pid
	if m.groups, err = makeCgroups(name); err == nil {
		m.groups, err = leaveRoot(m.groups)
	}
	return m, err
}

func readPID(dir string) (int, error) {
	content, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(content)))
}

// join wraps a command line so that it runs in the machine's control groups.
func (m *Machine) join(argv []string) []string {
	const script = `while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"`
	wrapped := append([]string{"sh", "-c", script, "join"}, m.groups...)
	return append(append(wrapped, "--"), argv...)
}

// enter wraps a command line so that it runs in the machine: its groups and all its namespaces.
func (m *Machine) enter(argv []string) []string {
	nsenter := []string{"nsenter", "--target", strconv.Itoa(m.PID), "--mount", "--uts", "--net", "--ipc", "--pid", "--cgroup", "--"}
	return m.join(append(nsenter, argv...))
}

// Command prepares a command in the machine.
func (m *Machine) Command(ctx context.Context, argv ...string) *exec.Cmd {
	wrapped := m.enter(argv)
	cmd := exec.CommandContext(ctx, wrapped[0], wrapped[1:]...)
	cmd.Dir = "/"
	return cmd
}

// Run runs a command in the machine and returns what it printed.
func (m *Machine) Run(ctx context.Context, argv ...string) (string, error) {
	return m.RunInput(ctx, nil, argv...)
}

// RunInput is Run with something to read.
func (m *Machine) RunInput(ctx context.Context, input io.Reader, argv ...string) (string, error) {
	cmd := m.Command(ctx, argv...)
	cmd.Stdin = input
	var problem strings.Builder
	cmd.Stderr = &problem
	output, err := cmd.Output()
	if err != nil {
		return string(output), fmt.Errorf("run %s on %s: %w: %s", filepath.Base(argv[0]), m.Name, err, strings.TrimSpace(problem.String()))
	}
	return string(output), nil
}

// ip runs ip in the machine's network namespace only, so that numbers of processes mean what they mean here.
func (m *Machine) ip(ctx context.Context, arguments string) error {
	argv := append([]string{"-t", strconv.Itoa(m.PID), "-n", "ip"}, strings.Fields(arguments)...)
	if output, err := exec.CommandContext(ctx, "nsenter", argv...).CombinedOutput(); err != nil {
		return fmt.Errorf("run ip %s on %s: %w: %s", arguments, m.Name, err, strings.TrimSpace(string(output)))
	}
	return nil
}

// Daemon is a program that runs until the rig goes down.
type Daemon struct {
	name    string
	machine *Machine
	exited  <-chan struct{}
}

// Start starts a program that outlives this one; its output goes to a log file.
func (m *Machine) Start(name string, argv ...string) (*Daemon, error) {
	exited, err := m.spawn(name, m.enter(argv))
	if err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", name, m.Name, err)
	}
	return &Daemon{name: name, machine: m, exited: exited}, nil
}

// Ready waits until a check passes, and gives up at once when the program ends.
func (d *Daemon) Ready(ctx context.Context, patience time.Duration, check func() error) error {
	return wait(ctx, patience, d.name+" on "+d.machine.Name, func() error {
		select {
		case <-d.exited:
			return permanent{fmt.Errorf("it ended: %s", d.machine.lastLines(d.name))}
		default:
			return check()
		}
	})
}

func (m *Machine) logFile(name string) string { return filepath.Join(m.Dir, "log", name+".log") }

// lastLines shows why a program ended.
func (m *Machine) lastLines(name string) string {
	content, _ := os.ReadFile(m.logFile(name))
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// spawn starts a command in a session of its own, so that a signal for this program does not reach it.
func (m *Machine) spawn(name string, argv []string) (<-chan struct{}, error) {
	if err := os.MkdirAll(filepath.Dir(m.logFile(name)), 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(m.logFile(name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan struct{})
	go func() { // ends with the program, or with us
		_ = cmd.Wait()
		close(exited)
	}()
	return exited, nil
}

// permanent is an error that waiting does not heal.
type permanent struct{ error }

// wait repeats a check until it passes.
func wait(ctx context.Context, patience time.Duration, what string, check func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return nil
		}
		var final permanent
		if errors.As(err, &final) || time.Now().After(deadline) {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}
