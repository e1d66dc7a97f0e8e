package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
)

// An event tells a pod's owner that its traffic is denied: once in a while for each direction of a pod, and not too many at
// once on a node, since each is an object of the API server's.
const (
	eventEvery  = 10 * time.Minute
	eventBurst  = 20 // so many at once
	eventRefill = 10 * time.Second
	eventTime   = 5 * time.Second
)

// PodEvent is something that a pod's owner should know.
type PodEvent struct {
	Pod             cluster.Name
	UID             string
	Reason, Message string
}

// events decides which drops are worth an event.
type events struct {
	agent *Agent
	last  map[string]time.Time // by pod and direction
	left  int
	since time.Time // when left was last refilled
}

func newEvents(a *Agent) *events {
	return &events{agent: a, last: map[string]time.Time{}, left: eventBurst}
}

// note tells of a drop, unless that has been told a while ago.
func (e *events) note(ctx context.Context, pod cluster.LocalPod, d api.Drop, now time.Time) {
	if pod.Name == "" {
		return
	}
	key := pod.Link + " " + d.Direction
	if last, ok := e.last[key]; ok && now.Sub(last) < eventEvery || !e.allow(now) {
		return
	}
	e.last[key] = now
	one := PodEvent{Pod: cluster.Name{Namespace: pod.Namespace, Name: pod.Name}, Reason: "PolicyDenied", Message: eventText(d)}
	if v := e.agent.policies.drops.view.Load(); v != nil && v.snapshot != nil {
		if object := v.snapshot.AllPods.Get(one.Pod); object != nil {
			one.UID = object.UID
		}
	}
	if e.agent.cfg.Tell == nil {
		e.agent.log.Info("a pod's traffic is denied", "ns", one.Pod.Namespace, "pod", one.Pod.Name, "what", one.Message)
		return
	}
	e.send(ctx, one)
}

// allow refills one event after another, and forgets the pods that were told of long ago.
func (e *events) allow(now time.Time) bool {
	if n := int(now.Sub(e.since) / eventRefill); n > 0 {
		e.left, e.since = min(e.left+n, eventBurst), now
		for key, at := range e.last {
			if now.Sub(at) >= eventEvery {
				delete(e.last, key)
			}
		}
	}
	if e.left == 0 {
		return false
	}
	e.left--
	return true
}

// send tells the cluster, without keeping packets waiting.
func (e *events) send(ctx context.Context, one PodEvent) {
	go func() {
		ctx, cancel := context.WithTimeout(ctx, eventTime)
		defer cancel()
		if err := e.agent.cfg.Tell(ctx, one); err != nil {
			e.agent.log.Warn("the cluster is not told that a pod's traffic is denied", "ns", one.Pod.Namespace, "pod", one.Pod.Name, "err", err)
		}
	}()
}

func eventText(d api.Drop) string {
	text := func(e api.DropEnd) string {
		s := e.Address.String()
		if e.Pod != "" {
			s = "Pod/" + e.Pod + " (" + s + ")"
		}
		return s
	}
	port := ""
	if d.To.Port != 0 {
		port = fmt.Sprintf(" port %d", d.To.Port)
	}
	words := []string{fmt.Sprintf("%s from %s to %s, %s%s, does not pass", d.Direction, text(d.From), text(d.To), d.Protocol, port), d.Reason}
	return strings.Join(words, ": ") + fmt.Sprintf("; more is not told for %d min: see polder drops on the node", int(eventEvery.Minutes()))
}
