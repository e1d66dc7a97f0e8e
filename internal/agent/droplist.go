package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/policy"
)

// listDrops says how to answer the verb Drops, outside the loop.
func (a *Agent) listDrops(ctx context.Context, req *api.DropsRequest) func() api.Response {
	if a.policies.table == nil {
		return func() api.Response {
			return refuse(api.CodeUnsupported, "this node's agent judges no packets: it runs with --policies=off")
		}
	}
	return func() api.Response {
		report := api.DropsReport{Node: a.cfg.Node}
		if req != nil && req.Follow {
			report = a.policies.drops.follow(ctx, a.cfg.Node, req.After)
		} else {
			denied, err := a.datapath.Denied()
			if err != nil {
				return refuse(api.CodeIO, err.Error())
			}
			report.Counts = a.policies.drops.counts(denied)
		}
		body, err := json.Marshal(report)
		if err != nil {
			return refuse(api.CodeInternal, "encode report: "+err.Error())
		}
		return api.Response{Report: body}
	}
}

// counts names what was denied: by pods that are here. What was denied to others went with them.
func (d *drops) counts(denied map[datapath.DeniedKey]uint64) []api.DropCount {
	v := d.view.Load()
	if v == nil {
		return nil
	}
	type what struct{ pod, direction, reason string }
	sums := map[what]*api.DropCount{}
	for key, n := range denied {
		p, ok := v.pods[key.Index]
		if !ok {
			continue
		}
		reason, policies := d.rulesets.reason(key.Ruleset, key.Decision)
		w := what{podOrLink(p), directionOf(p, key.Ruleset), reason}
		if sums[w] == nil {
			sums[w] = &api.DropCount{Pod: w.pod, Direction: w.direction, Reason: reason, Policies: policies}
		}
		sums[w].Packets += n
	}
	list := make([]api.DropCount, 0, len(sums))
	for _, c := range sums {
		list = append(list, *c)
	}
	slices.SortFunc(list, func(x, y api.DropCount) int {
		return cmp.Or(cmp.Compare(x.Pod, y.Pod), cmp.Compare(x.Direction, y.Direction), cmp.Compare(x.Reason, y.Reason))
	})
	return list
}

func podOrLink(p cluster.LocalPod) string {
	if p.Name == "" {
		return p.Link
	}
	return p.Namespace + "/" + p.Name
}

// directionOf is what a pod has a ruleset for now; empty, where that is not one direction alone.
func directionOf(p cluster.LocalPod, id policy.ID) string {
	in, out := policy.ID(p.Ingress) == id, policy.ID(p.Egress) == id
	switch {
	case in && !out:
		return "ingress"
	case out && !in:
		return "egress"
	}
	return ""
}
