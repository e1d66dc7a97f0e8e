package main

import (
	"context"
	"fmt"
	"time"

	"github.com/polder-net/polder/bench/apiserver"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/policy"
)

// eventful is a lab of which policies change.
type eventful struct {
	*apiLab
	populated
	seen    *datapath.Isolation
	changes int
}

// event is a change that waits to be in force.
type event struct {
	pod    *eventPod
	before policy.ID
	at     time.Time
}

// change has the policy of a pod let in some peers at a port that it never did before: so its ruleset is another.
func (e *eventful) change(pod *eventPod, peer objects.Peer) (event, error) {
	before, _, err := e.seen.Of(pod.addr)
	if err != nil {
		return event{}, err
	}
	e.changes++
	p := objects.NewPolicy(namespace, "to-"+pod.name)
	p.Spec.Subject.Labels = map[string]string{"app": pod.name}
	p.LetIn(peer, objects.Port{Protocol: "TCP", Port: e.changes})
	at := time.Now()
	e.api.Put(apiserver.NetworkPolicies, p)
	return event{pod, before.Ingress, at}, nil
}

func (e *eventful) inForce(v event) (bool, error) {
	now, ok, err := e.seen.Of(v.pod.addr)
	if err == nil && !ok {
		err = fmt.Errorf("%s has no row", v.pod.name)
	}
	if err == nil && time.Since(v.at) > patience {
		err = fmt.Errorf("the policy of %s is not in force after %s", v.pod.name, patience)
	}
	return now.Ingress != v.before && now.Ingress != policy.Closed, err
}

// awaitOpen returns when no pod waits for its policies any more.
func (e *eventful) awaitOpen(ctx context.Context) error {
	for _, p := range e.pods {
		if err := e.await(ctx, event{p, policy.Closed, time.Now()}); err != nil {
			return err
		}
	}
	return nil
}

func (e *eventful) await(ctx context.Context, v event) error {
	for {
		done, err := e.inForce(v)
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Microsecond):
		}
	}
}
