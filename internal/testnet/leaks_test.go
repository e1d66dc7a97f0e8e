package testnet

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { Main(m) }

// found says whether a survey has something that an earlier one had not.
func found(before map[string]int, what string) bool {
	return slices.ContainsFunc(minus(survey(), before), func(s string) bool { return strings.Contains(s, what) })
}

func TestEveryKindOfLeftoverIsFound(t *testing.T) {
	RequireRoot(t)
	for what, leave := range map[string]func(t *testing.T) (undo func()){
		"descriptor net:": func(t *testing.T) func() {
			f, err := os.Open("/proc/self/ns/net")
			if err != nil {
				t.Fatal(err)
			}
			return func() { f.Close() }
		},
		"descriptor socket:": func(t *testing.T) func() {
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				t.Fatal(err)
			}
			return h.Close
		},
		"goroutine ": func(t *testing.T) func() {
			stop := make(chan struct{})
			go func() { <-stop }()
			return func() { close(stop) }
		},
		"thread in another network namespace": func(t *testing.T) func() {
			stop, there := make(chan struct{}), make(chan struct{})
			ns := New(t)
			go ns.Do(func() { close(there); <-stop })
			<-there
			return func() { close(stop) }
		},
		"link left0": func(t *testing.T) func() {
			l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "left0"}, PeerName: "left1"}
			if err := netlink.LinkAdd(l); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := netlink.LinkDel(l); err != nil {
					t.Error(err)
				}
			}
		},
		"mount ": func(t *testing.T) func() {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			return func() { unix.Unmount(dir, 0) }
		},
		"pin ": func(t *testing.T) func() {
			dir := filepath.Join("/sys/fs/bpf", "left")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			return func() { os.Remove(dir) }
		},
	} {
		t.Run(what, func(t *testing.T) {
			before := survey()
			undo := leave(t)
			if !found(before, what) {
				t.Errorf("not found in %v", minus(survey(), before))
			}
			undo()
			for deadline := time.Now().Add(patience); found(before, what); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("still found: %v", minus(survey(), before))
				}
			}
		})
	}
}

func TestNamespacesAreFreshAndTheCallerComesHome(t *testing.T) {
	a, b := New(t), New(t)
	home := current(t)
	var inA, inB, nested string
	a.Do(func() {
		inA = current(t)
		b.Do(func() { inB = current(t) })
		nested = current(t)
	})
	if inA == home || inB == home || inA == inB || nested != inA || current(t) != home {
		t.Errorf("home %s, a %s, b %s, back in a %s, back home %s", home, inA, inB, nested, current(t))
	}
}

func TestATestThatFailsInsideANamespaceComesHome(t *testing.T) {
	a := New(t)
	home := current(t)
	done := make(chan string)
	go func() {
		defer func() { done <- current(t) }()
		a.Do(runtime.Goexit) // as t.Fatal does
	}()
	if got := <-done; got != home {
		t.Errorf("came to %s, not %s", got, home)
	}
}

func current(t *testing.T) string {
	t.Helper()
	s, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return s
}

func TestAPairJoinsTwoNamespaces(t *testing.T) {
	a, b := New(t), New(t)
	Pair(t, a, "to-b", b, "to-a")
	a.Addr("to-b", "10.0.0.1/24")
	for ns, name := range map[*NS]string{a: "to-b", b: "to-a"} {
		ns.Do(func() {
			l, err := netlink.LinkByName(name)
			if err != nil || l.Attrs().OperState == netlink.OperDown {
				t.Errorf("%s: %v, %v", name, l, err)
			}
		})
	}
}
