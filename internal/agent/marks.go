package agent

import (
	"errors"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/health"
	"github.com/polder-net/polder/internal/service"
)

// portMark is what the agent says of a port of a Service to others. Of most there is nothing to say.
type portMark struct {
	noneInside, noneOutside bool // a traffic policy keeps clients to this node, which has no endpoint, though others have
	check                   health.Check
}

func markOf(p *service.Port) (m portMark) {
	if p == nil {
		return m
	}
	none := len(p.Local) == 0 && len(p.Cluster) > 0
	m.noneInside, m.noneOutside = none && p.InternalLocal, none && p.ExternalLocal
	if p.HealthCheckNodePort != 0 {
		m.check = health.Check{Port: p.HealthCheckNodePort, LocalReady: p.LocalReady}
	}
	return m
}

// portMarks are those of all ports that have one. What a change costs does not depend on how many ports have none.
type portMarks struct {
	of              map[service.PortName]portMark
	inside, outside int  // how many have none there
	moved           bool // since checks were last told
}

// note takes ports as they are now; nil: gone.
func (m *portMarks) note(changed map[service.PortName]*service.Port) {
	for name, p := range changed {
		old, now := m.of[name], markOf(p)
		if old == now {
			continue
		}
		m.moved = true
		m.inside += count(now.noneInside) - count(old.noneInside)
		m.outside += count(now.noneOutside) - count(old.noneOutside)
		if now == (portMark{}) {
			delete(m.of, name)
			continue
		}
		if m.of == nil {
			m.of = map[service.PortName]portMark{}
		}
		m.of[name] = now
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// checks are what load balancers ask: of a Service's ports, the family with more endpoints counts.
func (m *portMarks) checks() map[cluster.ServiceName]health.Check {
	all := map[cluster.ServiceName]health.Check{}
	for name, mark := range m.of {
		if mark.check.Port != 0 {
			check := mark.check
			check.LocalReady = max(check.LocalReady, all[name.ServiceName].LocalReady)
			all[name.ServiceName] = check
		}
	}
	return all
}

// checkServices brings the answers to load balancers' health checks to what is served, and the counts of what is not.
func (a *Agent) checkServices() {
	s := &a.services
	if !s.marks.moved && s.failed == "" {
		return
	}
	s.marks.moved = false
	a.proxy.setNoLocalEndpoints(s.marks.inside, s.marks.outside)
	failed := ""
	if err := errors.Join(s.checks.Sync(s.marks.checks())...); err != nil {
		failed = err.Error()
	}
	if failed != "" && failed != s.failed {
		a.log.Warn("a load balancer's health check is not answered", "err", failed)
	}
	s.failed = failed
}
