package watch

import (
	"fmt"
	"hash/maphash"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/polder-net/polder/internal/cluster"
)

// readPod keeps of a Pod what Polder reads of it. A pod that has ended holds no address: another may have it by now.
func readPod(p *corev1.Pod, t *objectTexts) (*cluster.Pod, []string) {
	pod := &cluster.Pod{
		Namespace:   t.shared(p.Namespace),
		Name:        p.Name,
		UID:         podUID(p),
		Node:        t.shared(p.Spec.NodeName),
		HostNetwork: p.Spec.HostNetwork,
		Labels:      t.labels(p.Labels),
	}
	var problems []string
	if pod.Ports, problems = t.ports(p); p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return pod, problems
	}
	ips := p.Status.PodIPs
	if len(ips) == 0 && p.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: p.Status.PodIP}}
	}
	for _, ip := range ips {
		addr, err := parseAddress(ip.IP, "a node or a pod")
		if err != nil {
			problems = append(problems, fmt.Sprintf("read pod IP: %v", err))
		} else if !slices.Contains(pod.Addresses, addr) {
			pod.Addresses = append(pod.Addresses, addr)
		}
	}
	pod.Addresses = slices.Clip(pod.Addresses)
	return pod, problems
}

// Annotations of a mirror pod: what the API has of a pod that the kubelet runs from a file of its own. The API gives it a UID,
// but the kubelet and the runtime know it by that of the file, which is called its hash.
const (
	annotationMirror = corev1.MirrorPodAnnotationKey
	annotationHash   = "kubernetes.io/config.hash"
)

// podUID is the UID by which the kubelet and the runtime know a pod.
func podUID(p *corev1.Pod) string {
	if hash := p.Annotations[annotationHash]; hash != "" && p.Annotations[annotationMirror] != "" {
		return hash
	}
	return string(p.UID)
}

// objectTexts holds one copy of what thousands of objects have: texts, and, as the pods of one workload mostly do, all
// of their labels or ports. It is of one reader at a time. The nil *objectTexts shares nothing.
type objectTexts struct {
	texts
	seed  maphash.Seed
	sets  map[uint64]cluster.Labels
	named map[uint64][]cluster.PodPort
}

func newObjectTexts() *objectTexts {
	return &objectTexts{texts: texts{}, seed: maphash.MakeSeed(), sets: map[uint64]cluster.Labels{}, named: map[uint64][]cluster.PodPort{}}
}

func (t *objectTexts) shared(s string) string {
	if t == nil {
		return s
	}
	return t.texts.shared(s)
}

func (t *objectTexts) labels(m map[string]string) cluster.Labels {
	all := cluster.MakeLabels(m)
	if t == nil || len(all) == 0 {
		return all
	}
	for i, l := range all {
		all[i] = cluster.Label{Key: t.shared(l.Key), Value: t.shared(l.Value)}
	}
	return sharedSet(t.sets, t.seed, all)
}

// ports reads a pod's ports that have a name, of its containers and of those that run beside them.
func (t *objectTexts) ports(p *corev1.Pod) (all []cluster.PodPort, problems []string) {
	containers := p.Spec.Containers
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(slices.Clip(containers), *c)
		}
	}
	for i := range containers {
		for _, o := range containers[i].Ports {
			if o.Name == "" {
				continue
			}
			protocol, err := parseProtocol(o.Protocol)
			number, ok := portNumber(o.ContainerPort)
			if !ok {
				err = fmt.Errorf("%d is not a port", o.ContainerPort)
			}
			if port := (cluster.PodPort{Name: t.shared(o.Name), Protocol: protocol, Port: number}); err != nil {
				problems = append(problems, fmt.Sprintf("port %q: %v", o.Name, err))
			} else if !slices.Contains(all, port) {
				all = append(all, port)
			}
		}
	}
	all = slices.Clip(all)
	if t == nil || len(all) == 0 {
		return all, problems
	}
	return sharedSet(t.named, t.seed, all), problems
}

// sharedSet returns a list that says what all says, and that others may have, too. Nobody changes it.
func sharedSet[S ~[]E, E comparable](had map[uint64]S, seed maphash.Seed, all S) S {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, e := range all {
		maphash.WriteComparable(&h, e)
	}
	same, ok := had[h.Sum64()]
	switch {
	case ok && slices.Equal(same, all):
		return same
	case ok:
		return all
	}
	if len(had) >= maxTexts {
		clear(had)
	}
	had[h.Sum64()] = all
	return all
}
