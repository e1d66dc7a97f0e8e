package testnet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
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
// there before: descriptors, goroutines, threads in other namespaces, links, mounts, pins. The functions in after are
// called when all tests have run, for what several of them shared.
func Main(m *testing.M, after ...func() error) {
	if os.Geteuid() != 0 || fuzzes() {
		os.Exit(finish(Run(m), after))
	}
	if os.Getenv(inside) != "" {
		if err := privatePins(); err != nil {
			fmt.Fprintln(os.Stderr, "testnet: mount a BPF file system:", err)
			os.Exit(1)
		}
		os.Exit(finish(Run(m), after))
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that started the process
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

// finish cleans up after the tests and returns their exit code, or 1 if that fails.
func finish(code int, after []func() error) int {
	for _, clean := range after {
		if err := clean(); err != nil {
			fmt.Fprintln(os.Stderr, "testnet: clean up after the tests:", err)
			code = max(code, 1)
		}
	}
	return code
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
