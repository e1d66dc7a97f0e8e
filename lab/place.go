package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Place is where commands can run: the namespaces and the control group of a node, a pod or the fabric.
type Place struct {
	Name   string
	holder process
	cgroup string // path of the control group's folder
}

// inside are the namespaces that make a place.
const inside = unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS

// Do runs f in the place's network namespace, on a thread of its own. Sockets and files that f opens stay usable
// after it; goroutines that f starts run outside.
func (p Place) Do(f func() error) error { return p.in(unix.CLONE_NEWNET, f) }

// in runs f on a thread that has joined some of the place's namespaces.
func (p Place) in(namespaces int, f func() error) error {
	holder, err := p.holder.open()
	if err != nil {
		return fmt.Errorf("enter %s: %w", p.Name, err)
	}
	defer holder.Close()
	return OnThread(func() error {
		if err := join(int(holder.Fd()), namespaces); err != nil {
			return fmt.Errorf("enter %s: %w", p.Name, err)
		}
		return f()
	})
}

// OnThread runs f on a thread that ends with it, so that no other goroutine ever sees the namespaces it was in. The
// program's first thread never ends, and would hold them: while it could be chosen, it is kept waiting.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- OnThread(f)
			return
		}
		done <- f()
	}()
	return <-done
}

// join moves the calling thread into namespaces of a process. A thread can change its mount namespace only while it
// shares its root and working folder with no other (setns(2)).
func join(pidfd, namespaces int) error {
	if namespaces&unix.CLONE_NEWNS != 0 {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare root folder: %w", err)
		}
	}
	if err := unix.Setns(pidfd, namespaces); err != nil {
		return fmt.Errorf("set namespaces: %w", err)
	}
	return nil
}

// Cmd is a command that starts inside a place. It has exec.Cmd's fields, and its own Start, Run, Output and
// CombinedOutput; the pipes and Wait are exec.Cmd's.
type Cmd struct {
	*exec.Cmd
	place Place
}

// Command returns a command that will run in the place. A name without a slash is looked up outside; nodes share the
// machine's programs.
func (p Place) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{exec.CommandContext(ctx, name, args...), p}
}

// Start starts the command inside the place.
func (c *Cmd) Start() error {
	cgroup, err := os.Open(c.place.cgroup)
	if err != nil {
		return fmt.Errorf("open control group of %s: %w", c.place.Name, err)
	}
	defer cgroup.Close()
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	c.SysProcAttr.UseCgroupFD = true
	c.SysProcAttr.CgroupFD = int(cgroup.Fd())
	return c.place.in(inside, c.Cmd.Start)
}

// Run starts the command and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output.
func (c *Cmd) Output() ([]byte, error) {
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	err := c.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the command and returns its standard output and error.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Exec replaces this program by a command inside the place; it returns only errors. Terminal, signals, working
// folder and exit status are the command's own.
func (p Place) Exec(args, environ []string) error {
	folder, err := os.Getwd()
	if err != nil {
		folder = "/"
	}
	if err := os.WriteFile(p.cgroup+"/cgroup.procs", []byte("0"), 0); err != nil {
		return fmt.Errorf("enter control group of %s: %w", p.Name, err)
	}
	return p.in(inside, func() error {
		if err := syscall.Chdir(folder); err != nil {
			syscall.Chdir("/") // the folder is not in the node; the root always is
		}
		path, err := exec.LookPath(args[0])
		if err != nil {
			return err
		}
		return fmt.Errorf("run %s: %w", path, syscall.Exec(path, args, environ))
	})
}

// Group is the folder of the place's control group.
func (p Place) Group() string { return p.cgroup }

// PID is the number of the process that holds the place, 0 when it is gone.
func (p Place) PID() int {
	if !p.holder.alive() {
		return 0
	}
	return p.holder.PID
}
