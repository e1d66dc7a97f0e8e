package service

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// Self is what choosing needs to know of this node and of what the user set.
type Self struct {
	Node, Zone  string
	ExternalIPs bool // spec.externalIPs are honoured

	// Reserved are the addresses of nodes and pods, with what has each: "Node/worker-1". No Service may have one from
	// outside. Nobody changes it once a Table has it.
	Reserved map[netip.Addr]string
}

// Table is what all Services ask of this node, kept up to date Service by Service: what a Service's change costs does
// not depend on how many there are. A value like any other: no I/O, no locks, and the same whatever the history.
type Table struct {
	self     Self
	services map[cluster.ServiceName]*cluster.ServiceObjects // those with a Service
	hosts    hostPorts

	ports    map[PortName]*Port
	before   map[PortName]*Port // what Changed said last, of those that were put since; nil: nothing
	problems map[cluster.ServiceName][]cluster.Problem

	frontends  book[Frontend]
	clusterIPs book[netip.Addr]                  // as a whole: no other Service has one from outside
	external   map[netip.Addr][]*cluster.Service // who claims an address from outside, in no order
}

// NewTable returns a Table without Services.
func NewTable(self Self) *Table {
	return &Table{
		self:     self,
		services: map[cluster.ServiceName]*cluster.ServiceObjects{},
		hosts:    hostPorts{map[hostKey][]PodPort{}, map[hostKey][]cluster.Problem{}},
		ports:    map[PortName]*Port{}, before: map[PortName]*Port{}, problems: map[cluster.ServiceName][]cluster.Problem{},
		frontends: newBook[Frontend](), clusterIPs: newBook[netip.Addr](), external: map[netip.Addr][]*cluster.Service{},
	}
}

// SetSelf tells what this node is now; what depends on it is chosen anew. Where only reserved addresses differ, that is
// what the Services which claim them ask for.
func (t *Table) SetSelf(self Self) {
	old := t.self
	t.self = self
	if self.Node == old.Node && self.Zone == old.Zone && self.ExternalIPs == old.ExternalIPs {
		t.setReserved(old.Reserved)
		return
	}
	t.frontends, t.clusterIPs, t.external = newBook[Frontend](), newBook[netip.Addr](), map[netip.Addr][]*cluster.Service{}
	for _, o := range t.services {
		t.enter(o.Service, func(*cluster.Service) {})
	}
	for name, o := range t.services {
		t.recompile(name, o)
	}
	for key, list := range t.hosts.ports {
		t.settle(key, list)
	}
}

// setReserved looks at the addresses that Services claim from outside: there are few, and many that are reserved.
func (t *Table) setReserved(old map[netip.Addr]string) {
	touched := map[cluster.ServiceName]bool{}
	for a, claimants := range t.external {
		if old[a] != t.self.Reserved[a] {
			for _, svc := range claimants {
				touched[svc.ServiceName] = true
			}
		}
	}
	for name := range touched {
		t.recompile(name, t.services[name])
	}
}

// SetService tells what the cluster says of one Service: nil, or objects without a Service, that there is none.
func (t *Table) SetService(name cluster.ServiceName, objects *cluster.ServiceObjects) {
	old := t.services[name]
	if objects == nil || objects.Service == nil {
		delete(t.services, name)
		objects = nil
	} else {
		t.services[name] = objects
	}
	if old == objects {
		return
	}
	touched := t.reclaim(old, objects)
	t.recompile(name, old)
	for other := range touched {
		if other != name {
			t.recompile(other, t.services[other])
		}
	}
}

// reclaim changes a Service's claims from old to now, and returns the Services whose ports that may change.
func (t *Table) reclaim(old, now *cluster.ServiceObjects) map[cluster.ServiceName]bool {
	if old != nil && now != nil && old.Service == now.Service {
		return nil // its slices alone have changed
	}
	touched := map[cluster.ServiceName]bool{}
	touch := func(svc *cluster.Service) { touched[svc.ServiceName] = true }
	if old != nil {
		t.leave(old.Service, touch)
	}
	if now != nil {
		t.enter(now.Service, touch)
	}
	return touched
}

// enter puts a Service's claims into the books, and calls touch for the Services that this is about, too.
func (t *Table) enter(svc *cluster.Service, touch func(*cluster.Service)) {
	for f, c := range claims(t.self, svc) {
		if loser := t.frontends.add(f, c); loser != nil {
			touch(loser)
		}
	}
	for a, kind := range addresses(t.self, svc) {
		switch kind {
		case ClusterIP:
			t.clusterIPs.add(a, claim{svc: svc})
			t.touchExternal(a, touch)
		case LoadBalancer, ExternalIP:
			t.external[a] = append(t.external[a], svc)
		}
	}
}

