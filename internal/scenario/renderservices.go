package scenario

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

// RenderServices prints the ports of Services, with what becomes of a client of each frontend, the endpoints that are
// left out, and problems.
func RenderServices(ports map[service.PortName]*service.Port, excluded []service.Excluded, problems []cluster.Problem) string {
	var out strings.Builder
	for _, name := range slices.SortedFunc(maps.Keys(ports), service.PortName.Compare) {
		p := ports[name]
		if len(p.Frontends) == 0 {
			fmt.Fprintf(&out, "no-frontend %s %s\n", portText(name), family(name.IPv4))
		}
		for _, f := range slices.SortedFunc(maps.Keys(p.Frontends), service.Frontend.Compare) {
			fmt.Fprintf(&out, "frontend %s %s %s inside %s outside %s%s\n", f, p.Frontends[f], portText(name),
				choiceText(p, p.Frontends[f], false), choiceText(p, p.Frontends[f], true), extras(p, p.Frontends[f]))
		}
		for _, b := range p.Cluster {
			fmt.Fprintf(&out, "backend %s %s\n", backendText(b), portText(name))
		}
		for _, b := range p.Local {
			fmt.Fprintf(&out, "local-backend %s %s\n", backendText(b), portText(name))
		}
		if p.HealthCheckNodePort != 0 {
			fmt.Fprintf(&out, "health %d %s local-ready %d\n", p.HealthCheckNodePort, portText(name), p.LocalReady)
		}
	}
	for _, e := range excluded {
		fmt.Fprintf(&out, "left-out %s %s %s\n", backendText(e.Backend), portText(e.Port), e.Reason)
	}
	for _, p := range problems {
		fmt.Fprintf(&out, "problem %s: %s\n", p.Object, p.Message)
	}
	return out.String()
}

func portText(n service.PortName) string { return n.ServiceName.String() + ":" + n.Port }

func family(ipv4 bool) string {
	if ipv4 {
		return "IPv4"
	}
	return "IPv6"
}

func backendText(b service.Backend) string {
	return strings.TrimSuffix(service.Frontend{Addr: b.Addr, Port: b.Port}.String(), "/unknown")
}

// choiceText says what a client gets: the backends of the cluster, of this node, a refusal, or no answer.
func choiceText(p *service.Port, kind service.Kind, outside bool) string {
	backends, drop := p.Choose(kind, outside)
	local := p.InternalLocal
	if kind != service.ClusterIP {
		local = p.ExternalLocal && outside
	}
	switch {
	case drop:
		return "drop"
	case len(backends) == 0:
		return "refuse"
	case local:
		return "local"
	}
	return "cluster"
}

func extras(p *service.Port, kind service.Kind) (text string) {
	if p.Affinity != 0 {
		text += fmt.Sprintf(" affinity %d", p.Affinity)
	}
	if kind == service.LoadBalancer && len(p.SourceRanges) > 0 {
		text += fmt.Sprintf(" sources %v", p.SourceRanges)
	}
	return text
}
