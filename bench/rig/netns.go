// Package rig builds what Polder is compared with: pods joined by nothing but the kernel. It is made of anonymous
// network namespaces, which vanish with the process that holds them; it touches no other namespace and no file.
package rig

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/lab"
)

// End is where a load runs: a network namespace, its address there, and a control group; without one, this program's.
type End struct {
	NS    *os.File
	Addr  netip.Addr
	Group string // its folder
}

// NewNetns makes a network namespace with loopback up. It lives as long as the file is open, or a process in it.
func NewNetns() (*os.File, error) {
	var file *os.File
	err := lab.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		var err error
		if file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return setUp("lo")
	})
	return file, err
}

// In runs f on a thread of its own in a network namespace. Processes that f starts begin in it.
func In(netns *os.File, f func() error) error {
	return lab.OnThread(func() error {
		defer runtime.KeepAlive(netns)
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}
