package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ownFolders are the folders that every node has for itself. In the node's mount namespace each is a folder of the
// lab's state, at the path where Polder and container runtimes look for it.
func ownFolders() []string {
	return []string{"/run/polder", "/run/netns", "/etc/cni/net.d", "/opt/cni/bin", "/var/lib/cni"}
}

// mountNode turns a new mount namespace, a copy of the machine's, into a node's. From then on nothing that is mounted
// here is seen outside, and all of it goes with the namespace.
func mountNode(state folder, node, cgroup string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Sources are opened before anything is mounted over them.
	group, err := openPath(cgroup)
	if err != nil {
		return err
	}
	defer group.Close()
	own, err := openPath(string(state))
	if err != nil {
		return err
	}
	defer own.Close()

	// A sysfs belongs to the network namespace it was mounted in: the machine's shows the machine's links.
	for _, m := range []struct{ kind, path string }{{"sysfs", "/sys"}, {"bpf", "/sys/fs/bpf"}} {
		if err := unix.Mount(m.kind, m.path, m.kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.path, err)
		}
	}
	// The root of the control groups, as the node sees it, is its own group: what is attached there is for the node.
	if err := bind(group, "/sys/fs/cgroup"); err != nil {
		return err
	}
	return mountOwnFolders(state, own, node)
}

// mountOwnFolders puts the node's own folders in place. Where the machine does not have the path it is made to appear,
// without making it on the machine: the nearest folder above that exists is overlaid, read-only, by one of a skeleton's
// that holds the rest of the path.
func mountOwnFolders(state folder, own *os.File, node string) error {
	skeleton := state.node(node, "skeleton")
	if err := os.MkdirAll(skeleton, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", skeleton, "tmpfs", 0, "size=1m,mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", skeleton, err)
	}
	above, err := missingFrom(skeleton, ownFolders())
	if err != nil {
		return err
	}
	for _, folder := range above {
		options := "lowerdir=" + filepath.Join(skeleton, folder) + ":" + folder
		if err := unix.Mount("overlay", folder, "overlay", unix.MS_RDONLY, options); err != nil {
			return fmt.Errorf("overlay %s (or make %v by hand): %w", folder, ownFolders(), err)
		}
		// Where that has hidden the state folder behind a read-only view of it, it comes back.
		if strings.HasPrefix(string(state), folder+"/") {
			if err := bind(own, string(state)); err != nil {
				return err
			}
		}
	}
	for _, path := range ownFolders() {
		source, err := openPath(state.root(node, path))
		if err != nil {
			return err
		}
		err = bind(source, path)
		source.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// missingFrom makes in the skeleton the folders that the machine does not have, and returns the nearest ones above
// that it has.
func missingFrom(skeleton string, paths []string) ([]string, error) {
	var above []string
	for _, path := range paths {
		exists := path
		for {
			_, err := os.Stat(exists)
			if err == nil {
				break
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			exists = filepath.Dir(exists)
		}
		if exists == path {
			continue
		}
		if err := os.MkdirAll(filepath.Join(skeleton, path), 0o755); err != nil {
			return nil, err
		}
		if !slices.Contains(above, exists) {
			above = append(above, exists)
		}
	}
	return above, nil
}

// openPath opens a folder as a place in the tree of mounts, not for reading.
func openPath(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// bind mounts an opened folder, and what is mounted in it, on a path.
func bind(source *os.File, path string) error {
	from := fmt.Sprintf("/proc/self/fd/%d", source.Fd())
	if err := unix.Mount(from, path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s on %s: %w", source.Name(), path, err)
	}
	return nil
}
