package scenario

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
)

// Render prints tables and problems, a row a line, sorted within a table.
func Render(t desired.Tables, problems []cluster.Problem) string {
	var out strings.Builder
	fmt.Fprintf(&out, "pod-mtu %d\n", t.PodMTU)
	rows(&out, t.Endpoints, netip.Addr.String, endpointText)
	rows(&out, t.Remotes, netip.Prefix.String, remoteText)
	rows(&out, t.Routes, func(k route.RouteKey) string { return fmt.Sprint(k.Prefix, " ", k.Table) }, routeText)
	rows(&out, t.Rules, func(r route.Rule) string { return r.From.String() },
		func(r route.Rule, _ bool) string { return fmt.Sprintf("rule from %s table %d", r.From, r.Table) })
	rows(&out, t.Neighbours, func(k route.NeighbourKey) string { return k.Link + k.Addr.String() },
		func(k route.NeighbourKey, _ cluster.MAC) string {
			return fmt.Sprintf("neighbour %s %s", k.Link, k.Addr)
		})
	rows(&out, t.Hooks, func(h desired.Hook) string { return h.Link + string(h.Program) },
		func(h desired.Hook, index int) string {
			return fmt.Sprintf("program %s %d %s", h.Link, index, h.Program)
		})
	if t.Tunnel != nil {
		fmt.Fprintf(&out, "tunnel-device %s mtu %d port %d\n", t.Tunnel.Name, t.Tunnel.MTU, t.Tunnel.Port)
	}
	fmt.Fprintf(&out, "masquerade %v except %v\n", t.Masquerade.From, t.Masquerade.Except)
	rows(&out, t.Sysctls, func(k string) string { return k }, func(k, v string) string { return "sysctl " + k + " " + v })
	for _, p := range problems {
		fmt.Fprintf(&out, "problem %s: %s\n", p.Object, p.Message)
	}
	return out.String()
}

func rows[K comparable, V any](out *strings.Builder, m map[K]V, order func(K) string, text func(K, V) string) {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b K) int { return strings.Compare(order(a), order(b)) })
	for _, k := range keys {
		fmt.Fprintln(out, text(k, m[k]))
	}
}

func endpointText(a netip.Addr, e route.Endpoint) string {
	switch {
	case e.Index == 0:
		return fmt.Sprintf("endpoint %s node", a)
	case e.Shaped:
		return fmt.Sprintf("endpoint %s link %d shaped", a, e.Index)
	}
	return fmt.Sprintf("endpoint %s link %d", a, e.Index)
}

func remoteText(p netip.Prefix, r route.Remote) string {
	text := fmt.Sprintf("remote %s %s node %s", p, r.Kind, r.Node)
	if r.Kind == route.Native {
		text += fmt.Sprintf(" via %s link %d", r.Via, r.Index)
	}
	if r.Host {
		text += " host"
	}
	return text
}

func routeText(k route.RouteKey, r route.Route) string {
	text := "route " + k.Prefix.String()
	if r.Unreachable {
		text += " unreachable"
	}
	if r.Via.IsValid() {
		text += " via " + r.Via.String()
	}
	if r.Link != "" {
		text += " dev " + r.Link
	}
	if r.Src.IsValid() {
		text += " src " + r.Src.String()
	}
	if k.Table != 0 {
		text += fmt.Sprintf(" table %d", k.Table)
	}
	return text
}
