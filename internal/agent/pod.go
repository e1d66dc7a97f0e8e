package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/netdev"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/route"
)

// add makes a pod's link. Whatever fails, nothing of it stays.
func (a *Agent) add(req api.Request, netns *os.File) api.Response {
	if a.off() {
		return refuse(api.CodeUnsupported, "the agent runs with --routing off: another CNI plugin connects pods")
	}
	if _, ok := a.pods[req.HostLink()]; ok {
		return refuse(api.CodeExists, fmt.Sprintf("%s of container %s has a link already: DEL it first", req.Ifname, req.ContainerID))
	}
	addrs, refusal := a.addressesFor(req)
	if refusal != nil {
		return api.Response{Error: refusal}
	}
	ports, refusal := a.takePorts(req, addrs)
	if refusal != nil {
		a.untake(addrs)
		return api.Response{Error: refusal}
	}
	pod := cluster.LocalPod{
		Link: req.HostLink(), Network: req.Network, ContainerID: req.ContainerID, Ifname: req.Ifname,
		Namespace: req.PodNamespace, Name: req.PodName, UID: cluster.HashUID(req.PodUID), Addresses: addrs, MTU: a.want.PodMTU, Shaped: req.Shaped,
		HostPorts: ports, Ingress: uint64(policy.Closed), Egress: uint64(policy.Closed),
	}
	made, err := a.kernel.CreatePod(pod, netns)
	if err != nil {
		err = errors.Join(err, a.dropPorts(pod.Link))
		a.untake(addrs)
		return refuse(createCode(err), err.Error())
	}
	a.pods[made.Link] = made
	made = a.settle(made)
	if err := a.connect(made, netns, req.Routes); err != nil {
		a.undo(made)
		return refuse(api.CodeIO, err.Error())
	}
	return addResponse(made, req)
}

func createCode(err error) uint {
	if errors.Is(err, netdev.ErrExists) || errors.Is(err, netdev.ErrAttached) {
		return api.CodeExists
	}
	return api.CodeIO
}

func (a *Agent) addressesFor(req api.Request) ([]netip.Addr, *api.Error) {
	if !req.DelegatedIPAM {
		return a.take()
	}
	var addrs []netip.Addr
	for _, d := range req.Addresses {
		addr := d.Prefix.Addr()
		if other, ok := a.owner(addr); ok {
			return nil, &api.Error{Code: api.CodeExists, Msg: fmt.Sprintf(
				"the IPAM plugin gave %s, which container %s has", addr, other)}
		}
		if cidr, ok := a.self.PodCIDR(addr.Is4()); req.Masquerade && !(ok && cidr.Contains(addr)) {
			return nil, &api.Error{Code: api.CodeUnsupported, Msg: fmt.Sprintf(
				"ipMasq true: the IPAM plugin gave %s, which is not of this node's pod CIDRs", addr)}
		}
		addrs = append(addrs, addr)
	}
	for _, addr := range addrs {
		if pool := a.pools[addr.Is4()]; pool != nil {
			pool.Hold(addr)
		}
	}
	return addrs, nil
}

// owner says which container has an address, on a link of ours or by our IPAM plugin.
func (a *Agent) owner(addr netip.Addr) (containerID string, ok bool) {
	for _, p := range a.pods {
		if slices.Contains(p.Holds(), addr) {
			return p.ContainerID, true
		}
	}
	r, ok := a.reserved[addr]
	return r.ContainerID, ok && r.Freed == 0
}

