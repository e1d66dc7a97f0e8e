package lab_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// over mounts a small file system over one of the node's folders, with what was in it, until the returned function.
func (n *runtimeNode) over(folder, options string, readOnly bool) (away func()) {
	n.t.Helper()
	entries, err := os.ReadDir(n.Path(folder))
	if err != nil {
		n.t.Fatal(err)
	}
	err = n.in(func() error {
		if err := unix.Mount("tmpfs", folder, "tmpfs", 0, options); err != nil {
			return err
		}
		for _, e := range entries {
			body, err := os.ReadFile(filepath.Join(n.Path(folder), e.Name()))
			if err != nil || e.Name() == cniConf {
				continue // a socket, or what is to be written anew
			}
			if err := os.WriteFile(filepath.Join(folder, e.Name()), body, 0o755); err != nil {
				return err
			}
		}
		if readOnly {
			return unix.Mount("", folder, "", unix.MS_REMOUNT|unix.MS_RDONLY, options)
		}
		return fill(folder)
	})
	if err != nil {
		n.t.Fatal(err)
	}
	away = sync.OnceFunc(func() {
		if err := n.in(func() error { return unix.Unmount(folder, unix.MNT_DETACH) }); err != nil {
			n.t.Error(err)
		}
	})
	n.t.Cleanup(away)
	return away
}

// fill leaves no room for a byte or a file.
func fill(folder string) error {
	err := os.WriteFile(filepath.Join(folder, "zz-filler"), make([]byte, 32<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("the file system is not full: %w", err)
	}
	for i := 0; err == nil || i == 0; i++ {
		err = os.WriteFile(filepath.Join(folder, fmt.Sprint("zz-", i)), nil, 0o600)
	}
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("the file system takes files: %w", err)
	}
	return nil
}

