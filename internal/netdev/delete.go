package netdev

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// DeletePod deletes a pod's link by the name of its host side, and with it everything that refers to it. It is no
// error when there is none. It returns as soon as both ends are gone from their namespaces.
func (k *Kernel) DeletePod(name string) error {
	if !isPodLink(name) {
		return fmt.Errorf("delete link %s: not a pod's: %w", name, ErrForeign)
	}
	l, err := k.linkNamed(name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return k.deleteLink(l.index, name)
}

// deleteLink deletes a link and waits until it is gone, but not for the call that deletes it: after the kernel took
// both ends off their lists, under the lock that all changes take, that call waits for an RCU grace period without
// it (netdev_run_todo, rcu_barrier), some 18 ms in which nobody can see the link any more.
func (k *Kernel) deleteLink(index int, name string) error {
	c, err := k.take()
	if err != nil {
		return err
	}
	answer := make(chan error, 1)
	k.deletions.Go(func() {
		answer <- firstError(c.batch([]*message{newMessage(unix.RTM_DELLINK, 0, linkBody(index, 0, 0))}))
		k.give(c)
	})
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 2*time.Millisecond) {
		pause(wait)
		select {
		case err := <-answer:
			if err != nil && !gone(err) {
				return fmt.Errorf("delete link %s: %w", name, err)
			}
			return nil
		default:
		}
		if replies, err := k.batch(getLink(index)); err != nil {
			return fmt.Errorf("delete link %s: %w", name, err)
		} else if _, err := replies[0].link(); errors.Is(err, ErrNotFound) {
			return nil
		}
	}
}
