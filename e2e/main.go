// Command e2e runs a real Kubernetes on one machine, with Polder as its network, and the upstream e2e suite against it.
// README.md lists its commands and variables.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/polder-net/polder/e2e/rig"
)

func main() {
	arguments := os.Args[1:]
	if len(arguments) == 3 && arguments[0] == "init" { // the first process of a machine
		exit(rig.Init(arguments[1], arguments[2]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, arguments)
	stop()
	exit(err)
}

func exit(err error) {
	var ended *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &ended):
		slog.Error(err.Error())
		os.Exit(max(1, ended.ExitCode()))
	}
	slog.Error(err.Error())
	os.Exit(1)
}

// run does what the first argument says; without one, everything.
func run(ctx context.Context, arguments []string) error {
	c, err := readConfig()
	if err != nil {
		return err
	}
	command := "all"
	if len(arguments) > 0 {
		command, arguments = arguments[0], arguments[1:]
	}
	switch command {
	case "report":
		return c.report()
	case "exec":
		return c.exec(ctx, arguments)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: needs root", command)
	}
	release, err := c.lock()
	if err != nil {
		return err
	}
	defer release()
	switch command {
	case "build":
		return c.build(ctx)
	case "up":
		return c.up(ctx)
	case "test":
		return c.test(ctx)
	case "down":
		return rig.Down(c.state())
	case "smoke":
		c.smoke = true
		return c.all(ctx)
	case "all":
		return c.all(ctx)
	}
	return fmt.Errorf("read command: %q is none of build, up, test, report, down, smoke, exec, all", command)
}

// lock keeps two of these programs from taking each other's machines for leftovers.
func (c config) lock() (func(), error) {
	if err := os.MkdirAll(c.cache.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("create cache folder: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(c.cache.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the rig: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock the rig: another run has it: %w", err)
	}
	return func() { file.Close() }, nil
}

// all builds, starts, tests and reports, and leaves nothing behind unless KEEP=1.
func (c config) all(ctx context.Context) error {
	if err := c.build(ctx); err != nil {
		return err
	}
	if !c.keep {
		defer func() {
			if err := rig.Down(c.state()); err != nil {
				slog.Error("take the rig down", "error", err)
			}
		}()
	}
	if err := c.up(ctx); err != nil {
		return err
	}
	tested := c.test(ctx)
	if c.smoke {
		return tested
	}
	return errors.Join(tested, c.report())
}
