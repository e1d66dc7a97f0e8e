package agent

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/netdev"
	"github.com/polder-net/polder/internal/route"
)

// answer serves one request, in the loop.
func (a *Agent) answer(req api.Request, netns *os.File) api.Response {
	if req.Verb == api.Report {
		return a.report()
	}
	if !a.synced {
		a.sync() // the cluster's state may have come a moment ago
	}
	if !a.synced && !needsNoCluster(req.Verb) {
		code := uint(api.CodeTryAgain)
		if req.Verb == api.Status {
			code = api.CodeNotAvailable
		}
		return refuse(code, a.whyNotSynced())
	}
	switch req.Verb {
	case api.Add:
		return a.add(req, netns)
	case api.Del:
		return a.del(req.Attachment)
	case api.Check:
		return a.check(req, netns)
	case api.GC:
		return a.gc(req)
	case api.Status:
		return a.cniStatus(req)
	case api.Reserve:
		return a.reserve(req)
	case api.Release:
		return a.release(req.Attachment)
	case api.Reserved:
		return a.checkReserved(req)
	}
	return refuse(api.CodeInternal, fmt.Sprintf("unknown verb %q", req.Verb))
}

func (a *Agent) whyNotSynced() string {
	if a.syncErr != nil {
		return a.syncErr.Error()
	}
	return "the agent has not read the cluster's state yet"
}

// needsNoCluster: taking away needs what the kernel says and nothing else, so that pods can end while no API server
// answers.
func needsNoCluster(v api.Verb) bool { return v == api.Del || v == api.Release || v == api.GC }

func refuse(code uint, msg string) api.Response {
	return api.Response{Error: &api.Error{Code: code, Msg: msg}}
}

