package explain

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Concerns says whether what is wrong with an object, "NetworkPolicy/default/web", may have to do with an answer: a policy
// does that is about one of the ends, in whichever direction, and so does an end. What the cluster does not have may be
// about anything.
func (c *Cluster) Concerns(a Answer, object string) bool {
	kind, name, _ := strings.Cut(object, "/")
	pods := c.endPods(a)
	switch kind {
	case "NetworkPolicy", "ClusterNetworkPolicy":
		return !c.hasPolicy(object) || slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return c.isAbout(object, p) })
	case "Pod":
		return c.rawPod(name) == nil || slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return podName(p) == name })
	case "Namespace": // one without pods may be meant to be another
		in := func(p *corev1.Pod) bool { return p.Namespace == name }
		return slices.ContainsFunc(pods, in) || !slices.ContainsFunc(c.objects.Pods, in)
	case "Node":
		return c.nodeNamed(name) == nil || a.From.Name == name || a.To.Name == name ||
			slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.Spec.NodeName == name })
	case "Service":
		return c.rawService(name) == nil || a.Service != nil && a.Service.Name == name
	case "EndpointSlice":
		return a.Service != nil
	}
	return true
}

// endPods are the pods at either end: those that were asked for, and those that a Service may choose.
func (c *Cluster) endPods(a Answer) (pods []*corev1.Pod) {
	var names []string
	for _, e := range []End{a.From, a.To} {
		if e.Kind == "pod" {
			names = append(names, e.Name)
		}
	}
	for _, w := range a.Ways {
		for _, s := range w.sides() {
			names = union(names, s.Pods)
		}
	}
	for _, name := range names {
		if p := c.rawPod(name); p != nil {
			pods = append(pods, p)
		}
	}
	return pods
}

// rawPod finds a pod, ended or not; nil if there is none.
func (c *Cluster) rawPod(name string) *corev1.Pod {
	for _, p := range c.objects.Pods {
		if podName(p) == name {
			return p
		}
	}
	return nil
}

func podName(p *corev1.Pod) string { return p.Namespace + "/" + p.Name }

func (c *Cluster) hasPolicy(object string) bool {
	for _, p := range c.objects.NetworkPolicies {
		if "NetworkPolicy/"+p.Namespace+"/"+p.Name == object {
			return true
		}
	}
	for _, p := range c.objects.ClusterPolicies {
		if "ClusterNetworkPolicy/"+p.Name == object {
			return true
		}
	}
	return false
}

func (c *Cluster) isAbout(object string, p *corev1.Pod) bool {
	for _, policy := range c.objects.About(p) {
		if policy.String() == object {
			return true
		}
	}
	return false
}
