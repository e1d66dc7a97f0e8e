package agent

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

// serviceList is what a report on Services is made of: values that nobody changes, so that it is made outside the loop.
type serviceList struct {
	req      api.ServicesRequest
	self     service.Self
	objects  *cluster.Services
	ports    []*service.Port
	problems []cluster.Problem
}

// listServices takes from the loop what a report needs, and says how to make it.
func (a *Agent) listServices(req *api.ServicesRequest) func() api.Response {
	if err := a.whyNoServices(); err != nil {
		return func() api.Response { return api.Response{Error: err} }
	}
	l := serviceList{self: a.services.table.Self(), objects: a.snapshot.Services, problems: a.services.table.Problems()}
	if req != nil {
		l.req = *req
	}
	for name, port := range a.services.table.Ports() {
		if l.asked(name.ServiceName) {
			l.ports = append(l.ports, port)
		}
	}
	return l.respond
}

func (a *Agent) whyNoServices() *api.Error {
	switch {
	case !a.cfg.Options.Services:
		return &api.Error{Code: api.CodeUnsupported, Msg: "this node's agent serves no Services: it runs with --services=off"}
	case !a.synced || !a.datapath.ServicesKnown():
		return &api.Error{Code: api.CodeTryAgain, Msg: "Services are not served yet", Details: a.whyNotSynced()}
	}
	return nil
}

func (l *serviceList) asked(name cluster.ServiceName) bool {
	return (l.req.Namespace == "" || l.req.Namespace == name.Namespace) && (l.req.Name == "" || l.req.Name == name.Name)
}

// respond encodes Service by Service: tens of thousands are never all there as values.
func (l *serviceList) respond() api.Response {
	services := l.group()
	if l.req.Name != "" && len(services) == 0 {
		return refuse(api.CodeNoSuch, "there is no Service "+l.req.Namespace+"/"+l.req.Name+
			" that this node serves: it may be headless, an ExternalName, or another proxy's")
	}
	listed := services
	if l.req.Most > 0 {
		listed = services[:min(len(services), l.req.Most)]
	}
	body, err := json.Marshal(api.ServicesReport{Node: l.self.Node, Total: len(services), Services: []api.Service{}})
	if err != nil {
		return refuse(api.CodeInternal, "encode report: "+err.Error())
	}
	body = body[:len(body)-len("]}")]
	problems := l.problemsByObject()
	for i, ports := range listed {
		one, err := json.Marshal(l.service(ports, problems))
		if err != nil {
			return refuse(api.CodeInternal, "encode report: "+err.Error())
		}
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, one...)
	}
	return api.Response{Report: append(body, "]}"...)}
}

// group sorts the ports, and puts those of one Service together.
func (l *serviceList) group() (groups [][]*service.Port) {
	slices.SortFunc(l.ports, func(x, y *service.Port) int {
		return cmp.Or(x.Name.ServiceName.Compare(y.Name.ServiceName), compareBools(isHostPort(x), isHostPort(y)), x.Name.Compare(y.Name))
	})
	for i, p := range l.ports {
		if i == 0 || p.Name.ServiceName != l.ports[i-1].Name.ServiceName || isHostPort(p) != isHostPort(l.ports[i-1]) {
			groups = append(groups, nil)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], p)
	}
	return groups
}

func isHostPort(p *service.Port) bool {
	for _, kind := range p.Frontends {
		return kind == service.HostPort
	}
	return false
}

func (l *serviceList) problemsByObject() map[string][]string {
	by := map[string][]string{}
	for _, p := range l.problems {
		by[p.Object] = append(by[p.Object], p.Message)
	}
	return by
}

