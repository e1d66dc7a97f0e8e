package netdev

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// PodNamespace is a network namespace that a veth of this one leads to.
type PodNamespace struct {
	Netns     *os.File // the caller closes it
	Link      string   // the end in this namespace
	Ifname    string   // the end in the other
	Addresses []netip.Prefix
	MTU       int // of the other end
}

// Visit runs fn on a thread in the namespace, for what only looks at the calling thread's.
func (p PodNamespace) Visit(fn func() error) error { return visit(p.Netns, fn) }

// PodNamespaces finds every network namespace that holds the other end of a veth of this one, from what the kernel
// says alone, trusting no record. It finds those that a process runs in or that are mounted where runtimes do.
func (k *Kernel) PodNamespaces() ([]PodNamespace, error) {
	veths, err := k.links("veth")
	if err != nil {
		return nil, err
	}
	byID := map[int][]link{}
	for _, l := range veths {
		if l.netnsID >= 0 {
			byID[l.netnsID] = append(byID[l.netnsID], l)
		}
	}
	var found []PodNamespace
	err = k.findNamespaces(func(id int, path string) (bool, error) {
		for _, l := range byID[id] {
			ns, err := k.podNamespace(l, path)
			if err != nil {
				return false, err
			}
			if ns.Netns != nil {
				found = append(found, ns)
			}
		}
		delete(byID, id)
		return len(byID) > 0, nil
	})
	if err != nil {
		for _, ns := range found {
			ns.Netns.Close()
		}
		return nil, fmt.Errorf("find pods' network namespaces: %w", err)
	}
	return found, nil
}

// podNamespace reads the far end of a link; the zero value says that it is gone.
func (k *Kernel) podNamespace(host link, path string) (PodNamespace, error) {
	far, err := k.peers([]link{host})
	if err != nil || far[0].index == 0 {
		return PodNamespace{}, err
	}
	addrs, err := k.addressesAt(host.netnsID, far[0].index)
	if err != nil {
		return PodNamespace{}, err
	}
	file, err := os.Open(path)
	if err != nil {
		return PodNamespace{}, nil // the process ended
	}
	return PodNamespace{file, host.name, far[0].name, addrs, far[0].mtu}, nil
}

// namespacePatterns is where network namespaces can be opened: mounted by container runtimes and ip(8), and of
// running processes.
func namespacePatterns() []string {
	return []string{"/run/netns/*", "/var/run/netns/*", "/run/docker/netns/*", "/proc/[0-9]*/ns/net"}
}

// findNamespaces calls found with each network namespace that has an id in this one, until found says to stop.
func (k *Kernel) findNamespaces(found func(id int, path string) (more bool, err error)) error {
	seen := map[uint64]bool{}
	for _, pattern := range namespacePatterns() {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, path := range paths {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil || seen[st.Ino] {
				continue // gone, or another way to the same
			}
			seen[st.Ino] = true
			id, err := k.idOf(path)
			if err != nil {
				return err
			}
			if id < 0 {
				continue
			}
			if more, err := found(id, path); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// idOf returns the id that a network namespace has in this one, -1 if it has none or is none.
func (k *Kernel) idOf(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, nil // gone, or not for us to open
	}
	defer unix.Close(fd)
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return -1, nil
	}
	replies, err := k.batch(newMessage(unix.RTM_GETNSID, 0, []byte{unix.AF_UNSPEC, 0, 0, 0}).
		u32(unix.NETNSA_FD, uint32(fd)))
	if err := firstError(replies, err); err != nil {
		return -1, fmt.Errorf("read id of %s: %w", path, err)
	}
	for _, b := range replies[0].data {
		if len(b) < 4 {
			continue
		}
		for typ, v := range attributes(b[4:]) {
			if typ == unix.NETNSA_NSID && len(v) == 4 {
				return int(int32(binary.NativeEndian.Uint32(v))), nil
			}
		}
	}
	return -1, nil
}

// openNamespace opens the network namespace with an id in this one, nil if it cannot be found.
func (k *Kernel) openNamespace(id int) (file *os.File, err error) {
	err = k.findNamespaces(func(found int, path string) (bool, error) {
		if found == id {
			file, _ = os.Open(path)
		}
		return file == nil, nil
	})
	return file, err
}
