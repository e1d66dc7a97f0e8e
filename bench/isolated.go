package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/polder-net/polder/bench/load"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/lab"
)

// The variants of N2's traffic, besides Polder whose pods nobody isolates, and B1.
const (
	polderIsolated = "Polder, isolated pods"
	polderOff      = "Polder, --policies off"
	nftRules       = "nftables rules"
)

// isolatedTraffic measures the second half of N2: traffic of pods that are isolated both ways, at both ends, beside the same
// without policies, and beside rules of the same content that the kernel's forwarding obeys.
func (b *bench) isolatedTraffic(ctx context.Context, w *worlds) error {
	for _, l := range []struct {
		what   string
		kind   load.Kind
		across bool
	}{{"RR, same node", load.RR, false}, {"CRR, same node", load.CRR, false}, {"CRR, across nodes", load.CRR, true}} {
		variants, err := w.isolatedPairs(ctx, l.kind, l.across)
		if err != nil {
			return fmt.Errorf("N2: %w", err)
		}
		e := experiment{id: "N2", what: l.what, unit: "/s", metric: load.Result.Rate, byCPU: true, variants: variants,
			ratios: []ratio{{polderIsolated, polder, 0}, {polderIsolated, nftRules, 0}, {polder, polderOff, 0}, {nftRules, b1, 0}}}
		if err := b.compare(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (w *worlds) isolatedPairs(ctx context.Context, kind load.Kind, across bool) ([]variant, error) {
	nodes := 1
	if across {
		nodes = 2
	}
	var variants []variant
	for _, v := range []struct {
		name  string
		build func() (*network, error)
	}{
		{polderIsolated, func() (*network, error) { return w.isolated(ctx) }},
		{polder, func() (*network, error) { return w.polder(ctx, "auto") }},
		{polderOff, func() (*network, error) { return w.unjudged(ctx) }},
		{nftRules, func() (*network, error) { return w.routed(ctx, rig.Options{Nodes: nodes, Rules: true}) }},
		{b1, func() (*network, error) { return w.routed(ctx, rig.Options{Nodes: nodes}) }},
	} {
		n, err := v.build()
		if err != nil {
			return nil, err
		}
		to := n.near
		if across {
			to = n.far
		}
		variants = append(variants, variant{v.name, pair(kind, n.client, to)})
	}
	return variants, nil
}

// isolated is a lab all of whose pods a policy isolates.
func (w *worlds) isolated(ctx context.Context) (*network, error) {
	return w.get(ctx, "isolated", func(ctx context.Context) (*network, error) {
		c, err := w.bench.startLab(ctx, "isolated", lab.Options{Nodes: 2})
		if err != nil {
			return nil, err
		}
		n, err := populateIsolated(ctx, c)
		if err != nil {
			return nil, errors.Join(err, c.Down())
		}
		return n, nil
	})
}

// unjudged is a lab whose agents know no policies.
func (w *worlds) unjudged(ctx context.Context) (*network, error) {
	return w.get(ctx, "unjudged", func(ctx context.Context) (*network, error) {
		c, err := w.bench.startLab(ctx, "unjudged", lab.Options{Nodes: 2, AgentArgs: []string{"--policies", "off"}})
		if err != nil {
			return nil, err
		}
		n, err := populate(ctx, c)
		if err != nil {
			return nil, errors.Join(err, c.Down())
		}
		return n, nil
	})
}

func populateIsolated(ctx context.Context, c *lab.Cluster) (*network, error) {
	text, err := json.Marshal(sameRules())
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(c.Manifests(), "isolated.yaml"), text, 0o644); err != nil {
		return nil, err
	}
	n, err := populate(ctx, c)
	if err != nil {
		return nil, err
	}
	pods, err := c.Pods()
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if err := awaitIsolation(ctx, c, p); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// sameRules say of all pods what rig's table says of its.
func sameRules() *objects.Policy {
	p := objects.NewPolicy(namespace, "isolated")
	ports := objects.Port{Protocol: "TCP", Port: rig.FirstPort, End: rig.FirstPort + rig.Ports - 1}
	peers := []objects.Peer{{Pods: &objects.Selector{}}}
	for i := len(peers); i < rig.Peers; i++ {
		peers = append(peers, objects.Peer{Block: &objects.Block{CIDR: rig.Peer(i).String() + "/32"}})
	}
	for _, peer := range peers {
		p.LetIn(peer, ports).LetOut(peer, ports)
	}
	return p
}

// awaitIsolation returns when a pod is isolated both ways, and not for lack of knowledge.
func awaitIsolation(ctx context.Context, c *lab.Cluster, p *lab.Pod) error {
	node, err := c.Node(p.Node)
	if err != nil {
		return err
	}
	seen, err := datapath.OpenIsolation(fmt.Sprintf("/proc/%d/root%s", node.PID(), datapath.Dir))
	if err != nil {
		return err
	}
	defer seen.Close()
	for deadline := time.Now().Add(20 * time.Second); ; {
		s, _, err := seen.Of(p.Addresses[0])
		if err != nil || min(s.Ingress, s.Egress) > policy.Closed {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("pod %s is not isolated after 20 s, but %v", p.Name, s)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
