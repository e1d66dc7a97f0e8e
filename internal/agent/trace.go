package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/service"
)

// tracing is one trace: who asks, what for, and what the datapath makes of it.
type tracing struct {
	a        *Agent
	protocol cluster.Protocol
	node     bool              // the client is the node itself
	pod      *cluster.LocalPod // nil: the client is no pod of this node
	inside   bool
	src      netip.Addr // zero: the node, by whatever address of its own

	dst  netip.AddrPort
	port *service.Port // nil: the destination is no Service's
	kind service.Kind
}

// errTrace is a question that has no answer.
type errTrace string

func (e errTrace) Error() string { return string(e) }

func unclear(format string, args ...any) error { return errTrace(fmt.Sprintf(format, args...)) }

// trace answers the verb Trace.
func (a *Agent) trace(req *api.TraceRequest) api.Response {
	t := tracing{a: a, protocol: cluster.TCP}
	if req.UDP {
		t.protocol = cluster.UDP
	}
	err := t.resolve(req)
	var report api.TraceReport
	if err == nil {
		report, err = t.run()
	}
	var question errTrace
	switch {
	case errors.As(err, &question):
		return refuse(api.CodeNoSuch, err.Error())
	case err != nil:
		return refuse(api.CodeIO, err.Error())
	}
	body, err := json.Marshal(report)
	if err != nil {
		return refuse(api.CodeInternal, "encode report: "+err.Error())
	}
	return api.Response{Report: body}
}

func (t *tracing) resolve(req *api.TraceRequest) error {
	sources, err := t.client(req.From)
	if err != nil {
		return err
	}
	targets, err := t.targets(req.To, req.Port)
	if err != nil {
		return err
	}
	for _, to := range targets {
		i := slices.IndexFunc(sources, func(s netip.Addr) bool { return s.Is4() == to.Addr().Is4() })
		if i < 0 && !t.node {
			continue
		}
		if t.dst = to; !t.node {
			t.src = sources[i]
		}
		t.findFrontend()
		return t.needPort(req.Port)
	}
	return unclear("%s has no address of a family that %s has", req.From, req.To)
}

// client finds out who asks, and its addresses.
func (t *tracing) client(from api.Party) ([]netip.Addr, error) {
	switch {
	case from.Node, slices.Contains(t.a.self.Addresses, from.Address):
		t.node, t.inside = true, true
		return t.a.self.Addresses, nil
	case from.Name != "":
		for _, p := range t.a.pods {
			if p.Namespace == from.Namespace && p.Name == from.Name {
				t.pod, t.inside = &p, true
				return p.Addresses, nil
			}
		}
		return nil, unclear("there is no pod %s on this node: 'polder pods' lists those that are", from)
	}
	for _, p := range t.a.pods {
		if slices.Contains(p.Addresses, from.Address) {
			t.pod, t.inside = &p, true
			return []netip.Addr{from.Address}, nil
		}
	}
	for _, p := range t.a.self.PodCIDRs {
		if p.Contains(from.Address) {
			return nil, unclear("no pod of this node has %s", from.Address)
		}
	}
	remote, ok := t.remote(from.Address)
	t.inside = ok && !remote.Host // a pod elsewhere
	return []netip.Addr{from.Address}, nil
}

// targets lists what the other end may be: addresses of a Service's port, or of a pod, IPv4 first.
func (t *tracing) targets(to api.Party, port string) ([]netip.AddrPort, error) {
	if to.Address.IsValid() {
		number, err := portNumber(port)
		return []netip.AddrPort{netip.AddrPortFrom(to.Address, number)}, err
	}
	if list, err := t.serviceTargets(cluster.ServiceName{Namespace: to.Namespace, Name: to.Name}, port); len(list) > 0 || err != nil {
		return list, err
	}
	number, err := portNumber(port)
	if err != nil {
		return nil, err
	}
	var list []netip.AddrPort
	for _, a := range t.podAddresses(to) {
		list = append(list, netip.AddrPortFrom(a, number))
	}
	if len(list) == 0 {
		return nil, unclear("there is no Service %s that this node serves, nor a pod that it knows", to)
	}
	return list, nil
}

func portNumber(port string) (uint16, error) {
	if port == "" {
		return 0, nil
	}
	at, err := netip.ParseAddrPort("0.0.0.0:" + port)
	if err != nil {
		return 0, unclear("port %q is no number: only the ports of a Service that is named have names", port)
	}
	return at.Port(), nil
}