// list lists a folder as the node sees it.
func (n *runtimeNode) list(folder string) []string {
	n.t.Helper()
	var names []string
	err := n.in(func() error {
		entries, err := os.ReadDir(folder)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return names
}

// nextAgent kills the agent and waits for one that answers.
func (n *runtimeNode) nextAgent() {
	n.t.Helper()
	old := n.AgentPID()
	if err := n.KillAgent(); err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, time.Minute, "the next agent answers", func() error {
		if pid := n.AgentPID(); pid == 0 || pid == old {
			return errors.New("it does not run")
		}
		reportOf(n.t, n.Node)
		return nil
	})
}

// problem waits for a problem that says so, and checks that the log has one line about it, and not one a sync.
func (n *runtimeNode) problem(c *lab.Cluster, text string) {
	n.t.Helper()
	eventually(n.t, time.Minute, "a problem says "+text, func() error {
		problems := reportOf(n.t, n.Node).Problems
		for _, p := range problems {
			if strings.Contains(p.Message, text) && !strings.Contains(p.Message, "\n") {
				return nil
			}
		}
		return fmt.Errorf("problems are %v", problems)
	})
	synced := reportOf(n.t, n.Node).Synced
	n.sync(c)
	eventually(n.t, time.Minute, "it looks again", func() error {
		if reportOf(n.t, n.Node).Synced.After(synced) {
			return nil
		}
		return errors.New("not yet")
	})
	log := n.LastLog(1000)
	if i := strings.LastIndex(log, "polder-agent starts"); i >= 0 {
		log = log[i:]
	}
	if got := strings.Count(log, text); got != 1 {
		n.t.Errorf("%d lines of the log say %q:\n%s", got, text, log)
	}
}

func TestFullAndReadOnlyDisksAreOneProblemAndCostNoAddress(t *testing.T) {
	cluster := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	node := newRuntimeNode(t, cluster.Nodes()[0])
	list := node.installed()
	lives := func(n *runtimeNode) { // ADD works, or fails cleanly
		n.t.Helper()
		c := newContainer(n.t, "on-a-full-disk")
		if _, err := n.tryAdd(list, c); err != nil && code(err) == 0 {
			n.t.Errorf("ADD: %v", err)
		}
		used := n.pool().Used
		if pods := len(reportOf(n.t, n.Node).Pods); used != uint64(pods) {
			n.t.Errorf("%d addresses are in use by %d pods", used, pods)
		}
		n.del(list, c)
		n.nothingLeft()
	}
	for name, readOnly := range map[string]bool{"full": false, "read-only": true} {
		t.Run("the folder of configurations is "+name, func(t *testing.T) {
			n := node.with(t)
			away := n.over(cniNet, "size=8k,nr_inodes=20", readOnly)
			n.nextAgent()
			n.problem(cluster, "install CNI configuration")
			if err := n.status(list); code(err) != 51 {
				t.Errorf("STATUS: %v", err)
			}
			lives(n)
			if names := n.list(cniNet); slices.ContainsFunc(names, func(s string) bool { return !strings.HasPrefix(s, "zz-") }) {
				t.Errorf("there is %v", names)
			}
			away()
			n.sync(cluster)
			n.ready()
		})
		t.Run("the folder of plugins is "+name, func(t *testing.T) {
			n := node.with(t)
			away := n.over(cniBin, "size=16m,nr_inodes=20", readOnly)
			if !readOnly { // the agent finds no plugin, and no room for one
				if err := n.in(func() error { return os.Remove(filepath.Join(cniBin, "polder-ipam")) }); err != nil {
					t.Fatal(err)
				}
				if err := n.in(func() error { return fill(cniBin) }); err != nil {
					t.Fatal(err)
				}
			}
			n.nextAgent()
			if !readOnly { // it is there, unchanged: nothing to write
				n.problem(cluster, "install plugin polder-ipam")
			}
			lives(n)
			if names := n.list(cniBin); slices.ContainsFunc(names, func(s string) bool { return strings.HasPrefix(s, ".") }) {
				t.Errorf("there is %v", names)
			}
			away()
			n.sync(cluster)
			n.ready()
		})
	}
	t.Run("the agent's own folder is full", func(t *testing.T) {
		n := node.with(t)
		c := newContainer(t, "stays")
		r := node.add(list, c)
		away := n.over("/run/polder", "size=4k,nr_inodes=6", false)
		if err := n.in(func() error { return errors.Join(os.Remove("/run/polder/lock"), fill("/run/polder")) }); err != nil {
			t.Fatal(err)
		}
		if err := n.KillAgent(); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "the agent says why it does not start", func() error {
			if log := n.LastLog(5); !strings.Contains(log, "no space left on device") || strings.Contains(log, "panic") {
				return errors.New(log)
			}
			return nil
		})
		away()
		n.ready()
		if err := n.check(list, c); err != nil {
			t.Errorf("CHECK of the pod that stayed: %v", err)
		}
		if pods := reportOf(t, n.Node).Pods; len(pods) != 1 || !slices.Equal(pods[0].Addresses, addresses(r)) {
			t.Errorf("pods are %v", pods)
		}
		n.del(list, c)
		n.nothingLeft()
	})
	t.Run("a configuration that is cut off, changed or gone is written anew", func(t *testing.T) {
		n := node.with(t)
		path := filepath.Join(n.Path(cniNet), cniConf)
		whole := readFile(path)
		for _, damage := range []func() error{
			func() error { return os.Truncate(path, 0) },
			func() error { return os.Truncate(path, int64(len(whole)/2)) },
			func() error {
				return os.WriteFile(path, []byte(strings.Replace(whole, "polder-cni", "no-such-cni", 1)), 0o644)
			},
			func() error { return os.Remove(path) },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			n.sync(cluster)
			eventually(t, time.Minute, "it is whole", func() error {
				if now := readFile(path); now != whole {
					return fmt.Errorf("it is %q", now)
				}
				return nil
			})
		}
	})
}
