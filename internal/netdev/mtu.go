package netdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

// minMTU6 is the least MTU at which the kernel speaks IPv6 on a link. Below it, it forgets the link's addresses, and
// its IPv6 sysctls with them.
const minMTU6 = 1280

// SetPodMTU changes the MTU of both ends of a pod's link, or of neither. The kernel shows links of another namespace
// through its id, but changes them only from a socket inside; so the namespace is looked for as PodNamespaces does.
//
// A packet that is larger than the receiving end's MTU is dropped there without a word; so a smaller MTU is set on
// the pod's end first, which sends, and a larger one on the host's end first, which receives.
func (k *Kernel) SetPodMTU(p cluster.LocalPod, mtu int) error {
	if err := k.setPodMTU(p, mtu); err != nil {
		return fmt.Errorf("set MTU of %s to %d: %w", p.Link, mtu, err)
	}
	return nil
}

func (k *Kernel) setPodMTU(p cluster.LocalPod, mtu int) error {
	if mtu < minMTU6 && hasIPv6(p) {
		return fmt.Errorf("the pod has the address %v, and IPv6 needs %d: %w", p.Addresses, minMTU6, unix.EINVAL)
	}
	host, err := k.linkNamed(p.Link)
	if err != nil {
		return err
	}
	pod, err := k.openPeer(host)
	if err != nil {
		return err
	}
	defer pod.Close()
	return visit(pod, func() error {
		c, err := dial()
		if err != nil {
			return err
		}
		defer c.close()
		near := func(mtu int) error { return k.do(setMTU(host.index, mtu)) }
		far := func(mtu int) error { return firstError(c.batch([]*message{setMTU(host.peer, mtu)})) }
		first, then := near, far
		if mtu < host.mtu {
			first, then = far, near
		}
		if err := first(mtu); err != nil {
			return err
		}
		if err := then(mtu); err != nil {
			return errors.Join(err, first(host.mtu))
		}
		if host.mtu < minMTU6 && mtu >= minMTU6 && k.ipv6 { // the pod has no IPv6 address, see above
			return errors.Join(writeLinkSysctls(p.Ifname, false),
				visit(k.netns, func() error { return writeLinkSysctls(p.Link, false) }))
		}
		return nil
	})
}

func setMTU(index, mtu int) *message {
	return newMessage(unix.RTM_SETLINK, 0, linkBody(index, 0, 0)).u32(unix.IFLA_MTU, uint32(mtu))
}

// openPeer opens the namespace of a link's far end.
func (k *Kernel) openPeer(host link) (*os.File, error) {
	if host.netnsID < 0 {
		return nil, errors.New("its far end is in this namespace")
	}
	pod, err := k.openNamespace(host.netnsID)
	if err != nil {
		return nil, err
	}
	if pod == nil {
		return nil, errors.New("the pod's network namespace is neither mounted nor any process's")
	}
	return pod, nil
}
