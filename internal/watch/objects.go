package watch

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/polder-net/polder/internal/cluster"
)

// readNode keeps of a Node what Polder reads of it. What it cannot honour it leaves out, and says so.
func readNode(n *corev1.Node, t *objectTexts) (cluster.Node, []string) {
	var problems []string
	node := cluster.Node{
		Name:    n.Name,
		Labels:  t.labels(n.Labels),
		Zone:    n.Labels[corev1.LabelTopologyZone],
		Leaving: n.DeletionTimestamp != nil || slices.ContainsFunc(n.Spec.Taints, isLeavingTaint),
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range n.Status.Addresses {
			if a.Type != kind {
				continue
			}
			addr, err := parseAddress(a.Address, "a node or a pod")
			if err != nil {
				problems = append(problems, fmt.Sprintf("read %s: %v", kind, err))
			} else if !slices.Contains(node.Addresses, addr) {
				node.Addresses = append(node.Addresses, addr)
			}
		}
	}
	cidrs, more := readPodCIDRs(n)
	node.PodCIDRs = cidrs
	return node, append(problems, more...)
}

func readPodCIDRs(n *corev1.Node) (cidrs []netip.Prefix, problems []string) {
	texts := n.Spec.PodCIDRs
	if len(texts) == 0 && n.Spec.PodCIDR != "" {
		texts = []string{n.Spec.PodCIDR}
	}
	for _, s := range texts {
		cidr, err := parseCIDR(s)
		if err != nil {
			problems = append(problems, fmt.Sprintf("read pod CIDR: %v", err))
			continue
		}
		if i := slices.IndexFunc(cidrs, func(p netip.Prefix) bool { return p.Addr().Is4() == cidr.Addr().Is4() }); i >= 0 {
			problems = append(problems, fmt.Sprintf("pod CIDR %s: there is one of the same family, %s, which counts", s, cidrs[i]))
			continue
		}
		if cidr != cidr.Masked() {
			problems = append(problems, fmt.Sprintf("pod CIDR %s has bits beyond its length: write %s, which counts", s, cidr.Masked()))
		}
		cidrs = append(cidrs, cidr.Masked())
	}
	return cidrs, problems
}

// isLeavingTaint knows the taint by which the cluster autoscaler says that it is about to delete the node.
func isLeavingTaint(t corev1.Taint) bool { return t.Key == "ToBeDeletedByClusterAutoscaler" }

// readNamespace keeps of a Namespace what Polder reads of it. It always has the label of its name, as the API server
// sees to.
func readNamespace(n *corev1.Namespace) *cluster.Namespace {
	labels := maps.Clone(n.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[corev1.LabelMetadataName] = n.Name
	return &cluster.Namespace{
		Name:        n.Name,
		Labels:      cluster.MakeLabels(labels),
		Terminating: n.DeletionTimestamp != nil || n.Status.Phase == corev1.NamespaceTerminating,
	}
}

// parseAddress reads an address that whoever it is of can have. It is strict where older parsers are not, since two
// readers that disagree on "010.0.0.1" (CVE-2021-29923) disagree on who that is.
func parseAddress(s, whose string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	if !usable(a) {
		return netip.Addr{}, fmt.Errorf("%q is not an address that %s can have", s, whose)
	}
	return a, nil
}

// parseCIDR reads a prefix that pods can have addresses of. It may have bits beyond its length.
func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", s)
	}
	if !usable(p.Addr()) || !usable(p.Masked().Addr()) {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR that pods can have addresses of", s)
	}
	return p, nil
}

func usable(a netip.Addr) bool {
	return a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() &&
		!a.IsLinkLocalUnicast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// sortSnapshot puts the lists into the order that cluster.Snapshot promises.
func sortSnapshot(s *cluster.Snapshot) {
	slices.SortFunc(s.Nodes, func(a, b cluster.Node) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Pods, comparePods)
	s.ServiceCIDRs = sortPrefixes(s.ServiceCIDRs)
	s.Problems = sortProblems(s.Problems)
}

func comparePods(a, b cluster.Pod) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// sortPrefixes sorts in place and leaves out what is there twice.
func sortPrefixes(ps []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ps, netip.Prefix.Compare)
	return slices.Compact(ps)
}

// sortProblems sorts in place and leaves out what is there twice.
func sortProblems(ps []cluster.Problem) []cluster.Problem {
	slices.SortFunc(ps, func(a, b cluster.Problem) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Message, b.Message))
	})
	return slices.Compact(ps)
}
