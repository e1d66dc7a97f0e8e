package agent

import (
	"maps"
	"time"

	"github.com/polder-net/polder/internal/policy"
)

// lagging is how long a watch may be behind another one: after an API server was away, each list is read anew in its own
// time.
const lagging = 30 * time.Second

// opened is what a pod's directions were isolated by before they opened, the last of them at that time.
type opened struct {
	was policy.Subject
	at  time.Time
}

// noteOpened remembers for a while which directions of a pod open. If its namespace turns out to be ending, that is why.
func (a *Agent) noteOpened(link string, had, now policy.Subject) {
	all, t := a.policies.opened, time.Now()
	lost := opened{at: t, was: policy.Subject{Ingress: lostBy(had.Ingress, now.Ingress), Egress: lostBy(had.Egress, now.Egress)}}
	if lost.was == (policy.Subject{}) {
		return
	}
	maps.DeleteFunc(all, func(_ string, o opened) bool { return t.Sub(o.at) > lagging })
	lost.was = fillOpen(lost.was, all[link].was)
	all[link] = lost
}

// lostBy is the ruleset that a direction no longer has, nor another in its place.
func lostBy(had, now policy.ID) policy.ID {
	if had == policy.Closed || now != policy.Open {
		return policy.Open
	}
	return had
}

// lately is what a pod is judged by, and where it is open, was until a moment ago.
func (a *Agent) lately(link string, had policy.Subject) policy.Subject {
	if o, ok := a.policies.opened[link]; ok && time.Since(o.at) <= lagging {
		return fillOpen(had, o.was)
	}
	return had
}

func fillOpen(s, with policy.Subject) policy.Subject {
	if s.Ingress == policy.Open {
		s.Ingress = with.Ingress
	}
	if s.Egress == policy.Open {
		s.Egress = with.Egress
	}
	return s
}
