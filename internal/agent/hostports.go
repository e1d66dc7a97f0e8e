package agent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/service"
)

// A pod's host ports are recorded in a pinned map before its link is made, and until it is gone: where there is a link
// with a record, all of its ports are there. What clients meet are the frontends that the service table makes of them.

// takePorts records which ports of the node lead to a pod that is about to come: all or none.
func (a *Agent) takePorts(req api.Request, addrs []netip.Addr) ([]cluster.HostPort, *api.Error) {
	if len(req.PortMappings) == 0 {
		return nil, nil
	}
	if !a.cfg.Options.Services {
		return nil, &api.Error{Code: api.CodeUnsupported, Msg: fmt.Sprintf("unsupported field %q: %v", "runtimeConfig.portMappings", req.PortMappings),
			Details: "Services are off on this node: chain the portmap plugin"}
	}
	wanted, refusal := portsOf(req, addrs)
	if refusal == nil {
		refusal = a.refusePorts(req.HostLink(), wanted)
	}
	if refusal != nil {
		return nil, refusal
	}
	for f, h := range wanted {
		a.ports[f] = h
		if err := a.datapath.PutHostPort(f, h); err != nil {
			return nil, &api.Error{Code: api.CodeIO, Msg: errors.Join(err, a.dropPorts(req.HostLink())).Error()}
		}
	}
	return listPorts(wanted), nil
}

// portsOf are the rows for a request's port mappings: each leads to the pod's address of its family.
func portsOf(req api.Request, addrs []netip.Addr) (map[service.Frontend]datapath.HostPort, *api.Error) {
	rows := map[service.Frontend]datapath.HostPort{}
	for _, m := range req.PortMappings {
		hosts, found := []netip.Addr{m.HostIP}, false
		if !m.HostIP.IsValid() {
			hosts = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
		}
		for _, host := range hosts {
			own := slices.IndexFunc(addrs, func(a netip.Addr) bool { return a.Is4() == host.Is4() })
			if own < 0 {
				continue
			}
			found = true
			rows[service.Frontend{Addr: host, Port: m.HostPort, Protocol: m.Protocol}] = datapath.HostPort{
				Pod: netip.AddrPortFrom(addrs[own], m.ContainerPort), Link: req.HostLink()}
		}
		if !found {
			return nil, &api.Error{Code: api.CodeUnsupported, Msg: fmt.Sprintf("host port %s: the pod has no address of that family, only %v", m, addrs)}
		}
	}
	return rows, nil
}

// refusePorts says which of the ports another pod has. One whose link went without a DEL has none.
func (a *Agent) refusePorts(link string, wanted map[service.Frontend]datapath.HostPort) *api.Error {
	f, owner, taken := a.portTaken(link, wanted)
	if taken {
		if _, _, err := a.readPods(); err != nil {
			return &api.Error{Code: api.CodeIO, Msg: err.Error()}
		}
		f, owner, taken = a.portTaken(link, wanted)
	}
	if !taken {
		return nil
	}
	p := a.pods[owner]
	return &api.Error{Code: api.CodePortTaken, Msg: fmt.Sprintf("host port %s is taken", f),
		Details: fmt.Sprintf("container %s (pod %s/%s) on this node has it", p.ContainerID, p.Namespace, p.Name)}
}

func (a *Agent) portTaken(link string, wanted map[service.Frontend]datapath.HostPort) (f service.Frontend, owner string, taken bool) {
	for f := range wanted {
		for g, h := range a.ports {
			if h.Link != link && overlap(f, g) {
				return f, h.Link, true
			}
		}
	}
	return f, "", false
}

// overlap says whether two frontends may be one: an unspecified address is every one of its family.
func overlap(f, g service.Frontend) bool {
	return f.Port == g.Port && f.Protocol == g.Protocol && f.Addr.Is4() == g.Addr.Is4() &&
		(f.Addr == g.Addr || f.Addr.IsUnspecified() || g.Addr.IsUnspecified())
}

