package netdev

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

// FindPod finds the link that leads to a pod's interface, which another plugin made, by what the kernel says of both
// ends. An interface without an end on this node, as macvlan's, is ErrNoEnd.
func (k *Kernel) FindPod(netns *os.File, ifname string) (cluster.LocalPod, error) {
	p := cluster.LocalPod{Ifname: ifname, Behind: true}
	var pod link
	err := inPod(netns, func(c *conn) (err error) {
		pod, err = c.linkNamed(ifname)
		return err
	})
	if err != nil {
		return p, fmt.Errorf("find interface %s in the pod: %w", ifname, err)
	}
	if pod.kind != "veth" {
		return p, fmt.Errorf("find link to interface %s, a %q: %w", ifname, pod.kind, ErrNoEnd)
	}
	replies, err := k.batch(getLink(pod.peer))
	if err != nil {
		return p, fmt.Errorf("find link to interface %s: %w", ifname, err)
	}
	host, err := replies[0].link()
	if err != nil {
		return p, fmt.Errorf("find link to interface %s: %w", ifname, errors.Join(ErrNoEnd, err))
	}
	far, err := k.peers([]link{host})
	if err != nil {
		return p, err
	}
	if host.kind != "veth" || host.peer != pod.index || far[0].name != pod.name || far[0].mac != pod.mac {
		return p, fmt.Errorf("find link to interface %s: link %s leads elsewhere: %w", ifname, host.name, ErrNoEnd)
	}
	return podLink{host, pod}.complete(p), nil
}

func (c *conn) linkNamed(name string) (link, error) {
	replies, err := c.batch([]*message{getLinkNamed(name)})
	if err != nil {
		return link{}, err
	}
	return replies[0].link()
}

// HasLink says whether there still is the link that had a name and an index.
func (k *Kernel) HasLink(name string, index int) (bool, error) {
	l, err := k.linkNamed(name)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find link %s: %w", name, err)
	}
	return l.index == index, nil
}

// ReleasePod takes the record off the link of a pod that is another plugin's. A link that is gone has none.
func (k *Kernel) ReleasePod(p cluster.LocalPod) error {
	has, err := k.HasLink(p.Link, p.Index)
	if err != nil || !has {
		return err
	}
	err = k.do(newMessage(unix.RTM_SETLINK, 0, linkBody(p.Index, 0, 0)).raw(unix.IFLA_IFALIAS, nil))
	if err != nil && !gone(err) {
		return fmt.Errorf("take record off %s: %w", p.Link, err)
	}
	return nil
}

// CheckBehind says whether the link of another plugin's pod is still the one that was taken over, with its record.
func (k *Kernel) CheckBehind(p cluster.LocalPod, netns *os.File) error {
	found, err := k.FindPod(netns, p.Ifname)
	if err != nil {
		return err
	}
	if found.Link != p.Link || found.Index != p.Index {
		return fmt.Errorf("check link %s: the pod is behind %s", p.Link, found.Link)
	}
	l, err := k.linkNamed(p.Link)
	if err != nil {
		return fmt.Errorf("check link %s: %w", p.Link, err)
	}
	record, err := decodeRecord(l.alias)
	if err != nil || record.ContainerID != p.ContainerID || !slices.Equal(record.Addresses, p.Addresses) {
		return fmt.Errorf("check link %s: its record says %q", p.Link, l.alias)
	}
	return nil
}