func (t *tracing) podAddresses(to api.Party) []netip.Addr {
	for _, p := range t.a.pods {
		if p.Namespace == to.Namespace && p.Name == to.Name {
			return p.Addresses
		}
	}
	for _, p := range t.a.snapshot.Pods {
		if p.Namespace == to.Namespace && p.Name == to.Name {
			return p.Addresses
		}
	}
	return nil
}

// serviceTargets lists the cluster IPs of a Service, at the port that is asked for by name or number.
func (t *tracing) serviceTargets(name cluster.ServiceName, port string) ([]netip.AddrPort, error) {
	var list []netip.AddrPort
	var have []string
	for _, p := range t.servicePorts() {
		if p.Name.ServiceName != name {
			continue
		}
		for f, kind := range p.Frontends {
			number := fmt.Sprint(f.Port)
			if kind != service.ClusterIP {
				continue
			}
			have = append(have, strings.TrimPrefix(p.Name.Port+":", ":")+number+"/"+p.Name.Protocol.String())
			if p.Name.Protocol == t.protocol && (port == "" || port == number || port == p.Name.Port) {
				list = append(list, netip.AddrPortFrom(f.Addr, f.Port))
			}
		}
	}
	slices.SortFunc(list, netip.AddrPort.Compare)
	slices.Sort(have)
	different := slices.ContainsFunc(list, func(a netip.AddrPort) bool { return a.Port() != list[0].Port() })
	if different || len(list) == 0 && len(have) > 0 {
		return nil, unclear("Service %s has the ports %s: say which", name, strings.Join(slices.Compact(have), ", "))
	}
	return list, nil
}

func (t *tracing) servicePorts() map[service.PortName]*service.Port {
	if t.a.services.table == nil {
		return nil
	}
	return t.a.services.table.Ports()
}

// findFrontend finds the Service of the destination: its own address's, or a node port's.
func (t *tracing) findFrontend() {
	if t.a.services.table == nil {
		return
	}
	f := service.Frontend{Addr: t.dst.Addr(), Port: t.dst.Port(), Protocol: t.protocol}
	if t.port, t.kind = t.a.services.table.Find(f); t.port != nil {
		return
	}
	endpoint, here := t.a.want.Endpoints[f.Addr]
	remote, there := t.remote(f.Addr)
	if here && endpoint.Index != 0 || !here && !(there && remote.Host) {
		return
	}
	if f.Addr = netip.IPv6Unspecified(); t.dst.Addr().Is4() {
		f.Addr = netip.IPv4Unspecified()
	}
	t.port, t.kind = t.a.services.table.Find(f)
}

// needPort refuses an address of a Service's without a port.
func (t *tracing) needPort(port string) error {
	if port != "" || t.port != nil {
		return nil
	}
	for _, p := range t.servicePorts() {
		for f := range p.Frontends {
			if f.Addr == t.dst.Addr() {
				return unclear("%s is an address of Service %s: say which port", f.Addr, p.Name.ServiceName)
			}
		}
	}
	return nil
}

// device says which program meets the client's packets, and where.
func (t *tracing) device() (program desired.Program, index int, macs [2]cluster.MAC, err error) {
	if t.pod != nil {
		return desired.FromPod, t.pod.Index, [2]cluster.MAC{t.pod.PodMAC, t.pod.HostMAC}, nil
	}
	var uplinks []desired.Hook
	for hook := range t.a.want.Hooks {
		if hook.Program == desired.FromNetwork {
			uplinks = append(uplinks, hook)
		}
	}
	if len(uplinks) == 0 {
		return "", 0, macs, unclear("this node has no uplink by which %s could come", t.src)
	}
	first := slices.MinFunc(uplinks, func(x, y desired.Hook) int { return cmp.Compare(x.Link, y.Link) })
	return desired.FromNetwork, t.a.want.Hooks[first], macs, nil
}

// try has the datapath choose.
func (t *tracing) try() (desired.Program, datapath.Trial, error) {
	program, index, macs, err := t.device()
	if err != nil {
		return program, datapath.Trial{}, err
	}
	trial, err := t.a.datapath.Try(program, index, macs, t.protocol, t.src, t.dst)
	return program, trial, err
}
