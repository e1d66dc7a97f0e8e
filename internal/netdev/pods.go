package netdev

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

// Pods lists the links that carry a pod record, sorted by name, and the names of links that look like a pod's but
// have none: additions that never finished.
//
// A record that someone overwrote does not unmake the pod: its addresses and interface are then read from its far
// end, and what only the record knew stays empty.
func (k *Kernel) Pods() (pods []cluster.LocalPod, unfinished []string, err error) {
	veths, err := k.links("veth")
	if err != nil {
		return nil, nil, err
	}
	veths = slices.DeleteFunc(veths, func(l link) bool { return !isPodLink(l.name) })
	slices.SortFunc(veths, func(a, b link) int { return cmp.Compare(a.name, b.name) })
	peers, err := k.peers(veths)
	if err != nil {
		return nil, nil, err
	}
	for i, l := range veths {
		if l.alias == "" && !l.up() { // the record is written before the link is up
			unfinished = append(unfinished, l.name)
			continue
		}
		if peers[i].index == 0 {
			continue // it went away while we looked
		}
		p, err := decodeRecord(l.alias)
		if err != nil || LinkName(p.Network, p.ContainerID, p.Ifname) != l.name {
			if p, err = k.recoverPod(l, peers[i]); err != nil {
				return nil, nil, err
			}
		}
		p = complete(p, l, peers[i].mac)
		p.MTU = min(l.mtu, peers[i].mtu) // they differ where an agent was killed between the two
		pods = append(pods, p)
	}
	return pods, unfinished, nil
}

// complete fills in what the links say, beside the record.
func complete(p cluster.LocalPod, host link, pod cluster.MAC) cluster.LocalPod {
	p.Link, p.Index, p.Up, p.MTU = host.name, host.index, host.up(), host.mtu
	p.HostMAC, p.PodMAC = host.mac, pod
	return p
}

// peers returns the far end of each link, the zero link where it is gone.
func (k *Kernel) peers(list []link) ([]link, error) {
	messages := make([]*message, len(list))
	for i, l := range list {
		if l.netnsID < 0 {
			messages[i] = getLink(l.peer)
		} else {
			messages[i] = getLinkAt(l.netnsID, l.peer)
		}
	}
	replies, err := k.batch(messages...)
	if err != nil {
		return nil, fmt.Errorf("read far ends of pod links: %w", err)
	}
	peers := make([]link, len(list))
	for i, r := range replies {
		l, err := r.link()
		switch {
		case err == nil:
			peers[i] = l
		case errors.Is(err, ErrNotFound), errors.Is(err, unix.EINVAL): // the link, or its namespace, is gone
		default:
			return nil, fmt.Errorf("read far end of %s: %w", list[i].name, err)
		}
	}
	return peers, nil
}

// recoverPod reads a pod from its far end.
func (k *Kernel) recoverPod(host, pod link) (cluster.LocalPod, error) {
	k.log.Warn("pod link has no valid record", "link", host.name, "record", host.alias)
	p := cluster.LocalPod{Ifname: pod.name}
	addrs, err := k.addressesAt(host.netnsID, pod.index)
	if err != nil {
		return p, fmt.Errorf("read addresses behind %s: %w", host.name, err)
	}
	for _, a := range addrs {
		p.Addresses = append(p.Addresses, a.Addr())
	}
	slices.SortFunc(p.Addresses, netip.Addr.Compare)
	return p, nil
}
