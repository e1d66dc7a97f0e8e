package datapath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/desired"
)

// socketPrograms are the entry points on a control group, which see the sockets of all processes in it and below.
func socketPrograms() map[desired.Program]ebpf.AttachType {
	return map[desired.Program]ebpf.AttachType{
		desired.Connect4: ebpf.AttachCGroupInet4Connect, desired.Connect6: ebpf.AttachCGroupInet6Connect,
		desired.Sendmsg4: ebpf.AttachCGroupUDP4Sendmsg, desired.Sendmsg6: ebpf.AttachCGroupUDP6Sendmsg,
		desired.Recvmsg4: ebpf.AttachCGroupUDP4Recvmsg, desired.Recvmsg6: ebpf.AttachCGroupUDP6Recvmsg,
		desired.Getpeername4: ebpf.AttachCgroupInet4GetPeername, desired.Getpeername6: ebpf.AttachCgroupInet6GetPeername,
		desired.Bind4: ebpf.AttachCGroupInet4PostBind, desired.Bind6: ebpf.AttachCGroupInet6PostBind,
	}
}

// CgroupRoot finds the root of the node's control groups: where the cgroup2 hierarchy is mounted, alone or beside
// version 1's.
func CgroupRoot() (string, error) {
	// A container finds the node's under /host: its own /sys/fs/cgroup is its runtime's to make.
	paths := []string{"/host/sys/fs/cgroup", "/host/sys/fs/cgroup/unified", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"}
	for _, path := range paths {
		var fs unix.Statfs_t
		if unix.Statfs(path, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return path, nil
		}
	}
	return "", fmt.Errorf("find control groups: no cgroup2 file system on any of %v: mount it with: mount -t cgroup2 cgroup2 %s", paths, paths[2])
}

// AttachSockets makes the sockets of all processes in a control group meet this agent's programs; an empty path, none.
// A program is replaced under a running link in one step. Maps must be complete before.
func (d *Datapath) AttachSockets(group string) ([]Change, error) {
	var changes []Change
	var errs []error
	for program, at := range socketPrograms() {
		verb, err := d.attachSocket(group, program, at)
		if err != nil {
			errs = append(errs, fmt.Errorf("attach %s to %s: %w", program, group, err))
		} else if verb != "" {
			changes = append(changes, Change{"programs", "sockets " + string(program), verb})
		}
	}
	return changes, errors.Join(errs...)
}

func (d *Datapath) attachSocket(group string, program desired.Program, at ebpf.AttachType) (string, error) {
	pin := filepath.Join(d.dir, "links", string(program)+socketPin)
	old := d.sockets[program]
	if group == "" {
		if old != nil {
			old.Close()
			delete(d.sockets, program)
		}
		if err := os.Remove(pin); !errors.Is(err, os.ErrNotExist) {
			return "delete", err
		}
		return "", nil
	}
	if _, err := os.Lstat(pin); old != nil && err == nil && isAttached(old) {
		return "", nil
	}
	if old != nil {
		old.Close()
		delete(d.sockets, program)
	}
	if l, err := link.LoadPinnedLink(pin, nil); err == nil {
		if isAttached(l) && l.Update(d.programs[program]) == nil {
			d.sockets[program] = l
			return "update", nil
		}
		l.Close()
		os.Remove(pin)
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: group, Attach: at, Program: d.programs[program]})
	if err != nil {
		return "", err
	}
	if err := l.Pin(pin); err != nil {
		l.Close()
		return "", fmt.Errorf("pin link: %w", err)
	}
	d.sockets[program] = l
	return "add", nil
}

// socketPin ends the names of the pins of control group links.
const socketPin = ":sockets"

// A link whose control group is gone, or that was detached by force, reports group 0.
func isAttached(l link.Link) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	group := info.Cgroup()
	return group != nil && group.CgroupId != 0
}

// SocketsAttached lists the entry points on sockets, and whether each is attached right now, as the kernel sees it.
func (d *Datapath) SocketsAttached() map[desired.Program]bool {
	all := map[desired.Program]bool{}
	for program := range socketPrograms() {
		l, ok := d.sockets[program]
		all[program] = ok && isAttached(l)
	}
	return all
}

// CanCloseSockets says whether the kernel lets a program close a socket (Linux 6.5). Where not, connected UDP sockets are
// left to the packet path, which can move them.
func CanCloseSockets() bool {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return false
	}
	var f *btf.Func
	return spec.TypeByName("bpf_sock_destroy", &f) == nil
}

// CloseStaleSockets closes the UDP sockets of the calling thread's network namespace that are connected to a backend
// which serves no longer.
func (d *Datapath) CloseStaleSockets() error {
	l, err := link.AttachIter(link.IterOptions{Program: d.programs[closeStale]})
	if err != nil {
		return fmt.Errorf("close stale sockets: %w", err)
	}
	defer l.Close()
	r, err := l.Open()
	if err != nil {
		return fmt.Errorf("close stale sockets: %w", err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("close stale sockets: %w", err)
	}
	return nil
}

const closeStale desired.Program = "close_stale"

// NetnsCookie is the number by which programs know the calling thread's network namespace.
func NetnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("read cookie of network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("read cookie of network namespace: %w", err)
	}
	return cookie, nil
}
