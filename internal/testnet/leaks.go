package testnet

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is how long a leftover may take to go by itself: the kernel finishes some things in the background.
const patience = 5 * time.Second

// Run runs the tests and returns their exit code, or 1 if they left something behind.
func Run(m *testing.M) int {
	before := survey()
	code := m.Run()
	var left []string
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if left = minus(survey(), before); len(left) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, l := range left {
		fmt.Fprintln(os.Stderr, "testnet: the tests left behind:", l)
	}
	if code == 0 && len(left) > 0 {
		return 1
	}
	return code
}

// survey counts everything that tests could leave behind.
func survey() map[string]int {
	found := map[string]int{}
	for _, list := range [][]string{descriptors(), goroutines(), threads(), links(), mounts(), pins()} {
		for _, s := range list {
			found[s]++
		}
	}
	return found
}

func minus(after, before map[string]int) []string {
	var left []string
	for s, n := range after {
		if more := n - before[s]; more > 0 {
			left = append(left, fmt.Sprintf("%d × %s", more, s))
		}
	}
	slices.Sort(left)
	return left
}

// number is what differs between two sockets, pipes or namespaces of the same sort.
var number = regexp.MustCompile(`0x[0-9a-f]+|[0-9]+`)

func descriptors() []string {
	entries, _ := os.ReadDir("/proc/self/fd")
	var list []string
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(target, "/proc/") && strings.HasSuffix(target, "/fd") {
			continue // the descriptor that lists them
		}
		if strings.HasPrefix(target, "anon_inode:[event") {
			continue // the runtime's poller, open for good after the first use
		}
		list = append(list, "descriptor "+number.ReplaceAllString(target, "N"))
	}
	return list
}

// goroutines names each goroutine but the asking one by what it runs and what started it.
func goroutines() []string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var list []string
	for _, stack := range strings.Split(string(buf), "\n\n")[1:] {
		if strings.Contains(stack, "testing.(*M).") || strings.Contains(stack, "os/signal.") {
			continue
		}
		lines := strings.Split(stack, "\n")
		name := "goroutine"
		if len(lines) > 1 {
			name += " " + lines[1][:max(0, strings.LastIndexByte(lines[1], '('))] // without arguments
		}
		for _, l := range lines {
			if by, ok := strings.CutPrefix(l, "created by "); ok {
				name += " of " + number.ReplaceAllString(by, "N")
			}
		}
		list = append(list, name)
	}
	return list
}

// threads lists the network namespaces of the process's threads that are not the first one's.
func threads() []string {
	own, _ := os.Readlink("/proc/self/ns/net")
	tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
	var list []string
	for _, t := range tasks {
		if ns, err := os.Readlink(t); err == nil && ns != own {
			list = append(list, "thread in another network namespace")
		}
	}
	return list
}

func links() []string {
	ifs, _ := net.Interfaces()
	var list []string
	for _, i := range ifs {
		list = append(list, "link "+i.Name)
	}
	return list
}

func mounts() []string {
	b, _ := os.ReadFile("/proc/self/mounts")
	var list []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 2 {
			list = append(list, "mount "+f[1]+" of type "+f[2])
		}
	}
	return list
}

func pins() []string {
	var list []string
	filepath.WalkDir("/sys/fs/bpf", func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != "/sys/fs/bpf" && d.Name() != "maps.debug" && d.Name() != "progs.debug" {
			list = append(list, "pin "+path)
		}
		return nil
	})
	return list
}