// leave takes a Service's claims out of the books again.
func (t *Table) leave(svc *cluster.Service, touch func(*cluster.Service)) {
	for f, c := range claims(t.self, svc) {
		if heir := t.frontends.remove(f, c); heir != nil {
			touch(heir)
		}
	}
	for a, kind := range addresses(t.self, svc) {
		switch kind {
		case ClusterIP:
			t.clusterIPs.remove(a, claim{svc: svc})
			t.touchExternal(a, touch)
		case LoadBalancer, ExternalIP:
			list := t.external[a]
			at := slices.Index(list, svc)
			list[at] = list[len(list)-1]
			list[len(list)-1] = nil
			if t.external[a] = list[:len(list)-1]; len(list) == 1 {
				delete(t.external, a)
			}
		}
	}
}

func (t *Table) touchExternal(a netip.Addr, touch func(*cluster.Service)) {
	for _, svc := range t.external[a] {
		touch(svc)
	}
}

// blocked says why a Service cannot have an address from outside, whoever has its frontends in the book: all that claim
// it are blocked alike, but the Service whose cluster IP it is. Empty: it can.
func (t *Table) blocked(a netip.Addr, c claim) string {
	if c.kind != LoadBalancer && c.kind != ExternalIP {
		return ""
	}
	if what, reserved := t.self.Reserved[a]; reserved {
		return what + " has it"
	}
	if owner, taken := t.clusterIPs.owners[a]; taken && owner.svc != c.svc {
		return "it is the cluster IP of Service " + owner.svc.String()
	}
	return ""
}

// recompile puts a Service's ports as they are now, and its problems; old is what there was of it.
func (t *Table) recompile(name cluster.ServiceName, old *cluster.ServiceObjects) {
	now, rows := t.services[name], []*Port(nil)
	delete(t.problems, name)
	if now != nil {
		rows = t.compile(now)
		if problems := append(refusals(t.self, now), t.blockades(now.Service)...); len(problems) > 0 {
			t.problems[name] = problems
		}
	}
	for _, p := range rows {
		t.put(p.Name, p)
	}
	if now != nil {
		t.settleAround(now.Service)
	}
	if old != nil && old != now {
		for _, n := range portNames(old.Service) {
			if find(rows, n) == nil {
				t.put(n, nil)
			}
		}
		t.settleAround(old.Service)
	}
}

func (t *Table) blockades(svc *cluster.Service) (problems []cluster.Problem) {
	for a, kind := range addresses(t.self, svc) {
		if why := t.blocked(a, claim{svc: svc, kind: kind}); why != "" {
			problems = append(problems, cluster.Problem{Object: "Service/" + svc.String(),
				Message: fmt.Sprintf("%s address %s is refused: %s", kind, a, why)})
		}
	}
	return problems
}

// put sets a port, nil that there is none, and remembers what Changed said of it.
func (t *Table) put(name PortName, p *Port) {
	old := t.ports[name]
	if equal(old, p) {
		return
	}
	if _, noted := t.before[name]; !noted {
		t.before[name] = old
	}
	if p == nil {
		delete(t.ports, name)
	} else {
		t.ports[name] = p
	}
}

// Changed returns the ports that have changed since it was last called: as they are now, nil those that are gone.
func (t *Table) Changed() map[PortName]*Port {
	changed := make(map[PortName]*Port, len(t.before))
	for name, old := range t.before {
		if now := t.ports[name]; !equal(old, now) {
			changed[name] = now
		}
	}
	if len(t.before) < 1000 {
		clear(t.before)
	} else { // the memory of a full load is not kept
		t.before = map[PortName]*Port{}
	}
	return changed
}

// Ports returns all ports. Nobody may change them. The map is the Table's and holds until the next Set: who keeps it
// longer makes a copy. A *Port never changes: what becomes of it is another.
func (t *Table) Ports() map[PortName]*Port { return t.ports }

// Problems lists what cannot be honoured, sorted.
func (t *Table) Problems() []cluster.Problem {
	all := slices.Concat(slices.Collect(maps.Values(t.problems))...)
	for f, rivals := range t.frontends.rivals {
		for _, c := range rivals {
			if t.blocked(f.Addr, c) == "" {
				all = append(all, lost(f, c, t.frontends.owners[f]))
			}
		}
	}
	for _, problems := range t.hosts.problems {
		all = append(all, problems...)
	}
	slices.SortFunc(all, func(a, b cluster.Problem) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(all)
}

// lost says that another has a frontend.
func lost(f Frontend, c, owner claim) cluster.Problem {
	p := cluster.Problem{Object: "Service/" + c.svc.String(), Message: fmt.Sprintf(
		"%s %s belongs to Service %s, which is older: give one of them another address or port", c.kind, f, owner.svc.ServiceName)}
	switch {
	case owner.svc == c.svc:
		p.Message = fmt.Sprintf("%s %s is asked for twice", c.kind, f)
	case owner.kind == ClusterIP && c.kind != ClusterIP:
		p.Message = fmt.Sprintf("%s %s is a cluster IP of Service %s", c.kind, f, owner.svc.ServiceName)
	}
	return p
}
