package lab

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// groupName is the name of a lab's control group. It follows from the state folder alone, so that the remains of a
// lab are found whatever else is lost.
func groupName(state string) string {
	if state == DefaultState {
		return "polder-lab"
	}
	return fmt.Sprintf("polder-lab-%x", sha256.Sum256([]byte(state)))[:len("polder-lab-")+8]
}

// ownHierarchy is where the lab mounts the cgroup2 hierarchy on a machine that has none mounted.
func ownHierarchy(state string) string { return filepath.Join(state, "cgroup") }

// findHierarchy returns where the cgroup2 hierarchy is mounted, "" if it is not.
func findHierarchy(state string) string {
	for _, path := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup", ownHierarchy(state)} {
		var fs unix.Statfs_t
		if unix.Statfs(path, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			return path
		}
	}
	return ""
}

// makeGroup makes the lab's control group and returns its folder.
func makeGroup(state string) (string, error) {
	root := findHierarchy(state)
	if root == "" {
		root = ownHierarchy(state)
		if err := os.MkdirAll(root, 0o755); err != nil {
			return "", err
		}
		if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil {
			return "", fmt.Errorf("mount cgroup2 on %s: %w", root, err)
		}
	}
	group := filepath.Join(root, groupName(state))
	if err := os.Mkdir(group, 0o755); err != nil {
		return "", fmt.Errorf("make control group: %w", err)
	}
	if _, err := os.Stat(filepath.Join(group, "cgroup.kill")); err != nil {
		return "", errors.New("the kernel is too old for the lab: no cgroup.kill, want Linux 5.14 or later")
	}
	return group, nil
}

// newGroup makes a control group inside the lab's and opens it: a node does not see the path.
func newGroup(path string) (*os.File, error) {
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("make control group: %w", err)
	}
	return os.Open(path)
}

// findGroup returns the folder of the lab's control group, "" if there is none.
func findGroup(state string) string {
	root := findHierarchy(state)
	if root == "" {
		return ""
	}
	group := filepath.Join(root, groupName(state))
	if _, err := os.Stat(group); err != nil {
		return ""
	}
	return group
}

// removeGroup kills all processes in a control group and those below it, waits for their end and removes the groups.
// A group that does not exist is fine.
func removeGroup(group string) error {
	err := os.WriteFile(filepath.Join(group, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill processes of %s: %w", group, err)
	}
	for deadline := time.Now().Add(60 * time.Second); ; {
		populated, err := groupPopulated(group)
		if err != nil {
			return err
		}
		if !populated {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill processes of %s: some are still there after a minute", group)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return removeGroups(group)
}

// groupPopulated says whether a process lives in a group or below it.
func groupPopulated(group string) (bool, error) {
	events, err := os.ReadFile(filepath.Join(group, "cgroup.events"))
	if err != nil {
		return false, fmt.Errorf("read state of control group: %w", err)
	}
	return strings.Contains(string(events), "populated 1"), nil
}

// removeGroups removes empty groups, the inner ones first.
func removeGroups(group string) error {
	entries, err := os.ReadDir(group)
	if err != nil {
		return fmt.Errorf("list control group: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroups(filepath.Join(group, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(group); err != nil {
		return fmt.Errorf("remove control group: %w", err)
	}
	return nil
}
