package rig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
)

// cgroupRoot is the group that holds all machines of the rig, in every hierarchy.
const cgroupRoot = "polder-e2e"

// hierarchy is one mounted tree of control groups.
type hierarchy struct {
	mount   string // where it is mounted
	kind    string // cgroup or cgroup2
	options string // what to mount it with once more: "cpu,cpuacct", "none,name=systemd", or "" for cgroup2
}

// hierarchies reads the trees of this machine from /proc/self/mountinfo.
func hierarchies(mountinfo string) []hierarchy {
	var found []hierarchy
	seen := map[string]bool{}
	for _, line := range strings.Split(mountinfo, "\n") {
		before, after, ok := strings.Cut(line, " - ")
		fields, super := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(super) < 3 || !strings.HasPrefix(super[0], "cgroup") {
			continue
		}
		h := hierarchy{mount: fields[4], kind: super[0]}
		if h.kind == "cgroup" {
			h.options = controllers(super[2])
		}
		if key := h.kind + h.options; !seen[key] && strings.HasPrefix(h.mount, "/sys/fs/cgroup") {
			seen[key] = true
			found = append(found, h)
		}
	}
	return found
}

// controllers turns a version 1 tree's super options into mount options.
func controllers(super string) string {
	var keep []string
	for _, option := range strings.Split(super, ",") {
		switch {
		case strings.HasPrefix(option, "name="):
			keep = append(keep, "none", option)
		case option == "rw" || option == "ro" || option == "xattr" || option == "clone_children" || strings.Contains(option, "="):
		default:
			keep = append(keep, option)
		}
	}
	return strings.Join(keep, ",")
}

func hostHierarchies() ([]hierarchy, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	found := hierarchies(string(content))
	if len(found) == 0 {
		return nil, errors.New("find control groups: none is mounted below /sys/fs/cgroup")
	}
	return found, nil
}

// makeCgroups creates a machine's group in every tree and returns the folders. A process of the machine joins all of
// them. In a lone cgroup2 tree it joins a leaf, because there a group with processes cannot have children with limits.
func makeCgroups(machine string) ([]string, error) {
	trees, err := hostHierarchies()
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, tree := range trees {
		folder := filepath.Join(tree.mount, cgroupRoot, machine)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, fmt.Errorf("create control group: %w", err)
		}
		if tree.options == "cpuset" {
			err = inheritCpuset(tree.mount, folder)
		}
		if tree.kind == "cgroup2" && len(trees) == 1 {
			folder, err = delegateLeaf(tree.mount, folder)
		}
		if err != nil {
			return nil, fmt.Errorf("set up control group: %w", err)
		}
		folders = append(folders, folder)
	}
	return folders, nil
}

// inheritCpuset fills in what a new cpuset lacks: without processors and memory no process can join it.
func inheritCpuset(mount, folder string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		all, err := os.ReadFile(filepath.Join(mount, name))
		if err != nil {
			return err
		}
		for _, group := range []string{filepath.Dir(folder), folder} {
			if err := os.WriteFile(filepath.Join(group, name), all, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegateLeaf hands every controller down to the machine's group and returns the leaf for its own processes.
func delegateLeaf(mount, folder string) (string, error) {
	available, err := os.ReadFile(filepath.Join(mount, "cgroup.controllers"))
	if err != nil {
		return "", err
	}
	for _, group := range []string{mount, filepath.Dir(folder), folder} {
		for _, controller := range strings.Fields(string(available)) {
			if err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
				return "", err
			}
		}
	}
	leaf := filepath.Join(folder, "machine")
	return leaf, os.MkdirAll(leaf, 0o755)
}

// removeCgroups kills every process in the rig's groups and removes the groups.
func removeCgroups() error {
	trees, err := hostHierarchies()
	if err != nil {
		return err
	}
	for _, tree := range trees {
		if err := emptyCgroup(filepath.Join(tree.mount, cgroupRoot)); err != nil {
			return fmt.Errorf("remove control group: %w", err)
		}
	}
	return nil
}

func emptyCgroup(root string) error {
	var groups []string
	deadline := time.Now().Add(20 * time.Second)
	for {
		groups = cgroupsBelow(root)
		if len(groups) == 0 {
			return nil
		}
		for _, group := range groups {
			killCgroup(group)
			if err := os.Remove(group); err != nil && !errors.Is(err, fs.ErrNotExist) && time.Now().After(deadline) {
				return err
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// killCgroup kills the processes of one group, by the group and never by a name.
func killCgroup(group string) {
	content, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, line := range strings.Fields(string(content)) {
		var pid int
		if _, err := fmt.Sscan(line, &pid); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
}

// cgroupsBelow lists a group and its descendants, the deepest first.
func cgroupsBelow(root string) []string {
	var groups []string
	_ = filepath.WalkDir(root, func(at string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			groups = append(groups, at)
		}
		return nil // groups vanish while we walk
	})
	sort.Sort(sort.Reverse(sort.StringSlice(groups)))
	return groups
}