// service says what there is of one.
func (l *serviceList) service(ports []*service.Port, problems map[string][]string) api.Service {
	first := ports[0]
	name := first.Name.ServiceName
	s := api.Service{Namespace: name.Namespace, Name: name.Name, Pod: isHostPort(first), Affinity: first.Affinity,
		InternalTrafficPolicy: policyName(first.InternalLocal), ExternalTrafficPolicy: policyName(first.ExternalLocal),
		HealthCheckNodePort: first.HealthCheckNodePort}
	object := "Service/" + name.String()
	if s.Pod {
		object = "Pod/" + name.String()
	}
	s.Problems = problems[object]
	objects := l.objects.Get(name)
	nodes := nodesOf(objects)
	var leftOut []service.Excluded
	if l.req.Name != "" && !s.Pod {
		leftOut = service.LeftOut(l.self, objects)
	}
	for _, p := range ports {
		s.SourceRanges = append(s.SourceRanges, p.SourceRanges...)
		row := l.port(p, nodes)
		for _, e := range leftOut {
			if e.Port == p.Name {
				row.LeftOut = append(row.LeftOut, api.LeftOut{Address: netip.AddrPortFrom(e.Backend.Addr, e.Backend.Port), Reason: e.Reason})
			}
		}
		s.Ports = append(s.Ports, row)
	}
	slices.SortFunc(s.SourceRanges, netip.Prefix.Compare)
	s.SourceRanges = slices.Compact(s.SourceRanges)
	return s
}

func policyName(local bool) string {
	if local {
		return "Local"
	}
	return "Cluster"
}

// nodesOf says which node each endpoint of a Service is on, where that is known.
func nodesOf(objects *cluster.ServiceObjects) map[netip.Addr]string {
	nodes := map[netip.Addr]string{}
	if objects == nil {
		return nodes
	}
	for _, s := range objects.Slices {
		for _, e := range s.Endpoints {
			if e.Node != "" {
				nodes[e.Addr] = e.Node
			}
		}
	}
	return nodes
}

func (l *serviceList) port(p *service.Port, nodes map[netip.Addr]string) api.ServicePort {
	row := api.ServicePort{Name: p.Name.Port, Protocol: p.Name.Protocol.String(), Family: familyName(p.Name.IPv4)}
	frontends := make([]service.Frontend, 0, len(p.Frontends))
	for f := range p.Frontends {
		frontends = append(frontends, f)
	}
	slices.SortFunc(frontends, func(x, y service.Frontend) int {
		return cmp.Or(cmp.Compare(p.Frontends[x], p.Frontends[y]), x.Compare(y))
	})
	for _, f := range frontends {
		row.Frontends = append(row.Frontends, api.Frontend{Address: netip.AddrPortFrom(f.Addr, f.Port), Kind: p.Frontends[f].String()})
	}
	row.Backends = backendsOf(p, nodes, l.self.Node)
	row.BackendCount = len(row.Backends)
	if l.req.Name == "" {
		row.Backends = row.Backends[:min(len(row.Backends), api.MostBackends)]
	}
	return row
}

func familyName(ipv4 bool) string {
	if ipv4 {
		return "IPv4"
	}
	return "IPv6"
}

// backendsOf lists the backends of both policies, this node's first. A host port's are this node's own.
func backendsOf(p *service.Port, nodes map[netip.Addr]string, self string) []api.Backend {
	policies := map[service.Backend][]string{}
	for _, b := range p.Cluster {
		policies[b] = append(policies[b], policyName(false))
	}
	for _, b := range p.Local {
		policies[b] = append(policies[b], policyName(true))
	}
	list := make([]api.Backend, 0, len(policies))
	for b, of := range policies {
		row := api.Backend{Address: netip.AddrPortFrom(b.Addr, b.Port), Node: nodes[b.Addr], Policies: of}
		if isHostPort(p) {
			row.Node = self
		}
		row.Local = row.Node != "" && row.Node == self
		list = append(list, row)
	}
	slices.SortFunc(list, func(x, y api.Backend) int {
		return cmp.Or(compareBools(y.Local, x.Local), x.Address.Compare(y.Address))
	})
	return list
}

func compareBools(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return 1
	}
	return -1
}