// connect makes a created link work: first the guard at its door, then the entries that make it reachable, then the
// link itself. The pod's first packet finds everything in place.
func (a *Agent) connect(p cluster.LocalPod, netns *os.File, routes []api.Route) error {
	if err := a.claim(p.Addresses); err != nil {
		return err
	}
	if err := a.attachPod(p); err != nil {
		return err
	}
	rows := route.CompilePod(a.self, p)
	if err := errors.Join(a.putEndpoints(rows), a.endpointsChanged()); err != nil {
		return err
	}
	if err := a.kernel.ActivatePod(p, netns, podRoutes(routes)); err != nil {
		return err
	}
	if err := a.kernel.PutPod(rows.Routes, rows.Neighbours); err != nil {
		return err
	}
	p.Up = true
	a.remember(p, rows)
	a.showPods()
	if len(p.HostPorts) == 0 {
		return nil
	}
	return a.servePorts()
}

func podRoutes(routes []api.Route) []netdev.Route {
	var out []netdev.Route
	for _, r := range routes {
		out = append(out, netdev.Route{Dst: r.Dst, Via: r.Via, MTU: r.MTU})
	}
	return out
}

// undo removes what connect made, and gives back its addresses if the link is gone. Errors are not news: the next sync
// removes what is left of a pod that is gone, and DEL the rest.
func (a *Agent) undo(p cluster.LocalPod) {
	if err := a.disconnect(p); err != nil {
		a.log.Error("parts of a half-made link stay", "link", p.Link, "err", err)
	}
	if _, stays := a.pods[p.Link]; !stays {
		a.untake(p.Holds())
	}
}

// disconnect takes a pod off the network: nobody is led to it, then nobody reaches it any more, then its link goes. The link goes also when an
// entry cannot be deleted: the next sync does that, and until then it leads nowhere.
func (a *Agent) disconnect(p cluster.LocalPod) error {
	errs := []error{a.withdrawPorts(p)}
	for _, addr := range p.Addresses {
		errs = append(errs, a.datapath.DeleteEndpoint(addr))
	}
	errs = append(errs, a.endpointsChanged())
	remove := func() error { return a.kernel.DeletePod(p.Link) }
	if p.Behind {
		remove = func() error { return a.kernel.ReleasePod(p) }
	}
	if err := remove(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, hook := range a.podHooks(p.Link) {
		a.datapath.Detach(hook)
	}
	a.forget(p)
	a.leave(p.Link)
	return errors.Join(append(errs, a.dropPorts(p.Link))...)
}

func addResponse(p cluster.LocalPod, req api.Request) api.Response {
	resp := api.Response{
		Host: &api.Interface{Name: p.Link, MAC: macText(p.HostMAC), MTU: p.MTU},
		Pod:  &api.Interface{Name: p.Ifname, MAC: macText(p.PodMAC), MTU: p.MTU},
	}
	for _, addr := range p.Addresses {
		resp.Addresses = append(resp.Addresses, api.Address{
			Prefix: netip.PrefixFrom(addr, addr.BitLen()), Gateway: netdev.Gateway(addr.Is4())})
		resp.Routes = append(resp.Routes, api.Route{Dst: defaultRoute(addr.Is4()), Via: netdev.Gateway(addr.Is4())})
	}
	resp.Routes = append(resp.Routes, req.Routes...)
	return resp
}

func defaultRoute(ipv4 bool) netip.Prefix {
	if ipv4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func macText(m cluster.MAC) string { return net.HardwareAddr(m[:]).String() }

// del removes a pod's link. Nothing there is fine: it is what the caller wants.
func (a *Agent) del(at api.Attachment) api.Response {
	p, ok := a.find(at)
	if !ok {
		// An ADD that was cut off may have left a link that no record names.
		if err := errors.Join(a.kernel.DeletePod(at.HostLink()), a.dropPorts(at.HostLink())); err != nil {
			return refuse(api.CodeIO, err.Error())
		}
		return api.Response{}
	}
	if err := a.coolAll(p); err != nil {
		return refuse(api.CodeIO, err.Error())
	}
	if err := a.disconnect(p); err != nil {
		if _, stays := a.pods[p.Link]; stays {
			a.hold(p)
		}
		return refuse(api.CodeIO, err.Error())
	}
	return api.Response{}
}
