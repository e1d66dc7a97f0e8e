package probe

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// enter moves the calling thread, which its goroutine must have locked, into a network namespace. Sockets that are
// opened from then on belong there. Nil is the namespace the program itself is in.
func enter(own, netns *os.File) error {
	if netns == nil {
		netns = own
	}
	defer runtime.KeepAlive(netns)
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// leave moves the calling thread back and unlocks it. A thread that cannot go back stays locked, and so ends with its
// goroutine.
func leave(own *os.File) {
	if enter(own, nil) == nil {
		runtime.UnlockOSThread()
	}
}

// ownNetns opens the namespace of the calling thread.
func ownNetns() (*os.File, error) {
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	return file, nil
}
