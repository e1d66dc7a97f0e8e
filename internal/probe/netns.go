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

// away runs f on a thread that f may move into network namespaces; afterwards the thread goes home. One that cannot
// ends with its goroutine.
func away(f func()) error {
	runtime.LockOSThread()
	home, err := ownNetns()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	f()
	if enter(home, nil) == nil {
		runtime.UnlockOSThread()
	}
	return nil
}

// ownNetns opens the namespace of the calling thread.
func ownNetns() (*os.File, error) {
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	return file, nil
}
