package testnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inside marks the process that Main started.
const inside = "POLDER_TESTNET_INSIDE"

// Main is the body of TestMain. It runs the package's tests in a process with network and mount namespaces of its
// own, so that they can neither hurt nor see the machine's, and fails if at their end anything is there that was not
// there before: descriptors, goroutines, threads in other namespaces, links, mounts, pins.
func Main(m *testing.M) {
	if os.Geteuid() != 0 || fuzzes() {
		os.Exit(Run(m))
	}
	if os.Getenv(inside) != "" {
		if err := privatePins(); err != nil {
			fmt.Fprintln(os.Stderr, "testnet: mount a BPF file system:", err)
			os.Exit(1)
		}
		os.Exit(Run(m))
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	}
	fmt.Fprintln(os.Stderr, "testnet: run the tests in namespaces of their own:", err)
	os.Exit(1)
}

// privatePins puts an empty BPF file system where the machine's is.
func privatePins() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("bpf", "/sys/fs/bpf", "bpf", 0, "")
}

// fuzzes says whether this is a fuzzing run, whose processes speak through inherited descriptors.
func fuzzes() bool {
	return slices.ContainsFunc(os.Args, func(arg string) bool {
		return strings.HasPrefix(arg, "-test.fuzz") &&
			!strings.HasPrefix(arg, "-test.fuzzcachedir")
	})
}