// add makes a pod's link. Whatever fails, nothing of it stays.
func (a *Agent) add(req api.Request, netns *os.File) api.Response {
	if _, ok := a.pods[req.HostLink()]; ok {
		return refuse(api.CodeExists, fmt.Sprintf("%s of container %s has a link already: DEL it first", req.Ifname, req.ContainerID))
	}
	addrs, refusal := a.addressesFor(req)
	if refusal != nil {
		return api.Response{Error: refusal}
	}
	pod := cluster.LocalPod{
		Link: req.HostLink(), Network: req.Network, ContainerID: req.ContainerID, Ifname: req.Ifname,
		Namespace: req.PodNamespace, Name: req.PodName, Addresses: addrs, MTU: a.want.PodMTU, Shaped: req.Shaped,
	}
	made, err := a.kernel.CreatePod(pod, netns)
	if err != nil {
		a.untake(addrs)
		return refuse(createCode(err), err.Error())
	}
	if err := a.connect(made, netns, req.Routes); err != nil {
		a.undo(made)
		a.untake(addrs)
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
	for addr, e := range rows.Endpoints {
		if err := a.datapath.PutEndpoint(addr, e); err != nil {
			return err
		}
	}
	if err := a.kernel.ActivatePod(p, netns, podRoutes(routes)); err != nil {
		return err
	}
	if err := a.kernel.PutPod(rows.Routes, rows.Neighbours); err != nil {
		return err
	}
	p.Up = true
	a.remember(p, rows)
	return nil
}

func podRoutes(routes []api.Route) []netdev.Route {
	var out []netdev.Route
	for _, r := range routes {
		out = append(out, netdev.Route{Dst: r.Dst, Via: r.Via, MTU: r.MTU})
	}
	return out
}

// undo removes what connect made. Errors are not news: the next sync removes what is left.
func (a *Agent) undo(p cluster.LocalPod) {
	if err := a.disconnect(p); err != nil {
		a.log.Error("half-made link stays until the next sync", "link", p.Link, "err", err)
	}
}

// disconnect takes a pod off the network: nobody reaches it any more, then its link goes.
func (a *Agent) disconnect(p cluster.LocalPod) error {
	for _, addr := range p.Addresses {
		if err := a.datapath.DeleteEndpoint(addr); err != nil {
			return err
		}
	}
	if err := a.kernel.DeletePod(p.Link); err != nil {
		return err
	}
	a.datapath.Detach(desired.Hook{Link: p.Link, Program: desired.FromPod})
	a.forget(p)
	return nil
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
	p, ok := a.pods[at.HostLink()]
	if !ok {
		// An ADD that was cut off may have left a link that no record names.
		if err := a.kernel.DeletePod(at.HostLink()); err != nil {
			return refuse(api.CodeIO, err.Error())
		}
		return api.Response{}
	}
	if err := a.coolAll(p); err != nil {
		return refuse(api.CodeIO, err.Error())
	}
	if err := a.disconnect(p); err != nil {
		return refuse(api.CodeIO, err.Error())
	}
	return api.Response{}
}

// check looks at the kernel: link, addresses, routes, map entries and program are as ADD left them.
func (a *Agent) check(req api.Request, netns *os.File) api.Response {
	p, ok := a.pods[req.HostLink()]
	if !ok {
		return refuse(api.CodeUnknownContainer, fmt.Sprintf("container %s has no link %s", req.ContainerID, req.Ifname))
	}
	if err := a.checkResult(p, req); err != nil {
		return refuse(api.CodeNotAsExpected, err.Error())
	}
	if err := a.kernel.CheckPod(p, netns); err != nil {
		return refuse(api.CodeNotAsExpected, err.Error())
	}
	if err := a.kernel.CheckPodRows(p); err != nil {
		return refuse(api.CodeNotAsExpected, err.Error())
	}
	rows := route.CompilePod(a.self, p)
	for addr, want := range rows.Endpoints {
		if have, ok, err := a.datapath.Endpoint(addr); err != nil || !ok || have != want {
			return refuse(api.CodeNotAsExpected, fmt.Sprintf("the datapath does not know %s", addr))
		}
	}
	hook := desired.Hook{Link: p.Link, Program: desired.FromPod}
	if a.attachedBy(map[desired.Hook]int{hook: p.Index})[hook] == "missing" {
		return refuse(api.CodeNotAsExpected, fmt.Sprintf("program %s is not attached to %s", hook.Program, p.Link))
	}
	return api.Response{}
}

// checkResult compares the earlier result with the record.
func (a *Agent) checkResult(p cluster.LocalPod, req api.Request) error {
	for _, addr := range p.Addresses {
		if !hasAddress(req.Addresses, addr) {
			return fmt.Errorf("the link has %s, but the result does not say so", addr)
		}
	}
	if req.Host != nil && (req.Host.Name != p.Link || req.Host.MAC != macText(p.HostMAC)) {
		return fmt.Errorf("the link's host side is %s (%s), but the result says %s (%s)", p.Link, macText(p.HostMAC), req.Host.Name, req.Host.MAC)
	}
	if req.Pod != nil && req.Pod.MAC != macText(p.PodMAC) {
		return fmt.Errorf("the pod's MAC address is %s, but the result says %s", macText(p.PodMAC), req.Pod.MAC)
	}
	return nil
}

// gc removes every link, or every reservation, of the network that is not listed. It goes on past errors.
func (a *Agent) gc(req api.Request) api.Response {
	valid := map[api.Attachment]bool{}
	for _, at := range req.Valid {
		at.Network = req.Network
		valid[at] = true
	}
	var errs []error
	collect := func(at api.Attachment, remove func(api.Attachment) api.Response) {
		if at.Network != req.Network || valid[at] {
			return
		}
		a.log.Info("collecting what no attachment uses", "container", at.ContainerID, "ifname", at.Ifname)
		if resp := remove(at); resp.Error != nil {
			errs = append(errs, resp.Error)
		}
	}
	if req.IPAM {
		for _, r := range maps.Clone(a.reserved) {
			if r.Freed == 0 {
				collect(api.Attachment{Network: r.Network, ContainerID: r.ContainerID, Ifname: r.Ifname}, a.release)
			}
		}
	} else {
		for _, p := range maps.Clone(a.pods) {
			collect(api.Attachment{Network: p.Network, ContainerID: p.ContainerID, Ifname: p.Ifname}, a.del)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return refuse(api.CodeIO, err.Error())
	}
	return api.Response{}
}

// cniStatus says whether ADD would succeed now.
func (a *Agent) cniStatus(req api.Request) api.Response {
	if a.syncErr != nil {
		return api.Response{Error: &api.Error{Code: api.CodeLimited, Msg: "this node's network is not as it should be", Details: a.syncErr.Error()}}
	}
	if req.DelegatedIPAM {
		return api.Response{}
	}
	if len(a.pools) == 0 {
		return refuse(api.CodeNotAvailable, "this node has no pod CIDR")
	}
	for _, c := range a.poolCounts() {
		if c.Free+c.Cooling == 0 {
			return refuse(api.CodeNotAvailable, fmt.Sprintf("no free address in %s: %d are in use", c.CIDR, c.Used))
		}
	}
	return api.Response{}
}
