package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	rescan = 5 * time.Second        // how often a folder is looked at although no notice came
	poll   = 200 * time.Millisecond // and where none will
)

// notices are the kernel's words that something in a folder changed (inotify(7)).
type notices struct{ file *os.File } // nil: there are none

// watchFolder asks for notices, until ctx is done.
func watchFolder(ctx context.Context, folder string) (notices, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return notices{}, fmt.Errorf("watch %s: %w", folder, err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	const changes = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE
	if _, err := unix.InotifyAddWatch(fd, folder, changes); err != nil {
		file.Close()
		return notices{}, fmt.Errorf("watch %s: %w", folder, err)
	}
	context.AfterFunc(ctx, func() { file.Close() })
	return notices{file}, nil
}

// wait returns a moment after something changed, so that what changes together is seen together; or when it is time to
// look anyway, or ctx is done.
func (n notices) wait(ctx context.Context) {
	if n.file == nil {
		sleep(ctx, poll)
		return
	}
	b := make([]byte, 64<<10)
	n.file.SetReadDeadline(time.Now().Add(rescan))
	if _, err := n.file.Read(b); err != nil {
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			sleep(ctx, poll)
		}
		return
	}
	sleep(ctx, 20*time.Millisecond)
	n.file.SetReadDeadline(time.Now().Add(time.Millisecond))
	n.file.Read(b)
}
