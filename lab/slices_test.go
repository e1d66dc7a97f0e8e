package lab

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// worldOfPods is two nodes in two zones with a pod each, both ready and selected by the Service.
func worldOfPods() (*corev1.Service, []*corev1.Pod, map[string]*corev1.Node) {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, ClusterIPs: []string{"10.96.0.17", "fd00:96::11"},
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	var pods []*corev1.Pod
	nodes := map[string]*corev1.Node{}
	for i := 1; i <= 2; i++ {
		node := fmt.Sprintf("node-%d", i)
		nodes[node] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: node, Labels: map[string]string{corev1.LabelTopologyZone: fmt.Sprintf("zone-%d", i)},
		}}
		pods = append(pods, podOn(node, fmt.Sprintf("web-%d", i), i))
	}
	return s, pods, nodes
}

func podOn(node, name string, number int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{}}},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			PodIPs:     []corev1.PodIP{{IP: fmt.Sprintf("10.244.0.%d", number)}, {IP: fmt.Sprintf("fd00:244::%d", number)}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
}

// said are the slices of IPv4 in words: "name port: address ready/serving/terminating zone>hints, …".
func said(all []*discoveryv1.EndpointSlice) string {
	var lines []string
	for _, s := range all {
		if s.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		var words []string
		for _, e := range s.Endpoints {
			word := e.Addresses[0]
			for mark, is := range map[string]*bool{" ready": e.Conditions.Ready, " serving": e.Conditions.Serving, " terminating": e.Conditions.Terminating} {
				if !*is {
					mark = ""
				}
				words = append(words, word+mark)
			}
			if h := e.Hints; h != nil {
				text, _ := json.Marshal(h)
				words = append(words, word+" "+string(text))
			}
		}
		slices.Sort(words)
		words = slices.Compact(words)
		words = slices.DeleteFunc(words, func(w string) bool { // alone only where it has no mark
			return !strings.Contains(w, " ") && slices.ContainsFunc(words, func(o string) bool { return strings.HasPrefix(o, w+" ") })
		})
		var ports []string
		for _, p := range s.Ports {
			ports = append(ports, fmt.Sprintf("%d/%s", *p.Port, *p.Protocol))
		}
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s %s: %s", s.Name, strings.Join(ports, " "), strings.Join(words, ", "))))
	}
	return strings.Join(lines, "\n")
}

func TestSlicesSayOfPodsWhatKubernetesWould(t *testing.T) {
	const one, two = "10.244.0.1 ready, 10.244.0.1 serving", "10.244.0.2 ready, 10.244.0.2 serving"
	for _, c := range []struct {
		name   string
		change func(s *corev1.Service, pods []*corev1.Pod, nodes map[string]*corev1.Node)
		want   string
	}{
		{"all are ready", func(*corev1.Service, []*corev1.Pod, map[string]*corev1.Node) {}, "web-ipv4 8080/TCP: " + one + ", " + two},
		{"one is not ready", func(_ *corev1.Service, p []*corev1.Pod, _ map[string]*corev1.Node) { p[0].Status.Conditions = nil },
			"web-ipv4 8080/TCP: 10.244.0.1, " + two},
		{"one terminates", func(_ *corev1.Service, p []*corev1.Pod, _ map[string]*corev1.Node) {
			p[0].DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		}, "web-ipv4 8080/TCP: 10.244.0.1 serving, 10.244.0.1 terminating, " + two},
		{"those that are not ready are published", func(s *corev1.Service, p []*corev1.Pod, _ map[string]*corev1.Node) {
			s.Spec.PublishNotReadyAddresses, p[0].Status.Conditions = true, nil
		}, "web-ipv4 8080/TCP: 10.244.0.1 ready, " + two},
		{"one has ended", func(_ *corev1.Service, p []*corev1.Pod, _ map[string]*corev1.Node) {
			p[0].Status.Phase = corev1.PodFailed
		},
			"web-ipv4 8080/TCP: " + two},
		{"one is in another namespace", func(_ *corev1.Service, p []*corev1.Pod, _ map[string]*corev1.Node) { p[0].Namespace = "x" },
			"web-ipv4 8080/TCP: " + two},
		{"one has no address yet", func(_ *corev1.Service, p []*corev1.Pod, _ map[string]*corev1.Node) { p[0].Status.PodIPs = nil },
			"web-ipv4 8080/TCP: " + two},
		{"the node is gone", func(_ *corev1.Service, _ []*corev1.Pod, n map[string]*corev1.Node) { delete(n, "node-1") },
			"web-ipv4 8080/TCP: " + two},
		{"none is selected", func(s *corev1.Service, _ []*corev1.Pod, _ map[string]*corev1.Node) { s.Spec.Selector["app"] = "x" }, "web-ipv4 :"},
		{"there is no selector", func(s *corev1.Service, _ []*corev1.Pod, _ map[string]*corev1.Node) { s.Spec.Selector = nil }, ""},
		{"one family", func(s *corev1.Service, _ []*corev1.Pod, _ map[string]*corev1.Node) {
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
		}, ""},
		{"a port's name leads to other numbers", func(s *corev1.Service, p []*corev1.Pod, _ map[string]*corev1.Node) {
			s.Spec.Ports[0].TargetPort = intstr.FromString("http")
			p[0].Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 81}}
			p[1].Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 82}}
		}, "web-ipv4 81/TCP: " + one + "\nweb-ipv4-2 82/TCP: " + two},
		{"clients of the zone are preferred", func(s *corev1.Service, p []*corev1.Pod, _ map[string]*corev1.Node) {
			distribution := corev1.ServiceTrafficDistributionPreferSameZone
			s.Spec.TrafficDistribution, p[1].Status.Conditions = &distribution, nil
		}, `web-ipv4 8080/TCP: 10.244.0.1 ready, 10.244.0.1 serving, 10.244.0.1 {"forZones":[{"name":"zone-1"}]}, 10.244.0.2`},
		{"clients of the node are preferred", func(s *corev1.Service, p []*corev1.Pod, _ map[string]*corev1.Node) {
			distribution := corev1.ServiceTrafficDistributionPreferSameNode
			s.Spec.TrafficDistribution, p[1].Status.Conditions = &distribution, nil
		}, `web-ipv4 8080/TCP: 10.244.0.1 ready, 10.244.0.1 serving, 10.244.0.1 {"forZones":[{"name":"zone-1"}],"forNodes":[{"name":"node-1"}]}, 10.244.0.2`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, pods, nodes := worldOfPods()
			c.change(s, pods, nodes)
			got := said(endpointSlices(s, pods, nodes))
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			slices.Reverse(pods)
			if again := said(endpointSlices(s, pods, nodes)); again != got {
				t.Errorf("in another order it is\n%s\nnot\n%s", again, got)
			}
		})
	}
}

func TestASliceHasAHundredEndpointsAtMost(t *testing.T) {
	s, _, nodes := worldOfPods()
	var pods []*corev1.Pod
	for i := range 250 {
		pods = append(pods, podOn("node-1", fmt.Sprintf("web-%d", i), i))
	}
	var sizes []int
	names := map[string]bool{}
	for _, slice := range endpointSlices(s, pods, nodes) {
		sizes, names[slice.Name] = append(sizes, len(slice.Endpoints)), true
	}
	if !slices.Equal(sizes, []int{100, 100, 50, 100, 100, 50}) || len(names) != 6 {
		t.Errorf("sizes are %v, names %v", sizes, names)
	}
}
