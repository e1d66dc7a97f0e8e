package netdev

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func ioctl(fd int, request uint, ifr *[40]byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(unsafe.Pointer(ifr)))
	if errno != 0 {
		return errno
	}
	return nil
}
