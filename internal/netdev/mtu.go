package netdev

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

// SetPodMTU changes the MTU of both ends of a pod's link. The kernel reads links of another namespace through its id,
// but changes them only from a socket inside, so the namespace is looked for as PodNamespaces does.
//
// A packet that is larger than the receiving end's MTU is dropped there without a word; so a smaller MTU is set on
// the pod's end first, which sends, and a larger one on the host's end first, which receives.
func (k *Kernel) SetPodMTU(p cluster.LocalPod, mtu int) error {
	host, err := k.linkNamed(p.Link)
	if err != nil {
		return fmt.Errorf("set MTU of %s: %w", p.Link, err)
	}
	ends := []func() error{
		func() error { return k.do(setMTU(host.index, mtu)) },
		func() error { return k.setFarMTU(host, mtu) },
	}
	if mtu < host.mtu {
		ends[0], ends[1] = ends[1], ends[0]
	}
	for _, set := range ends {
		if err := set(); err != nil {
			return fmt.Errorf("set MTU of %s to %d: %w", p.Link, mtu, err)
		}
	}
	return nil
}

func setMTU(index, mtu int) *message {
	return newMessage(unix.RTM_SETLINK, 0, linkBody(index, 0, 0)).u32(unix.IFLA_MTU, uint32(mtu))
}

func (k *Kernel) setFarMTU(host link, mtu int) error {
	if host.netnsID < 0 {
		return k.do(setMTU(host.peer, mtu))
	}
	peers, err := k.peers([]link{host})
	if err != nil || peers[0].mtu == mtu {
		return err
	}
	netns, err := k.openNamespace(host.netnsID)
	if err != nil {
		return err
	}
	if netns == nil {
		return errors.New("the pod's network namespace is neither mounted nor any process's")
	}
	defer netns.Close()
	return inPod(netns, func(c *conn) error {
		return firstError(c.batch([]*message{setMTU(host.peer, mtu)}))
	})
}
