package agent

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/datapath"
)

// publish shows the loop's state to everybody else, as a value that nobody changes.
func (a *Agent) publish() {
	r := &api.NodeReport{
		Node: a.cfg.Node, Version: a.cfg.Version, Ready: a.cniStatus(api.Request{DelegatedIPAM: a.off(), IPAM: a.off()}).Error == nil, Synced: a.syncedAt,
		Addresses: a.poolCounts(),
		Peers:     a.peers(),
		Pods:      a.podList(),
		Programs:  a.programs(),
		Repairs:   slices.Clone(a.repairs),
	}
	slices.Reverse(r.Repairs)
	for _, p := range slices.Concat(a.problems, a.missingPlugins(), a.serviceProblems(), a.policyProblems()) {
		r.Problems = append(r.Problems, api.Problem{Object: p.Object, Message: p.Message})
	}
	if a.syncErr != nil {
		r.Problems = append(r.Problems, api.Problem{Object: "Node/" + a.cfg.Node, Message: a.syncErr.Error()})
	}
	a.status.Store(r)
}

// report answers the verb Report with the state and the counters of this moment.
func (a *Agent) report() api.Response {
	if a.snapshot != nil {
		a.publish()
	}
	r := *a.status.Load()
	counters, err := a.datapath.Counters()
	if err != nil {
		return refuse(api.CodeIO, err.Error())
	}
	r.Counters = counters
	body, err := json.Marshal(r)
	if err != nil {
		return refuse(api.CodeInternal, "encode report: "+err.Error())
	}
	return api.Response{Report: body}
}

func (a *Agent) poolCounts() []api.Pool {
	now, err := datapath.SinceBoot()
	if err != nil {
		return nil
	}
	var pools []api.Pool
	for _, ipv4 := range []bool{true, false} {
		if pool := a.pools[ipv4]; pool != nil {
			c := pool.Counts(now)
			pools = append(pools, api.Pool{CIDR: pool.Prefix(), Used: uint64(c.Used), Free: uint64(c.Free), Cooling: uint64(c.Cooling)})
		}
	}
	return pools
}

func (a *Agent) peers() []api.Peer {
	var peers []api.Peer
	for _, n := range a.snapshot.Nodes {
		if n.Name == a.cfg.Node {
			continue
		}
		peer := api.Peer{Node: n.Name, Addresses: n.Addresses, PodCIDRs: n.PodCIDRs}
		for _, p := range n.PodCIDRs {
			path := a.peerPath(p)
			if p.Addr().Is4() {
				peer.IPv4 = path
			} else {
				peer.IPv6 = path
			}
		}
		peers = append(peers, peer)
	}
	return peers
}

func (a *Agent) peerPath(p netip.Prefix) *api.PeerPath {
	r, ok := a.want.Remotes[p]
	if !ok {
		return nil
	}
	return &api.PeerPath{Kind: r.Kind.String(), MTU: a.want.PodMTU}
}

func (a *Agent) podList() []api.LocalPod {
	pods := make([]api.LocalPod, 0, len(a.pods))
	for _, p := range a.pods {
		pods = append(pods, api.LocalPod{Namespace: p.Namespace, Name: p.Name, Addresses: p.Addresses, Link: p.Link, MTU: p.MTU,
			Network: p.Network, ContainerID: p.ContainerID, Ifname: p.Ifname, Policies: a.podPolicies(p)})
	}
	slices.SortFunc(pods, func(x, y api.LocalPod) int {
		return strings.Compare(x.Namespace+"/"+x.Name+"/"+x.Link, y.Namespace+"/"+y.Name+"/"+y.Link)
	})
	return pods
}

// programs lists the hooks as the kernel sees them.
func (a *Agent) programs() []api.Hook {
	hooks := make([]api.Hook, 0, len(a.want.Hooks))
	for hook, how := range a.attachedBy(a.want.Hooks) {
		hooks = append(hooks, api.Hook{Link: hook.Link, Program: string(hook.Program), How: how})
	}
	slices.SortFunc(hooks, func(x, y api.Hook) int {
		return strings.Compare(x.Link+" "+x.Program, y.Link+" "+y.Program)
	})
	return hooks
}
