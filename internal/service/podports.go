package service

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// PodPort is a port of this node that leads to a pod of it. A Service that claims the same frontend has it.
type PodPort struct {
	Namespace, Pod string
	Frontend       Frontend // Addr: one of this node's, never unspecified
	Backend        Backend
}

// PodPorts are the ports of this node that lead to its pods. An unspecified address stands for the node's own in that
// family, and for its loopback; another must be one of them, or of more: what else the kernel takes for the node's. Of one
// pod's ports, one at an address goes before one at all.
func PodPorts(pods []cluster.LocalPod, node, more []netip.Addr) (ports []PodPort, problems []cluster.Problem) {
	loopbacks := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	for _, p := range pods {
		leads := map[Frontend]PodPort{}
		for _, h := range p.HostPorts {
			at := []netip.Addr{h.Addr}
			switch {
			case h.Addr.IsUnspecified():
				at = slices.Concat(node, loopbacks)
			case !h.Addr.IsLoopback() && !slices.Contains(node, h.Addr) && !slices.Contains(more, h.Addr):
				problems = append(problems, cluster.Problem{Object: "Pod/" + p.Namespace + "/" + p.Name, Message: fmt.Sprintf(
					"host port %s is not opened: the node has no such address", Frontend{h.Addr, h.Port, h.Protocol})})
				continue
			}
			own := slices.IndexFunc(p.Addresses, func(a netip.Addr) bool { return a.Is4() == h.Addr.Is4() })
			if own < 0 {
				continue
			}
			for _, a := range at {
				f := Frontend{a, h.Port, h.Protocol}
				if _, taken := leads[f]; a.Is4() == h.Addr.Is4() && !(taken && h.Addr.IsUnspecified()) {
					leads[f] = PodPort{p.Namespace, p.Name, f, Backend{p.Addresses[own], h.PodPort}}
				}
			}
		}
		ports = slices.AppendSeq(ports, maps.Values(leads))
	}
	return ports, problems
}

func (p PodPort) compare(other PodPort) int {
	return cmp.Or(p.Frontend.Compare(other.Frontend), cmp.Compare(p.Namespace, other.Namespace),
		cmp.Compare(p.Pod, other.Pod), p.Backend.Compare(other.Backend))
}

func (p PodPort) name() PortName {
	at := netip.AddrPortFrom(p.Frontend.Addr, p.Frontend.Port)
	return PortName{cluster.ServiceName{Namespace: p.Namespace, Name: p.Pod}, "hostPort/" + at.String(),
		p.Frontend.Protocol, p.Frontend.Addr.Is4()}
}

// hostKey is what a pod's port can be shadowed at: by a frontend of the same address, or by a node port.
type hostKey struct {
	port     uint16
	protocol cluster.Protocol
	ipv4     bool
}

func (f Frontend) hostKey() hostKey { return hostKey{f.Port, f.Protocol, f.Addr.Is4()} }

// hostPorts are the pods' ports by what can shadow them.
type hostPorts struct {
	ports    map[hostKey][]PodPort // sorted
	problems map[hostKey][]cluster.Problem
}

// SetPodPorts tells which ports of this node lead to pods: all of them.
func (t *Table) SetPodPorts(ports []PodPort) {
	old, next := t.hosts.ports, map[hostKey][]PodPort{}
	for _, p := range ports {
		key := p.Frontend.hostKey()
		next[key] = append(next[key], p)
	}
	for key, list := range next {
		slices.SortFunc(list, PodPort.compare)
		next[key] = slices.Compact(list)
	}
	t.hosts.ports = next
	for key, list := range old {
		if !slices.Equal(list, next[key]) {
			t.settle(key, list)
		}
	}
	for key := range next {
		if _, was := old[key]; !was {
			t.settle(key, nil)
		}
	}
}

// settleAround settles the pods' ports that a Service's frontends may shadow.
func (t *Table) settleAround(svc *cluster.Service) {
	if svc == nil || len(t.hosts.ports) == 0 {
		return
	}
	for f := range claims(t.self, svc) {
		if list := t.hosts.ports[f.hostKey()]; list != nil {
			t.settle(f.hostKey(), list)
		}
	}
}

// settle decides which of the pods' ports there are; old are those that there may have been.
func (t *Table) settle(key hostKey, old []PodPort) {
	have, rows := map[Frontend]PodPort{}, map[PortName]*Port{}
	var problems []cluster.Problem
	for _, p := range t.hosts.ports[key] {
		if why := t.denied(p, have); why != "" {
			problems = append(problems, cluster.Problem{Object: "Pod/" + p.Namespace + "/" + p.Pod,
				Message: fmt.Sprintf("host port %s is not opened: %s", p.Frontend, why)})
			continue
		}
		have[p.Frontend] = p
		rows[p.name()] = &Port{Name: p.name(), Frontends: map[Frontend]Kind{p.Frontend: HostPort}, Cluster: []Backend{p.Backend}}
	}
	for _, p := range slices.Concat(old, t.hosts.ports[key]) {
		t.put(p.name(), rows[p.name()])
	}
	delete(t.hosts.problems, key)
	if problems != nil {
		t.hosts.problems[key] = problems
	}
}

// denied says why a pod's port cannot be opened; have are those that are.
func (t *Table) denied(p PodPort, have map[Frontend]PodPort) string {
	everywhere := p.Frontend
	everywhere.Addr = netip.IPv6Unspecified()
	if p.Frontend.Addr.Is4() {
		everywhere.Addr = netip.IPv4Unspecified()
	}
	for _, f := range []Frontend{p.Frontend, everywhere} {
		if owner, ok := t.frontends.owners[f]; ok && t.blocked(f.Addr, owner) == "" {
			return fmt.Sprintf("Service %s has it as a %s", owner.svc.ServiceName, owner.kind)
		}
	}
	if other, taken := have[p.Frontend]; taken {
		return fmt.Sprintf("Pod %s/%s has it", other.Namespace, other.Pod)
	}
	if why := refusedAddr(p.Backend.Addr); why != "" {
		return fmt.Sprintf("it leads to %s: %s", p.Backend.Addr, why)
	}
	if p.Backend.Port == 0 {
		return fmt.Sprintf("it leads to port 0 of %s", p.Backend.Addr)
	}
	if p.Backend.Addr.Is4() != p.Frontend.Addr.Is4() {
		return fmt.Sprintf("it leads to %s, an address of another family", p.Backend.Addr)
	}
	return ""
}
