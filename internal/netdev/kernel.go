// Package netdev is everything Polder asks of the kernel's network but the datapath: links, addresses, routes,
// rules, neighbours, sysctls and nftables, of one network namespace and of the pods attached to it. What it lists is
// the truth: it remembers no row between calls. It decides nothing either: which rows there should be is the core's.
//
// It speaks netlink itself, with messages of its own making, for three reasons: a pod's set-up goes out in a few
// batches instead of twenty requests, a row of ours that someone altered is deleted by sending back exactly what the
// kernel listed, and the far ends of pods' links are read through namespace ids, without visiting.
package netdev

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Protocol marks the routes and rules that are Polder's (rtm_protocol, FRA_PROTOCOL): 'p'.
const Protocol = 112

// Kernel is one network namespace's kernel state: the agent's own. It is safe for concurrent use.
type Kernel struct {
	log   *slog.Logger
	netns *os.File
	ipv6  bool // the kernel has IPv6 at all

	mu     sync.Mutex
	idle   []*conn // open sockets that nobody uses
	closed bool
	ports  map[uint32]bool // of all open sockets: notifications name whose request caused them

	untranslated atomic.Bool // no flow was left of those that others had translated, nor anybody to begin new ones

	deletions sync.WaitGroup // links whose removal the kernel still finishes

	step func(name string) error // tests only: called between the steps of CreatePod
}

// maxIdle is how many sockets stay open between calls.
const maxIdle = 4

// Open returns the kernel state of the calling thread's network namespace.
func Open(log *slog.Logger) (*Kernel, error) {
	netns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	k := &Kernel{log: log, netns: netns, ports: map[uint32]bool{}}
	// Booted with ipv6.disable=1 or built without, a kernel has no such directory.
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		k.ipv6 = true
	}
	c, err := k.take()
	if err != nil {
		netns.Close()
		return nil, err
	}
	k.give(c)
	return k, nil
}

// Close waits for the deletions that are under way, then frees everything. The kernel's state stays.
func (k *Kernel) Close() error {
	k.deletions.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.idle {
		k.drop(c)
	}
	k.idle, k.closed = nil, true
	return k.netns.Close()
}

// take returns a socket in the kernel's namespace that the caller alone uses until it gives it back.
func (k *Kernel) take() (*conn, error) {
	k.mu.Lock()
	if n := len(k.idle); n > 0 {
		c := k.idle[n-1]
		k.idle = k.idle[:n-1]
		k.mu.Unlock()
		return c, nil
	}
	k.mu.Unlock()
	var c *conn
	err := visit(k.netns, func() (err error) {
		c, err = dial()
		return err
	})
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ports[c.port] = true
	return c, nil
}

// drop closes a socket. The caller holds the lock.
func (k *Kernel) drop(c *conn) {
	delete(k.ports, c.port)
	c.close()
}

// give takes a socket back. One that failed is closed: answers to the failed call may still be in it.
func (k *Kernel) give(c *conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.broken || k.closed || len(k.idle) >= maxIdle {
		k.drop(c)
		return
	}
	k.idle = append(k.idle, c)
}

// batch sends messages and returns one reply each, in their order. The error is the socket's; each reply has its own.
func (k *Kernel) batch(messages ...*message) ([]reply, error) {
	c, err := k.take()
	if err != nil {
		return nil, err
	}
	defer k.give(c)
	return c.batch(messages)
}

// do sends messages and returns the first error among their replies. The kernel carries out the others all the same.
func (k *Kernel) do(messages ...*message) error {
	replies, err := k.batch(messages...)
	return firstError(replies, err)
}

// dump lists, from the start again when something changed meanwhile: begin is called before each attempt.
func (k *Kernel) dump(m *message, begin func(), each func(b []byte)) error {
	c, err := k.take()
	if err != nil {
		return err
	}
	defer k.give(c)
	return c.dump(m, begin, each)
}

func firstError(replies []reply, err error) error {
	if err != nil {
		return err
	}
	for _, r := range replies {
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

func family(ipv4 bool) uint8 {
	if ipv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
