package api

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// ErrNotNetns is the error for a file that is no network namespace.
var ErrNotNetns = errors.New("not a network namespace")

// From linux/magic.h and linux/nsfs.h.
const (
	nsfsMagic = 0x6e736673
	nsGetType = 0xb703 // NS_GET_NSTYPE
)

const openPath = 0x200000 // O_PATH, which package syscall lacks

// OpenNetns opens the network namespace at path. It looks before it opens: a path that someone else chose may be a
// pipe, which would block, or a device, which opening may set off.
func OpenNetns(path string) (*os.File, error) {
	look, err := os.OpenFile(path, openPath, 0)
	if err != nil {
		return nil, err // a PathError: says "open" and the path
	}
	defer look.Close()
	var fs syscall.Statfs_t
	if err := syscall.Fstatfs(int(look.Fd()), &fs); err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	if fs.Type != nsfsMagic {
		return nil, fmt.Errorf("open %s: %w", path, ErrNotNetns)
	}
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(int(look.Fd())))
	if err != nil {
		return nil, err
	}
	if !isNetns(f) {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", path, ErrNotNetns)
	}
	return f, nil
}

// isNetns asks the kernel whether an open file is a network namespace; nothing else answers this request so.
func isNetns(f *os.File) bool {
	var fs syscall.Statfs_t
	if err := syscall.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type != nsfsMagic {
		return false
	}
	kind, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), nsGetType, 0)
	return errno == 0 && kind == syscall.CLONE_NEWNET
}
