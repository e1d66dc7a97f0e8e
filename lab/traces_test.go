package lab_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// traces is all by which a lab shows on the machine: what must be gone when it is down.
type traces struct {
	state      string
	group      string
	namespaces map[string]bool // "net:[4026532345]"
	taken      int             // when, in clock ticks since boot
	processes  map[string]bool // process numbers with their start times
}

// tracesOf looks at a lab that is up, or half up.
func tracesOf(t *testing.T, state string) traces {
	t.Helper()
	tr := traces{state: state, namespaces: map[string]bool{}, processes: map[string]bool{}}
	for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup", filepath.Join(state, "cgroup")} {
		groups, _ := filepath.Glob(filepath.Join(root, "polder-lab-*"))
		for _, g := range groups {
			if strings.Contains(readFile(filepath.Join(state, "lab.json")), g) {
				tr.group = g
			}
		}
	}
	own := namespacesOf("self")
	uptime, err := strconv.ParseFloat(strings.Fields(readFile("/proc/uptime"))[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	tr.taken = int(uptime*100) + 1
	for _, pid := range processesIn(tr.group) {
		if id := identity(pid); id != "" { // else it has ended meanwhile
			tr.processes[id] = true
		}
		for ns := range namespacesOf(pid) {
			if !own[ns] {
				tr.namespaces[ns] = true
			}
		}
	}
	return tr
}

func readFile(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// processesIn lists the processes of a control group and of those below it.
func processesIn(group string) []string {
	var pids []string
	if group == "" {
		return nil
	}
	filepath.WalkDir(group, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "cgroup.procs" {
			pids = append(pids, strings.Fields(readFile(path))...)
		}
		return nil
	})
	return pids
}

func namespacesOf(pid string) map[string]bool {
	found := map[string]bool{}
	for _, kind := range []string{"net", "mnt", "uts"} {
		if ns, err := os.Readlink("/proc/" + pid + "/ns/" + kind); err == nil {
			found[ns] = true
		}
	}
	return found
}

// identity is a process number and the time when the process started.
func identity(pid string) string {
	stat := readFile("/proc/" + pid + "/stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return pid + "@" + fields[19]
}

// left lists what is still there.
func (tr traces) left() []string {
	var left []string
	if _, err := os.Lstat(tr.state); err == nil {
		left = append(left, "folder "+tr.state)
	}
	if _, err := os.Stat(tr.group); tr.group != "" && err == nil {
		left = append(left, "control group "+tr.group)
	}
	for line := range strings.Lines(readFile("/proc/self/mountinfo")) {
		if strings.Contains(line, tr.state) {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if tr.processes[identity(e.Name())] {
			left = append(left, "process "+e.Name())
		}
		if b, err := os.ReadFile("/proc/" + e.Name() + "/cmdline"); err == nil && bytes.Contains(b, []byte(tr.state)) {
			left = append(left, fmt.Sprintf("process %s: %q", e.Name(), b))
		}
		// A younger process may be in a namespace that got the number of one that is gone.
		_, started, _ := strings.Cut(identity(e.Name()), "@")
		if at, err := strconv.Atoi(started); err != nil || at > tr.taken {
			continue
		}
		for ns := range namespacesOf(e.Name()) {
			if tr.namespaces[ns] {
				left = append(left, "process "+e.Name()+" in "+ns)
			}
		}
	}
	return left
}

// mustBeGone fails the test unless nothing is left; the kernel may take a moment.
func (tr traces) mustBeGone(t *testing.T) {
	t.Helper()
	var left []string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if left = tr.left(); len(left) == 0 {
			return
		}
	}
	t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}
