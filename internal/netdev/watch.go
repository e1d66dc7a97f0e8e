package netdev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// reopenAfter is how long a watch waits before it opens a socket that failed again.
const reopenAfter = time.Second

// Watch signals on the channel it returns when somebody may have changed what Sync, Pods, Uplinks, Paths or
// SyncTunnel read: signals that nobody took yet are one. What Polder itself writes through this Kernel signals only
// where the kernel does not say whose doing it was. It also signals when it may have missed something. The channel
// is closed when the context ends, and everything is freed by then.
func (k *Kernel) Watch(ctx context.Context) (<-chan struct{}, error) {
	sources := []*source{
		{k: k, protocol: unix.NETLINK_ROUTE, interesting: k.routeEvent, groups: bits(unix.RTNLGRP_LINK,
			unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
			unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)},
		{k: k, protocol: unix.NETLINK_NETFILTER, interesting: nftEvent, groups: bits(unix.NFNLGRP_NFTABLES)},
	}
	for i, s := range sources {
		if err := s.open(); err != nil {
			for _, opened := range sources[:i] {
				opened.file.Close()
			}
			return nil, err
		}
	}
	signal := make(chan struct{}, 1)
	var running sync.WaitGroup
	for _, s := range sources {
		running.Go(func() { s.run(ctx, signal) })
	}
	go func() {
		running.Wait()
		close(signal)
	}()
	return signal, nil
}

// bits is a mask of multicast groups, which are numbered from 1.
func bits(groups ...int) (mask uint32) {
	for _, g := range groups {
		mask |= 1 << (g - 1)
	}
	return mask
}

// source is one socket that gets notifications.
type source struct {
	k           *Kernel
	protocol    int
	groups      uint32
	interesting func(h header, body []byte) bool
	file        *os.File
}

func (s *source) open() error {
	return visit(s.k.netns, func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, s.protocol)
		if err != nil {
			return fmt.Errorf("open notification socket: %w", err)
		}
		if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: s.groups}); err != nil {
			unix.Close(fd)
			return fmt.Errorf("subscribe to notifications: %w", err)
		}
		s.file = os.NewFile(uintptr(fd), "netlink")
		return nil
	})
}

// run reads until the context ends. A socket that overflowed (ENOBUFS) goes on with what comes next; any other
// failure opens a new one. Either way something may have been missed, which is a signal of its own.
func (s *source) run(ctx context.Context, signal chan<- struct{}) {
	notify := func() {
		select {
		case signal <- struct{}{}:
		default: // one is waiting already
		}
	}
	for ctx.Err() == nil {
		err := s.read(ctx, notify)
		s.file.Close()
		if ctx.Err() != nil {
			return
		}
		s.k.log.Warn("kernel notifications failed, subscribing again", "err", err)
		for err := s.open(); err != nil; err = s.open() {
			select {
			case <-ctx.Done():
				return
			case <-time.After(reopenAfter):
			}
		}
		notify()
	}
	s.file.Close()
}

func (s *source) read(ctx context.Context, notify func()) error {
	stop := context.AfterFunc(ctx, func() { s.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, readBuf)
	for {
		n, err := s.file.Read(buf)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			notify()
			continue
		case err != nil:
			return err
		}
		found := false
		malformed := split(buf[:n], func(h header, body []byte) { found = found || s.interesting(h, body) })
		if found || malformed != nil {
			notify()
		}
	}
}

// routeEvent leaves out what this Kernel's own requests caused, the comings and goings of neighbours that are no
// rows of ours, and the local table, which follows addresses.
func (k *Kernel) routeEvent(h header, body []byte) bool {
	if h.port != 0 && k.isOwn(h.port) {
		return false
	}
	switch h.typ {
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		e, ok := parseNeighbour(body)
		if !ok || h.typ == unix.RTM_NEWNEIGH && e.state&(unix.NUD_PERMANENT|unix.NUD_FAILED) == 0 {
			return false
		}
		c, err := k.take()
		if err != nil {
			return true
		}
		defer k.give(c)
		return isPodLink(c.nameOf(e.index))
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		rt, _, ok := parseRtBody(body)
		return ok && rt.table != unix.RT_TABLE_LOCAL && rt.flags&unix.RTM_F_CLONED == 0
	}
	return true
}

// nftEvent picks what is about Polder's table: every nftables message but the generation's names its table first.
func nftEvent(h header, body []byte) bool {
	const nameOfTable = 1 // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, …
	if len(body) < 4 || h.typ&0xff == unix.NFT_MSG_NEWGEN || body[0] != unix.NFPROTO_INET {
		return false
	}
	for typ, v := range attributes(body[4:]) {
		if typ == nameOfTable {
			return text(v) == nftTable
		}
	}
	return false
}

func (k *Kernel) isOwn(port uint32) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ports[port]
}
