package netdev

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// visit runs fn on a thread in another network namespace, for what only looks at the calling thread's: opening
// sockets and /proc/sys/net. A goroutine of its own keeps the caller's thread where it is; the visiting thread goes
// home afterwards, or ends with its goroutine when it cannot (a goroutine that ends locked takes its thread along).
func visit(netns *os.File, fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- visitLocked(netns, fn) }()
	return <-done
}

func visitLocked(netns *os.File, fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = fn()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
		runtime.UnlockOSThread()
	}
	return err
}