// withdrawPorts takes from clients the way to a pod that goes. The record stays until its link is gone: a DEL that is cut
// off in between leaves a whole pod.
func (a *Agent) withdrawPorts(p cluster.LocalPod) error {
	if len(p.HostPorts) == 0 {
		return nil
	}
	p.HostPorts = nil
	a.pods[p.Link] = p
	return a.servePorts()
}

// dropPorts deletes the record of a link's host ports. What cannot be deleted, the next sync finds without a link.
func (a *Agent) dropPorts(link string) error {
	var errs []error
	for f, h := range a.ports {
		if h.Link != link {
			continue
		}
		if err := a.datapath.DeleteHostPort(f); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(a.ports, f)
	}
	return errors.Join(errs...)
}

// dropLostPorts removes host ports whose link is gone, or is another pod's by now.
func (a *Agent) dropLostPorts() error {
	for f, h := range a.ports {
		if p, ok := a.pods[h.Link]; ok && (p.Damaged || slices.Contains(p.Addresses, h.Pod.Addr())) {
			continue
		}
		a.log.Info("removing host port whose pod is gone", "port", f, "link", h.Link)
		if err := a.datapath.DeleteHostPort(f); err != nil {
			return err
		}
		delete(a.ports, f)
	}
	return nil
}

// fillPorts fills in the host ports of pods that were read back.
func (a *Agent) fillPorts(pods []cluster.LocalPod) {
	byLink := map[string]map[service.Frontend]datapath.HostPort{}
	for f, h := range a.ports {
		if byLink[h.Link] == nil {
			byLink[h.Link] = map[service.Frontend]datapath.HostPort{}
		}
		byLink[h.Link][f] = h
	}
	for i, p := range pods {
		pods[i].HostPorts = listPorts(byLink[p.Link])
	}
}

func listPorts(rows map[service.Frontend]datapath.HostPort) (list []cluster.HostPort) {
	for f, h := range rows {
		list = append(list, cluster.HostPort{Addr: f.Addr, Port: f.Port, Protocol: f.Protocol, PodPort: h.Pod.Port()})
	}
	slices.SortFunc(list, func(a, b cluster.HostPort) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return list
}

// notePorts tells the service table which ports lead to pods.
func (a *Agent) notePorts() error {
	if !a.cfg.Options.Services {
		return nil
	}
	pods := slices.SortedFunc(maps.Values(a.pods), func(p, q cluster.LocalPod) int { return cmp.Compare(p.Link, q.Link) })
	asked := map[netip.Addr]bool{}
	for _, p := range pods {
		for _, h := range p.HostPorts {
			asked[h.Addr] = !h.Addr.IsUnspecified()
		}
	}
	maps.DeleteFunc(asked, func(_ netip.Addr, one bool) bool { return !one })
	more, err := a.kernel.Own(slices.Collect(maps.Keys(asked)))
	if err != nil {
		return err
	}
	var ports []service.PodPort
	ports, a.services.unopened = service.PodPorts(pods, a.self.Addresses, more)
	a.services.table.SetPodPorts(ports)
	return nil
}

// servePorts brings what clients meet to the host ports that there are now. Before the first sync the table knows nothing,
// and that sync does it.
func (a *Agent) servePorts() error {
	if !a.cfg.Options.Services || !a.synced {
		return nil
	}
	if err := a.notePorts(); err != nil {
		return err
	}
	changed := a.services.table.Changed()
	if len(changed) == 0 {
		return nil
	}
	_, _, err := a.writeServices(changed)
	return err
}

// checkPorts says which host port is not as ADD left it.
func (a *Agent) checkPorts(p cluster.LocalPod, req api.Request) error {
	wanted, refusal := portsOf(req, p.Addresses)
	if refusal != nil {
		return refusal
	}
	for f, h := range a.ports {
		if h.Link == p.Link {
			wanted[f] = h
		}
	}
	for f, h := range wanted {
		if have, ok, err := a.datapath.HostPort(f); err != nil || !ok || have != h {
			return fmt.Errorf("host port %s does not lead to %s", f, h.Pod)
		}
	}
	return nil
}
