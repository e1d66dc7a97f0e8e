// Package testnet gives each test network namespaces of its own, and fails a package whose tests leave something
// behind. It is for tests only, and nothing in it outlives the test that made it.
package testnet

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RequireRoot skips the test without root. With POLDER_ROOT_TESTS=1 it fails instead: whoever sets that wants to
// know that nothing was skipped.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("POLDER_ROOT_TESTS") == "1" {
		t.Fatal("needs root, and POLDER_ROOT_TESTS=1 forbids to skip")
	}
	t.Skip("needs root")
}

// NS is a network namespace. It lives as long as its file is open.
type NS struct {
	t    testing.TB
	file *os.File
	once sync.Once
}

// New returns a fresh network namespace with loopback up and addresses usable at once, removed when the test ends.
func New(t testing.TB) *NS {
	t.Helper()
	RequireRoot(t)
	file, err := create()
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	ns := &NS{t: t, file: file}
	t.Cleanup(ns.Close)
	ns.Do(func() {
		if err := netlink.LinkSetUp(loopback()); err != nil {
			t.Fatalf("set loopback up: %v", err)
		}
		// Duplicate address detection would hold back link-local addresses for a second.
		err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0o644)
		if err != nil && !os.IsNotExist(err) {
			t.Fatalf("switch off duplicate address detection: %v", err)
		}
	})
	return ns
}

func loopback() netlink.Link {
	return &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo"}}
}

// create makes the namespace on a thread that goes home afterwards. Letting the thread end instead would be simpler,
// but the first thread of a process never ends: it would stay, and hold the namespace.
func create() (*os.File, error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	file, err := os.Open("/proc/thread-self/ns/net")
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		panic("testnet: cannot return from network namespace: " + back.Error()) // the thread is spoilt
	}
	runtime.UnlockOSThread()
	return file, err
}

// File is the namespace, open. It is the namespace's own: do not close it.
func (ns *NS) File() *os.File { return ns.file }

// Path names the namespace for this process and its children while the test runs.
func (ns *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd()) }

// Close lets go of the namespace before the test ends. What still runs in it, or holds it open, keeps it alive.
func (ns *NS) Close() { ns.once.Do(func() { ns.file.Close() }) }

// Do runs fn on the calling goroutine, inside the namespace. Goroutines that fn starts are not. Calls nest.
func (ns *NS) Do(fn func()) {
	ns.t.Helper()
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		ns.t.Fatalf("open own network namespace: %v", err)
	}
	defer func() { // also when fn ends the goroutine, as t.Fatal does
		back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)
		home.Close()
		if back != nil {
			panic("testnet: cannot return from network namespace: " + back.Error()) // the thread is spoilt
		}
		runtime.UnlockOSThread()
	}()
	if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
		ns.t.Fatalf("enter network namespace: %v", err)
	}
	fn()
}

// Pair joins two namespaces with a veth link: the device in a is called nameA, the one in b nameB. Both are up.
func Pair(t testing.TB, a *NS, nameA string, b *NS, nameB string) {
	t.Helper()
	a.Do(func() {
		err := netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: nameA, MTU: 1500}, PeerName: nameB,
			PeerNamespace: netlink.NsFd(int(b.file.Fd())),
		})
		if err != nil {
			t.Fatalf("join network namespaces: %v", err)
		}
	})
	a.Up(nameA)
	b.Up(nameB)
}

// Up sets a device up.
func (ns *NS) Up(name string) {
	ns.t.Helper()
	ns.Do(func() {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			ns.t.Fatalf("set %s up: %v", name, err)
		}
	})
}

// Addr gives a device an address with a prefix length, usable at once.
func (ns *NS) Addr(name, prefix string) {
	ns.t.Helper()
	ns.Do(func() {
		addr, err := netlink.ParseAddr(prefix)
		if err != nil {
			ns.t.Fatalf("address %s: %v", prefix, err)
		}
		addr.Flags = unix.IFA_F_NODAD
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.AddrAdd(l, addr)
		}
		if err != nil {
			ns.t.Fatalf("add address %s to %s: %v", prefix, name, err)
		}
		for deadline := time.Now().Add(patience); !isLocal(addr.IP); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				ns.t.Fatalf("address %s of %s does not become usable", prefix, name)
			}
		}
	})
}

// isLocal says whether packets for an address are taken in: for an IPv6 address, the kernel sees to that later.
func isLocal(ip net.IP) bool {
	routes, err := netlink.RouteGet(ip)
	return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
}
