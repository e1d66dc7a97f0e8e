package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
)

// begin serves one request, in the loop. What takes long is done outside of it: putting together a long list, waiting for
// a pod's policies.
func (a *Agent) begin(ctx context.Context, req api.Request, netns *os.File) func() api.Response {
	switch req.Verb {
	case api.Services:
		return a.listServices(req.Services)
	case api.Drops:
		return a.listDrops(ctx, req.Drops)
	}
	resp := a.answer(req, netns)
	if p, ok := a.find(req.Attachment); ok && req.Verb == api.Add {
		return a.whenInForce(ctx, p, resp)
	}
	return func() api.Response { return resp }
}

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
		if req.Behind {
			return a.addBehind(req, netns)
		}
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
	case api.Trace:
		return a.trace(req.Trace)
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

// check looks at the kernel: link, addresses, routes, map entries and program are as ADD left them.
func (a *Agent) check(req api.Request, netns *os.File) api.Response {
	if req.Behind && !a.guardsOthers() {
		return api.Response{}
	}
	p, ok := a.find(req.Attachment)
	if !ok || p.Behind != req.Behind {
		return refuse(api.CodeUnknownContainer, fmt.Sprintf("container %s has no link %s", req.ContainerID, req.Ifname))
	}
	if err := a.checkResult(p, req); err != nil {
		return refuse(api.CodeNotAsExpected, err.Error())
	}
	if err := a.checkLink(p, req, netns); err != nil {
		return refuse(api.CodeNotAsExpected, err.Error())
	}
	rows := route.CompilePod(a.self, p)
	for addr, want := range rows.Endpoints {
		if have, ok, err := a.datapath.Endpoint(addr); err != nil || !ok || have != want {
			return refuse(api.CodeNotAsExpected, fmt.Sprintf("the datapath does not know %s", addr))
		}
	}
	hooks := map[desired.Hook]int{}
	for _, hook := range a.podHooks(p.Link) {
		hooks[hook] = p.Index
	}
	attached := a.attachedBy(hooks)
	for _, hook := range a.podHooks(p.Link) {
		if attached[hook] == "missing" {
			return refuse(api.CodeNotAsExpected, fmt.Sprintf("program %s is not attached to %s", hook.Program, p.Link))
		}
	}
	return api.Response{}
}

// checkLink looks at both ends of a pod's link, and at what leads to it.
func (a *Agent) checkLink(p cluster.LocalPod, req api.Request, netns *os.File) error {
	if p.Behind {
		return a.kernel.CheckBehind(p, netns)
	}
	if err := a.kernel.CheckPod(p, netns); err != nil {
		return err
	}
	return errors.Join(a.kernel.CheckPodRows(p), a.checkPorts(p, req))
}

// checkResult compares the earlier result with the record.
func (a *Agent) checkResult(p cluster.LocalPod, req api.Request) error {
	for _, addr := range p.Addresses {
		if !hasAddress(req.Addresses, addr) {
			return fmt.Errorf("the link has %s, but the result does not say so", addr)
		}
	}
	if req.Host != nil && !p.Behind && (req.Host.Name != p.Link || req.Host.MAC != macText(p.HostMAC)) {
		return fmt.Errorf("the link's host side is %s (%s), but the result says %s (%s)", p.Link, macText(p.HostMAC), req.Host.Name, req.Host.MAC)
	}
	if req.Pod != nil && (!p.Behind || req.Pod.MAC != "") && req.Pod.MAC != macText(p.PodMAC) {
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
	if a.off() && !req.IPAM && !a.guardsOthers() {
		return refuse(api.CodeNotAvailable, "the agent runs with --routing off: another CNI plugin connects pods")
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
