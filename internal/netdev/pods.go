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

// podLink is a link under a pod's name, or with the record of a pod that is another plugin's: the host's end, and the
// far one.
type podLink struct{ host, pod link }

// Pods lists the pods' links, sorted by name, and the names of links that look like a pod's but have no record yet:
// additions that never finished. The links of another plugin's pods are known by their records, whatever their names.
//
// A record that someone overwrote does not unmake the pod: what the kernel knows of it is listed, marked as damaged.
func (k *Kernel) Pods() (pods []cluster.LocalPod, unfinished []string, err error) {
	links, err := k.podLinks()
	if err != nil {
		return nil, nil, err
	}
	known := map[netip.Addr]bool{} // by a record
	var damaged []podLink
	for _, l := range links {
		p, err := decodeRecord(l.host.alias)
		if err != nil || p.Behind == isPodLink(l.host.name) || !p.Behind && LinkName(p.Network, p.ContainerID, p.Ifname) != l.host.name {
			damaged = append(damaged, l)
			continue
		}
		for _, a := range p.Addresses {
			known[a] = true
		}
		pods = append(pods, l.complete(p))
	}
	for _, l := range damaged {
		p, err := k.recoverPod(l, known)
		switch {
		case errors.Is(err, ErrNotFound): // it went away while we looked
		case err != nil:
			return nil, nil, err
		case l.host.alias == "" && !l.host.up() && len(p.Holds()) == 0: // the record comes before all that
			unfinished = append(unfinished, l.host.name)
		default:
			pods = append(pods, l.complete(p))
		}
	}
	slices.SortFunc(pods, func(a, b cluster.LocalPod) int { return cmp.Compare(a.Link, b.Link) })
	return pods, unfinished, nil
}

// podLinks lists the links under pods' names, whatever their records say, and those that another plugin's pods have.
func (k *Kernel) podLinks() ([]podLink, error) {
	veths, err := k.links("veth")
	if err != nil {
		return nil, err
	}
	veths = slices.DeleteFunc(veths, func(l link) bool { return !isPodLink(l.name) && !isBehindRecord(l.alias) })
	peers, err := k.peers(veths)
	if err != nil {
		return nil, err
	}
	var list []podLink
	for i, l := range veths {
		if peers[i].index != 0 { // else it went away while we looked
			list = append(list, podLink{l, peers[i]})
		}
	}
	return list, nil
}

// complete fills in what the links say, beside the record.
func (l podLink) complete(p cluster.LocalPod) cluster.LocalPod {
	p.Link, p.Index, p.Up = l.host.name, l.host.index, l.host.up()
	p.HostMAC, p.PodMAC = l.host.mac, l.pod.mac
	p.MTU = min(l.host.mtu, l.pod.mtu) // they differ where an agent was killed between the two
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

// recoverPod reads a pod whose record is damaged from what else the kernel knows. Its addresses are those that Polder's
// own routes lead to the link; where there are none, as after the link was down, those that its far end has. A
// far end's other addresses may be the pod's own making: they are held, and not delivered to. An address that
// another pod's record names is that pod's.
func (k *Kernel) recoverPod(l podLink, known map[netip.Addr]bool) (cluster.LocalPod, error) {
	p := cluster.LocalPod{Ifname: l.pod.name, Damaged: true, Behind: !isPodLink(l.host.name)}
	prefixes, err := k.addressesAt(l.host.netnsID, l.pod.index)
	switch {
	case err != nil && (gone(err) || errors.Is(err, unix.EINVAL)): // the link, or its namespace
		return p, ErrNotFound
	case err != nil:
		return p, fmt.Errorf("read addresses behind %s: %w", l.host.name, err)
	}
	led, err := k.deliveredTo(l.host.index)
	if err != nil {
		return p, fmt.Errorf("read routes to %s: %w", l.host.name, err)
	}
	p.Addresses = slices.DeleteFunc(led, func(a netip.Addr) bool { return known[a] })
	for _, own := range prefixes {
		if a := own.Addr(); (own.IsSingleIP() || p.Behind) && isPodAddress(a) && !a.IsLinkLocalUnicast() && !known[a] && !slices.Contains(p.Addresses, a) {
			p.Held = append(p.Held, a)
		}
	}
	if len(p.Addresses) == 0 {
		p.Addresses, p.Held = p.Held, nil
	}
	slices.SortFunc(p.Addresses, netip.Addr.Compare)
	return p, nil
}
