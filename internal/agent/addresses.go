package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/ipam"
)

// syncPools keeps one pool for each of the node's pod CIDRs, and ends the reservations that have cooled down.
func (a *Agent) syncPools() error {
	now, err := datapath.SinceBoot()
	if err != nil {
		return err
	}
	for addr, r := range a.reserved {
		if r.Freed == 0 || r.Freed > 0 && r.Freed <= now && now-r.Freed < ipam.Cooldown { // not even the future is for ever
			continue
		}
		if err := a.datapath.DeleteReservation(addr); err != nil {
			return err
		}
		delete(a.reserved, addr)
	}
	for _, ipv4 := range []bool{true, false} {
		prefix, ok := a.self.PodCIDR(ipv4)
		switch pool := a.pools[ipv4]; {
		case !ok:
			delete(a.pools, ipv4)
		case pool == nil || pool.Prefix() != prefix:
			a.pools[ipv4] = a.newPool(prefix)
		}
	}
	return nil
}

// newPool is the pool of a prefix as the kernel says it is used.
func (a *Agent) newPool(prefix netip.Prefix) *ipam.Pool {
	pool := ipam.NewPool(prefix)
	for addr, r := range a.reserved {
		if r.Freed == 0 {
			pool.Hold(addr)
		} else {
			pool.Cool(addr, r.Freed)
		}
	}
	for _, p := range a.pods {
		for _, addr := range p.Holds() {
			pool.Hold(addr)
		}
	}
	return pool
}

// take picks an address of every family that the node has a pod CIDR for, besides those of the addresses that the
// caller has already: all or none.
func (a *Agent) take(has ...netip.Addr) ([]netip.Addr, *api.Error) {
	if len(a.pools) == 0 {
		return nil, &api.Error{Code: api.CodeTryAgain, Msg: "this node has no pod CIDR yet", Details: "see polder status"}
	}
	var taken []netip.Addr
	for _, ipv4 := range []bool{true, false} {
		pool := a.pools[ipv4]
		if pool == nil || slices.ContainsFunc(has, pool.Prefix().Contains) {
			continue
		}
		addr, err := a.takeFrom(pool)
		if err != nil {
			a.untake(taken)
			if errors.Is(err, ipam.ErrExhausted) {
				return nil, &api.Error{Code: api.CodeTryAgain, Msg: fmt.Sprintf("no free address in %s", pool.Prefix())}
			}
			return nil, &api.Error{Code: api.CodeIO, Msg: err.Error()}
		}
		taken = append(taken, addr)
	}
	return taken, nil
}

// takeFrom steps over addresses that somebody else uses on this node, whoever told them to.
func (a *Agent) takeFrom(pool *ipam.Pool) (netip.Addr, error) {
	now, err := datapath.SinceBoot()
	if err != nil {
		return netip.Addr{}, err
	}
	var skipped []netip.Addr
	defer func() { a.untake(skipped) }()
	for {
		addr, err := pool.Take(now)
		if err != nil {
			return addr, err
		}
		foreign, err := a.kernel.Foreign(addr)
		if err != nil {
			skipped = append(skipped, addr)
			return addr, err
		}
		if foreign == "" {
			return addr, nil
		}
		a.log.Warn("address is used by somebody else", "addr", addr, "by", foreign)
		skipped = append(skipped, addr)
	}
}

// untake gives back addresses that nobody has used. One that cooled when it was taken goes on cooling.
func (a *Agent) untake(addrs []netip.Addr) {
	for _, addr := range addrs {
		pool := a.pools[addr.Is4()]
		if pool == nil {
			continue
		}
		if r, ok := a.reserved[addr]; ok && r.Freed != 0 {
			pool.Cool(addr, r.Freed)
		} else {
			pool.Release(addr)
		}
	}
}

// notePods takes over which pods there are. Of one whose link went without a DEL, with its namespace or by a foreign
// hand, the addresses cool; those of one that was not known are taken.
func (a *Agent) notePods(pods []cluster.LocalPod) error {
	before := a.pods
	a.setPods(pods)
	for link, p := range a.pods {
		if _, ok := before[link]; ok {
			continue
		}
		a.hold(p)
	}
	for link, p := range before {
		if _, ok := a.pods[link]; ok {
			continue
		}
		a.log.Info("pod's link went without a DEL", "link", link, "container", p.ContainerID, "ns", p.Namespace, "pod", p.Name)
		if err := a.coolAll(p); err != nil {
			a.pods = before // the next sync finds it missing again
			return err
		}
	}
	return nil
}

// hold keeps a pod's addresses from others.
func (a *Agent) hold(p cluster.LocalPod) {
	for _, addr := range p.Holds() {
		if pool := a.pools[addr.Is4()]; pool != nil {
			pool.Hold(addr)
		}
	}
}

// coolAll frees the addresses of a pod that goes, but for those that another has: they can be of two where one's
// record is damaged.
func (a *Agent) coolAll(p cluster.LocalPod) error {
	for _, addr := range p.Holds() {
		if a.heldBesides(p.Link, addr) {
			continue
		}
		if err := a.cool(addr); err != nil {
			return err
		}
	}
	return nil
}

// heldBesides says whether anybody but a link's pod has an address.
func (a *Agent) heldBesides(link string, addr netip.Addr) bool {
	for _, p := range a.pods {
		if p.Link != link && slices.Contains(p.Holds(), addr) {
			return true
		}
	}
	r, ok := a.reserved[addr]
	return ok && r.Freed == 0
}

// cool frees an address that was used: in the pinned map first, since that is what survives.
func (a *Agent) cool(addr netip.Addr) error {
	pool := a.pools[addr.Is4()]
	if pool != nil && !pool.Prefix().Contains(addr) {
		return nil // a delegated plugin's
	}
	now, err := datapath.SinceBoot()
	if err != nil {
		return err
	}
	r := datapath.Reservation{Freed: now}
	if err := a.datapath.PutReservation(addr, r); err != nil {
		return err
	}
	a.reserved[addr] = r
	if pool != nil { // else the cluster has not been read yet, and the pool will begin with what is reserved
		pool.Cool(addr, now)
	}
	return nil
}

// claim ends the cooling of an address that a pod of ours has from now on.
func (a *Agent) claim(addrs []netip.Addr) error {
	for _, addr := range addrs {
		if _, ok := a.reserved[addr]; !ok {
			continue
		}
		if err := a.datapath.DeleteReservation(addr); err != nil {
			return err
		}
		delete(a.reserved, addr)
	}
	return nil
}
