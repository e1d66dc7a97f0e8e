package agent

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/service"
)

// run asks the datapath, and says what came of it. What the node's own sockets get is not asked: no packet is made for
// them, and the program that they meet cannot be run on anything else.
func (t *tracing) run() (api.TraceReport, error) {
	r := api.TraceReport{Inside: t.inside, To: t.dst, Protocol: t.protocol.String()}
	if t.pod != nil {
		r.FromPod = t.pod.Namespace + "/" + t.pod.Name
	}
	drop := t.describeService(&r)
	if t.node {
		t.judgeNode(&r, drop)
		return r, nil
	}
	program, trial, err := t.try()
	if err != nil {
		return r, err
	}
	r.From, r.Program = trial.Source, string(program)
	target := t.dst.Addr()
	switch {
	case trial.Flow == nil && t.port != nil:
		target = netip.Addr{} // refused or dropped
	case trial.Flow != nil && trial.Flow.Node.IsValid():
		target = trial.Flow.Node
		r.HandedTo = t.a.nodeNamed(target)
	case trial.Flow != nil:
		r.Backend, target = trial.Flow.Backend, trial.Flow.Backend.Addr()
	}
	r.Destination = t.destination(target)
	if r.HandedTo != "" {
		r.Destination.Way = "tunnel"
	}
	r.Outcome = likely(trial.Outcomes, "to "+r.Destination.Way)
	t.judge(&r)
	return r, nil
}

// likely is the outcome that fits, where other packets moved counters, too.
func likely(outcomes []string, expected string) string {
	if slices.Contains(outcomes, expected) {
		return expected
	}
	return strings.Join(outcomes, " or ")
}

// describeService says which frontend the destination is, and whether clients get no answer.
func (t *tracing) describeService(r *api.TraceReport) (drop bool) {
	if t.port == nil {
		return false
	}
	p := t.port
	local := p.InternalLocal
	if t.kind != service.ClusterIP {
		local = p.ExternalLocal && !t.inside
	}
	chosen, drop := p.Choose(t.kind, !t.inside)
	name := p.Name
	r.Service = &api.TracedService{Namespace: name.Namespace, Name: name.Name, Port: name.Port, Kind: t.kind.String(),
		Policy: policyName(local), Affinity: p.Affinity}
	if t.kind == service.LoadBalancer {
		r.Service.SourceRanges = p.SourceRanges
	}
	for _, b := range backendsOf(p, nodesOf(t.a.snapshot.Services.Get(name.ServiceName)), t.a.cfg.Node) {
		if slices.Contains(chosen, service.Backend{Addr: b.Address.Addr(), Port: b.Address.Port()}) {
			r.Service.Backends = append(r.Service.Backends, b)
		}
	}
	return drop
}

// judgeNode says what a socket of the node itself gets.
func (t *tracing) judgeNode(r *api.TraceReport, drop bool) {
	switch {
	case r.Service == nil:
		r.Destination = t.destination(t.dst.Addr())
		r.Delivered, r.Verdict = true, "delivered"
	case len(r.Service.Backends) > 0:
		r.Delivered, r.Verdict = true, "delivered: the node's sockets connect to one of these backends by chance"
	case drop:
		r.Verdict = "dropped: no local backend"
	default:
		r.Verdict = "refused: no backend"
	}
	if r.Service != nil && len(r.Service.Backends) == 1 {
		r.Backend = r.Service.Backends[0].Address
		r.Destination = t.destination(r.Backend.Addr())
	}
}

func (t *tracing) judge(r *api.TraceReport) {
	reason, dropped := strings.CutPrefix(r.Outcome, "drop ")
	switch {
	case dropped:
		r.Verdict = "dropped: " + reason
	case r.Outcome == "to stack":
		r.Delivered, r.Verdict = true, "goes on through the node's own stack"
	case r.Outcome != "refused":
		r.Delivered, r.Verdict = true, "delivered"
	case r.Service == nil:
		r.Verdict = "refused: the address is a Service's, which has no such port"
	default:
		r.Verdict = "refused: no backend"
	}
	if !r.Delivered {
		r.Destination = api.Destination{}
	}
}

// remote finds the prefix of another node that holds an address.
func (t *tracing) remote(a netip.Addr) (found route.Remote, ok bool) {
	for bits := a.BitLen(); bits >= 0; bits-- {
		if p, err := a.Prefix(bits); err == nil {
			if found, ok = t.a.want.Remotes[p]; ok {
				return found, true
			}
		}
	}
	return route.Remote{}, false
}

// destination says where an address is, and how one gets there.
func (t *tracing) destination(a netip.Addr) api.Destination {
	d := api.Destination{Address: a}
	if !a.IsValid() {
		return d
	}
	if e, ok := t.a.want.Endpoints[a]; ok {
		if d.Way, d.Node = "node", t.a.cfg.Node; e.Index != 0 {
			d.Way, d.Pod = "pod", t.a.podAt(e.Index)
		}
		return d
	}
	r, ok := t.remote(a)
	if !ok {
		d.Way = "outside"
		return d
	}
	d.Way, d.Node = r.Kind.String(), t.a.nodeNamed(r.Node)
	for _, p := range t.a.snapshot.Pods {
		if !p.HostNetwork && slices.Contains(p.Addresses, a) {
			d.Pod = p.Namespace + "/" + p.Name
		}
	}
	return d
}

func (a *Agent) podAt(index int) string {
	for _, p := range a.pods {
		if p.Index == index {
			return p.Namespace + "/" + p.Name
		}
	}
	return ""
}

func (a *Agent) nodeNamed(addr netip.Addr) string {
	for _, n := range a.snapshot.Nodes {
		if slices.Contains(n.Addresses, addr) {
			return n.Name
		}
	}
	return addr.String()
}
