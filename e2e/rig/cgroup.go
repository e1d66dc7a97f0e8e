package rig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
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

// makeCgroups creates a machine's group in every tree and returns the folders. A process of the machine joins all of them.
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
			if err := inheritCpuset(tree.mount, folder); err != nil {
				return nil, fmt.Errorf("set up control group: %w", err)
			}
		}
		folders = append(folders, folder)
	}
	return folders, nil
}

// leaf is the group that a machine's own processes are in, in a lone cgroup2 tree: there a group that has processes
// cannot limit its children, which the containers' groups are.
const leaf = "machine"

// leaveRoot moves the processes in a machine's group, which has to be where its view of the tree begins, to the leaf,
// and hands every controller down. With several trees, the controllers are in version 1 and nothing is to do.
func leaveRoot(folders []string) ([]string, error) {
	if len(folders) > 1 {
		return folders, nil
	}
	root := folders[0]
	if err := os.MkdirAll(filepath.Join(root, leaf), 0o755); err != nil {
		return nil, fmt.Errorf("create control group: %w", err)
	}
	for _, pid := range processesIn(root) {
		if err := os.WriteFile(filepath.Join(root, leaf, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return nil, fmt.Errorf("join control group: %w", err)
		}
	}
	parent := filepath.Dir(root)
	available, err := os.ReadFile(filepath.Join(filepath.Dir(parent), "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("list controllers: %w", err)
	}
	for _, group := range []string{filepath.Dir(parent), parent, root} {
		for _, controller := range strings.Fields(string(available)) {
			if err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
				return nil, fmt.Errorf("hand down controller %s: %w", controller, err)
			}
		}
	}
	return []string{filepath.Join(root, leaf)}, nil
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
	for _, pid := range processesIn(group) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
	}
}

// processesIn lists the processes of a group. A group that is gone has none.
func processesIn(group string) []int {
	content, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, line := range strings.Fields(string(content)) {
		if pid, err := strconv.Atoi(line); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids
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
