package agent

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// told is what the policy table has been told.
type told struct {
	nodes      []cluster.Node
	pods       *cluster.Map[cluster.Pod]
	namespaces *cluster.Map[cluster.Namespace]
	policies   *cluster.Map[cluster.NetworkPolicy]
	clusters   *cluster.Map[cluster.ClusterPolicy]

	// Of this node's pods: what the cluster says, or said before it forgot a pod whose link is still here, and what the
	// table was told of it.
	here map[cluster.Name]*cluster.Pod
	as   map[cluster.Name]*cluster.Pod
}

// tellPolicies tells the table what has changed. What it costs depends on that, and on how many pods are on this node.
func (a *Agent) tellPolicies() {
	table, t, snap := a.policies.table, &a.policies.told, a.snapshot
	if !sameList(t.nodes, snap.Nodes) {
		table.SetNodes(snap.Nodes)
		t.nodes = snap.Nodes
	}
	for _, name := range snap.AllNamespaces.ChangedSince(t.namespaces) {
		table.SetNamespace(name.Name, snap.AllNamespaces.Get(name))
	}
	for _, name := range snap.NetworkPolicies.ChangedSince(t.policies) {
		table.SetNetworkPolicy(name, snap.NetworkPolicies.Get(name))
	}
	for _, name := range snap.ClusterPolicies.ChangedSince(t.clusters) {
		table.SetClusterPolicy(name.Name, snap.ClusterPolicies.Get(name))
	}
	t.namespaces, t.policies, t.clusters = snap.AllNamespaces, snap.NetworkPolicies, snap.ClusterPolicies
	a.tellPods()
}

func (a *Agent) tellPods() {
	table, t, now := a.policies.table, &a.policies.told, a.snapshot.AllPods
	if t.here == nil {
		t.here, t.as = map[cluster.Name]*cluster.Pod{}, map[cluster.Name]*cluster.Pod{}
	}
	for _, name := range now.ChangedSince(t.pods) {
		pod := now.Get(name)
		switch {
		case pod != nil && pod.Node == a.cfg.Node && !pod.HostNetwork:
			t.here[name] = pod
		case pod == nil && t.here[name] != nil: // as it was, as long as it has a link
		default:
			delete(t.here, name)
			delete(t.as, name)
			table.SetPod(name, pod)
		}
	}
	t.pods = now
	links, owners := a.linked()
	for name, pod := range maps.Clone(t.here) {
		if len(links[name]) == 0 && now.Get(name) == nil {
			delete(t.here, name)
			delete(t.as, name)
			table.SetPod(name, nil)
			continue
		}
		as := withAddresses(pod, links[name], func(addr netip.Addr) bool {
			owner, ok := owners[addr]
			return !ok || owner == name
		})
		if last := t.as[name]; last == nil || !samePod(last, as) {
			t.as[name] = as
			table.SetPod(name, as)
		}
	}
}

// linked says which addresses each pod has on its links here, and whose each address is. Of these, the cluster may not know
// yet, or may still say that they are a pod's that is gone. That one may have had the same name.
func (a *Agent) linked() (links map[cluster.Name][]netip.Addr, owners map[netip.Addr]cluster.Name) {
	links, owners = map[cluster.Name][]netip.Addr{}, map[netip.Addr]cluster.Name{}
	for _, p := range a.pods {
		name := cluster.Name{Namespace: p.Namespace, Name: p.Name}
		if p.Name == "" || a.isAnothers(name, p.UID) {
			name = cluster.Name{} // nobody's of whom the cluster has told
		} else {
			links[name] = append(links[name], p.Addresses...)
		}
		for _, addr := range p.Addresses {
			owners[addr] = name
		}
	}
	return links, owners
}

// isAnothers says whether the pod that the cluster has told of is another one of that name than the link's, whose UID is
// given as the record has it: one that was there before, or came after.
func (a *Agent) isAnothers(name cluster.Name, uid string) bool {
	pod := a.policies.told.here[name]
	return pod != nil && pod.UID != "" && uid != "" && uid != cluster.HashUID(pod.UID)
}

// withAddresses is a pod with the addresses of its links, and those of its own that no other pod's link has.
func withAddresses(pod *cluster.Pod, linked []netip.Addr, own func(netip.Addr) bool) *cluster.Pod {
	addrs := slices.Clone(linked)
	for _, addr := range pod.Addresses {
		if own(addr) && !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	as := *pod
	as.Addresses = addrs
	return &as
}

func samePod(a, b *cluster.Pod) bool {
	return a.UID == b.UID && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Labels, b.Labels) && slices.Equal(a.Ports, b.Ports)
}

func sameAddress(a, b []netip.Addr) bool {
	return slices.ContainsFunc(a, func(addr netip.Addr) bool { return slices.Contains(b, addr) })
}
