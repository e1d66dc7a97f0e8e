package rig

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Init is the first process of a machine: it makes the mounts that separate it from this computer, says that the
// machine is there, and then only collects ended children. When it ends, the kernel ends everything in the machine.
func Init(name, dir string) error {
	pid, err := os.Readlink("/proc/self") // still this computer's /proc, hence its number for us
	if err != nil {
		return fmt.Errorf("find own process: %w", err)
	}
	trees, err := hostHierarchies()
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	for _, step := range []func() error{
		func() error { return mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return mount("proc", "/proc", "proc", 0, "") },
		func() error { return mountSys(trees) },
		func() error { return mountWritable(dir) },
		func() error { return writeNames(name) },
		setKernelParameters,
		func() error { return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	unfinished := filepath.Join(dir, "pid.unfinished")
	if err := os.WriteFile(unfinished, []byte(pid), 0o644); err != nil {
		return fmt.Errorf("write process number: %w", err)
	}
	if err := os.Rename(unfinished, filepath.Join(dir, "pid")); err != nil {
		return fmt.Errorf("write process number: %w", err)
	}
	reap()
	return nil
}

// reap collects orphans until it is told to end.
func reap() {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM)
	for received := range signals {
		if received == unix.SIGTERM {
			return
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 && !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, target, err)
	}
	return nil
}

// hide takes away this computer's mounts at and below a path, which would else still be listed. There may be none.
func hide(path string) { _ = unix.Unmount(path, unix.MNT_DETACH) }

// mountSys mounts a sysfs of the machine's own, else /sys/class/net shows this computer's devices; on it the control
// groups, which show the machine's own group as the root; and a BPF file system.
func mountSys(trees []hierarchy) error {
	hide("/sys")
	if err := mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return err
	}
	if len(trees) > 1 {
		if err := mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	for _, tree := range trees {
		if err := os.MkdirAll(tree.mount, 0o755); err != nil {
			return fmt.Errorf("create mount point: %w", err)
		}
		if err := mount(tree.kind, tree.mount, tree.kind, 0, tree.options); err != nil {
			return err
		}
	}
	return mount("bpf", "/sys/fs/bpf", "bpf", 0, "mode=700")
}

// mountWritable gives the machine copies of the folders that its programs write to: nothing reaches this computer's
// own. Large data goes to the machine's disk, because an overlay cannot carry containers' overlays.
func mountWritable(dir string) error {
	scratch := filepath.Join(dir, "scratch")
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return fmt.Errorf("create scratch folder: %w", err)
	}
	if err := mount("tmpfs", scratch, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, folder := range []string{"/etc", "/opt", "/var/lib", "/var/log"} {
		part := filepath.Join(scratch, strings.ReplaceAll(folder, "/", "_"))
		upper, work := filepath.Join(part, "upper"), filepath.Join(part, "work")
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
			return fmt.Errorf("create scratch folder: %w", err)
		}
		if err := mount("overlay", folder, "overlay", 0, "lowerdir="+folder+",upperdir="+upper+",workdir="+work); err != nil {
			return err
		}
	}
	hide("/run")
	if err := mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, folder := range []string{"/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/var/log/pods", "/var/log/containers", "/opt/cni/bin"} {
		disk := filepath.Join(dir, "disk", folder)
		if err := errors.Join(os.MkdirAll(disk, 0o755), os.MkdirAll(folder, 0o755)); err != nil {
			return fmt.Errorf("create folder: %w", err)
		}
		if err := mount(disk, folder, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	for _, folder := range []string{"/etc/cni/net.d", "/var/lib/cni", "/run/netns", "/run/containerd", "/run/lock"} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return fmt.Errorf("create folder: %w", err)
		}
	}
	return emptyFolder("/etc/cni/net.d")
}

// emptyFolder removes what this computer has there.
func emptyFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("empty folder: %w", err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(folder, entry.Name())); err != nil {
			return fmt.Errorf("empty folder: %w", err)
		}
	}
	return nil
}

// writeNames writes who the machine is, and no name server: with one, every missing image costs minutes of lookups.
func writeNames(name string) error {
	for file, content := range map[string]string{
		"/etc/hostname":    name + "\n",
		"/etc/hosts":       "127.0.0.1 localhost " + name + "\n::1 localhost " + name + "\n",
		"/etc/resolv.conf": "",
	} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("write names: %w", err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return fmt.Errorf("write names: %w", err)
		}
	}
	return nil
}

// setKernelParameters makes the machine a router, as every node is.
func setKernelParameters() error {
	for name, value := range map[string]int{
		"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1,
		"ipv6/conf/all/disable_ipv6": 0, "ipv6/conf/default/disable_ipv6": 0,
		"ipv6/conf/all/accept_ra": 0, "ipv6/conf/default/accept_ra": 0,
		"ipv4/conf/all/rp_filter": 0, "ipv4/conf/default/rp_filter": 0,
	} {
		file := filepath.Join("/proc/sys/net", name)
		if err := os.WriteFile(file, []byte(strconv.Itoa(value)), 0o644); err != nil {
			return fmt.Errorf("set kernel parameter: %w", err)
		}
	}
	return nil
}
