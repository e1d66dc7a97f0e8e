package agent

import (
	"fmt"
	"net/netip"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/datapath"
)

// reserve is ADD of the IPAM plugin. Asked again, it answers the same; a family that is missing, since an agent was
// killed between the two or the node has got it meanwhile, is added.
func (a *Agent) reserve(req api.Request) api.Response {
	taken, refusal := a.take(a.reservedFor(req.Attachment)...)
	if refusal != nil {
		return api.Response{Error: refusal}
	}
	for i, addr := range taken {
		r := datapath.Reservation{Network: req.Network, ContainerID: req.ContainerID, Ifname: req.Ifname}
		if err := a.datapath.PutReservation(addr, r); err != nil {
			a.untake(taken[i:])
			a.release(req.Attachment)
			return refuse(api.CodeIO, err.Error())
		}
		a.reserved[addr] = r
	}
	var resp api.Response
	for _, addr := range a.reservedFor(req.Attachment) {
		pool := a.pools[addr.Is4()]
		if pool == nil || !pool.Prefix().Contains(addr) {
			continue // the node's pod CIDR has changed
		}
		resp.Addresses = append(resp.Addresses, api.Address{
			Prefix: netip.PrefixFrom(addr, pool.Prefix().Bits()), Gateway: pool.Gateway()})
	}
	return resp
}

// release is DEL of the IPAM plugin: fine when there is nothing to release.
func (a *Agent) release(at api.Attachment) api.Response {
	for _, addr := range a.reservedFor(at) {
		if err := a.free(addr); err != nil {
			return refuse(api.CodeIO, err.Error())
		}
	}
	return api.Response{}
}

// free cools an address that was held by a reservation, or just forgets one that is no longer ours to give.
func (a *Agent) free(addr netip.Addr) error {
	if pool := a.pools[addr.Is4()]; pool == nil || pool.Prefix().Contains(addr) {
		return a.cool(addr)
	}
	if err := a.datapath.DeleteReservation(addr); err != nil {
		return err
	}
	delete(a.reserved, addr)
	return nil
}

// checkReserved is CHECK of the IPAM plugin.
func (a *Agent) checkReserved(req api.Request) api.Response {
	addrs := a.reservedFor(req.Attachment)
	if len(addrs) == 0 {
		return refuse(api.CodeNotAsExpected, "no address is reserved for this attachment")
	}
	for _, addr := range addrs {
		if !hasAddress(req.Addresses, addr) {
			return refuse(api.CodeNotAsExpected, fmt.Sprintf("%s is reserved, but the result does not say so", addr))
		}
	}
	return api.Response{}
}

// reservedFor returns the addresses held for an attachment, IPv4 first.
func (a *Agent) reservedFor(at api.Attachment) []netip.Addr {
	var addrs []netip.Addr
	for addr, r := range a.reserved {
		if r.Freed == 0 && r.Network == at.Network && r.ContainerID == at.ContainerID && r.Ifname == at.Ifname {
			addrs = append(addrs, addr)
		}
	}
	if len(addrs) == 2 && addrs[1].Less(addrs[0]) {
		addrs[0], addrs[1] = addrs[1], addrs[0]
	}
	return addrs
}

func hasAddress(addrs []api.Address, addr netip.Addr) bool {
	for _, a := range addrs {
		if a.Prefix.Addr() == addr {
			return true
		}
	}
	return false
}
