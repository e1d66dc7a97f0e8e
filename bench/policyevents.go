package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/polder-net/polder/bench/apiserver"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/stats"
	"github.com/polder-net/polder/internal/datapath"
)

// What N3 does: so many changes a second, each of a policy of one of the pods.
const (
	policyRate = 30
	eventPods  = 110
	patience   = 20 * time.Second // for one change
)

// populated is a town with pods of the namespace of ours besides, which have links on the node.
type populated struct {
	objects.Town
	pods []*eventPod
}

// eventPod is a pod that a policy is about.
type eventPod struct {
	sandbox
	addr netip.Addr
}

func (p *eventPod) object(node string, addrs ...netip.Addr) *objects.Pod {
	return objects.NewPod(namespace, p.name, node, map[string]string{"app": p.name}, addrs...)
}

// Put tells of the pods before they have addresses, as the API server does.
func (c populated) Put(s *apiserver.Server) {
	ns := apiserver.NewMeta("v1", "Namespace", "", namespace)
	s.Put(apiserver.Namespaces, &ns)
	for _, p := range c.pods {
		s.Put(apiserver.Pods, p.object(c.Node))
	}
	c.Town.Put(s)
}

// policyEvents measures N3: how long after a change at the API server the endpoints have the rulesets that it asks for.
func (b *bench) policyEvents(ctx context.Context, _ *worlds) (err error) {
	c := populated{Town: b.town()}
	c.Local = 0
	for i := range eventPods {
		s, err := newSandbox()
		if err != nil {
			return err
		}
		defer s.close()
		s.name = fmt.Sprint("local-", i)
		c.pods = append(c.pods, &eventPod{sandbox: s})
	}
	l, err := b.startAPILab(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	b.say("N3 connecting %d pods of a cluster of %d", eventPods, c.Pods)
	if err := l.connect(ctx, c); err != nil {
		return fmt.Errorf("N3: %w", err)
	}
	seen, err := datapath.OpenIsolation(fmt.Sprintf("/proc/%d/root%s", l.node.PID(), datapath.Dir))
	if err != nil {
		return err
	}
	defer seen.Close()
	e := &eventful{apiLab: l, populated: c, seen: seen}
	if err := e.awaitOpen(ctx); err != nil {
		return fmt.Errorf("N3: %w", err)
	}
	if err := b.policyStream(ctx, e); err != nil {
		return fmt.Errorf("N3: %w", err)
	}
	if err := b.everybodyAsPeer(ctx, e); err != nil {
		return fmt.Errorf("N3: %w", err)
	}
	return nil
}

// connect is ADD for every pod, once the agent has read what the API server says.
func (l *apiLab) connect(ctx context.Context, c populated) error {
	wait, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := l.node.WaitReady(wait); err != nil {
		return err
	}
	runtime := onNode(l.node)
	for _, p := range c.pods {
		_, addrs, err := runtime.add(ctx, p.sandbox)
		if err != nil {
			return err
		}
		p.addr = addrs[0]
		l.api.Put(apiserver.Pods, p.object(l.node.Name, addrs...))
	}
	return nil
}

// policyStream changes one policy after the other, so many a second, and looks out for all that wait.
func (b *bench) policyStream(ctx context.Context, e *eventful) error {
	lasts := 30 * time.Second
	if b.quick {
		lasts = 5 * time.Second
	}
	b.say("N3 %d changes a second for %s", policyRate, lasts)
	var waiting []event
	var took []float64
	total := int(lasts.Seconds()) * policyRate
	for began := time.Now(); len(took) < total; {
		for e.changes < min(total, int(time.Since(began).Seconds()*policyRate)) {
			v, err := e.change(e.pods[e.changes%len(e.pods)], peerOf(e.changes))
			if err != nil {
				return err
			}
			waiting = append(waiting, v)
		}
		var left []event
		for _, v := range waiting {
			switch done, err := e.inForce(v); {
			case err != nil:
				return err
			case done:
				took = append(took, ms(time.Since(v.at)))
			default:
				left = append(left, v)
			}
		}
		waiting = left
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Microsecond):
		}
	}
	memory, err := residentMemory(e.agent)
	b.keep("N3 ms", "events", took)
	b.add(atMost(report.Row{ID: "N3", What: fmt.Sprintf("%d changes of policies a second, %d pods here, %d in all: from the API server to endpoints, p99", policyRate, len(e.pods), e.Town.Pods),
		Unit: report.Milliseconds, Value: report.Single(stats.Quantile(took, 0.99)),
		Seen: fmt.Sprintf("%s, longest %.1f ms; agent %.0f MB", quantiles(took), stats.Quantile(took, 1), memory)}, 100))
	return err
}

// peerOf is another selector with each change, of a thousandth of the town's pods.
func peerOf(change int) objects.Peer {
	return objects.Peer{Pods: &objects.Selector{Labels: map[string]string{"app": fmt.Sprint("app-", change%10)}},
		Namespaces: &objects.Selector{Labels: map[string]string{"team": fmt.Sprint("team-", change/10%100)}}}
}

// everybodyAsPeer has a policy let in all pods of the cluster, a few times: each of them gets a class.
func (b *bench) everybodyAsPeer(ctx context.Context, e *eventful) error {
	var took []float64
	for range 3 {
		for _, peer := range []objects.Peer{{Pods: &objects.Selector{}, Namespaces: &objects.Selector{}}, peerOf(e.changes)} {
			v, err := e.change(e.pods[0], peer)
			if err == nil {
				err = e.await(ctx, v)
			}
			if err != nil {
				return err
			}
			if peer.Namespaces.Labels == nil {
				took = append(took, time.Since(v.at).Seconds())
			}
			time.Sleep(3 * time.Second) // what nobody wants is taken away
		}
	}
	b.keep("N3 s", "everybody", took)
	b.add(atMost(report.Row{ID: "N3", What: fmt.Sprintf("a policy that lets in all of %d pods: from the API server to endpoints", e.Town.Pods),
		Unit: report.Seconds, Value: stats.Bootstrap(took)}, 1))
	return nil
}
