package netdev

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/route"
)

// Tunnel returns the index of the tunnel device, 0 while there is none that works as one.
func (k *Kernel) Tunnel() (index int, err error) {
	l, err := k.linkNamed(route.TunnelName)
	switch {
	case errors.Is(err, ErrNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read link %s: %w", route.TunnelName, err)
	case l.kind != "vxlan" || !l.vxlan.external:
		return 0, nil
	}
	return l.index, nil
}

// SyncTunnel makes the tunnel device the one that is wanted: none with nil. What a VXLAN device is created with can
// never be changed, so one that differs in that is deleted and made again, under a new index.
func (k *Kernel) SyncTunnel(want *route.TunnelDevice) ([]Change, error) {
	changes, err := k.syncTunnel(want)
	if err != nil {
		return changes, fmt.Errorf("sync link %s: %w", route.TunnelName, err)
	}
	return changes, nil
}

func (k *Kernel) syncTunnel(want *route.TunnelDevice) (changes []Change, err error) {
	have, err := k.linkNamed(route.TunnelName)
	exists := err == nil
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	change := Change{"tunnel", route.TunnelName, "add"}
	if exists && (want == nil || !isTunnel(have, *want)) {
		if err := k.deleteLink(have.index, have.name); err != nil {
			return nil, err
		}
		change.Verb = "replace"
		changes = []Change{{"tunnel", route.TunnelName, "delete"}}
		exists = false
	}
	if want == nil {
		return changes, nil
	}
	if !exists {
		if have, err = k.createTunnel(*want); err != nil {
			return changes, err
		}
		changes = []Change{change}
	}
	adjust := k.adjustTunnel(have, *want)
	if len(adjust) == 0 {
		return changes, nil
	}
	if err := k.do(adjust...); err != nil {
		return changes, err
	}
	if exists {
		changes = append(changes, Change{"tunnel", route.TunnelName, "replace"})
	}
	return changes, nil
}

// isTunnel says whether a link was created as the tunnel device is.
func isTunnel(l link, want route.TunnelDevice) bool {
	return l.kind == "vxlan" && l.vxlan == vxlan{port: want.Port, external: true}
}

// createTunnel makes the device, down. Each packet carries its own destination (collect metadata), set by the
// datapath; so one device serves all nodes, and the device learns nothing.
func (k *Kernel) createTunnel(want route.TunnelDevice) (link, error) {
	create := newMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, linkBody(0, 0, 0)).
		text(unix.IFLA_IFNAME, route.TunnelName).raw(unix.IFLA_ADDRESS, want.MAC[:]).
		u32(unix.IFLA_MTU, uint32(want.MTU)).
		nest(unix.IFLA_LINKINFO, func(m *message) {
			m.text(unix.IFLA_INFO_KIND, "vxlan")
			m.nest(unix.IFLA_INFO_DATA, func(m *message) {
				m.u8(unix.IFLA_VXLAN_COLLECT_METADATA, 1).u8(unix.IFLA_VXLAN_LEARNING, 0)
				m.be16(unix.IFLA_VXLAN_PORT, want.Port)
			})
		})
	replies, err := k.batch(create, getLinkNamed(route.TunnelName))
	if err := firstError(replies, err); err != nil {
		return link{}, err
	}
	return replies[1].link()
}

// adjustTunnel lists what makes a tunnel device that exists the one that is wanted. The mode of IPv6 addresses comes
// before the device is up: going up is what would make one.
func (k *Kernel) adjustTunnel(have link, want route.TunnelDevice) []*message {
	const flags = unix.IFF_UP | unix.IFF_NOARP
	var list []*message
	set := func() *message { return newMessage(unix.RTM_SETLINK, 0, linkBody(have.index, 0, 0)) }
	if k.ipv6 && !have.noAddr6 {
		list = append(list, set().nest(unix.IFLA_AF_SPEC, func(m *message) {
			m.nest(unix.AF_INET6, func(m *message) { m.u8(unix.IFLA_INET6_ADDR_GEN_MODE, addrGenNone) })
		}))
	}
	if have.mtu != want.MTU {
		list = append(list, set().u32(unix.IFLA_MTU, uint32(want.MTU)))
	}
	if have.mac != want.MAC {
		list = append(list, set().raw(unix.IFLA_ADDRESS, want.MAC[:]))
	}
	if have.flags&flags != flags {
		list = append(list, newMessage(unix.RTM_SETLINK, 0, linkBody(have.index, flags, flags)))
	}
	return slices.Clip(list)
}
