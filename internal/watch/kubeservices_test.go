package watch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/polder-net/polder/internal/cluster"
)

func kubeService(namespace, name, ip string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{"app": name}}}
	s.Spec.ClusterIP, s.Spec.ClusterIPs = ip, []string{ip}
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}}
	return s
}

func kubeSlice(namespace, name, service string, addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, AddressType: discoveryv1.AddressTypeIPv4}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	port, tcp, http, yes := int32(8080), corev1.ProtocolTCP, "http", true
	s.Ports = []discoveryv1.EndpointPort{{Name: &http, Protocol: &tcp, Port: &port}}
	for i, a := range addresses {
		node := fmt.Sprintf("ip-10-0-%d-%d.eu-west-1.compute.internal", i/250, i%250)
		zone := fmt.Sprintf("eu-west-1%c", 'a'+i%3)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a}, NodeName: &node, Zone: &zone,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes},
			Hints:      &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: service + "-0", UID: "u"},
		})
	}
	return s
}

func kubeServiceCIDR(name string, cidrs ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
}

const (
	serviceA = "service ns/a uid=uid-a [10.96.0.1] ports=[{http TCP 80 0}]\n"
	sliceA   = "slice a-1 of ns/a v4=true ports=[{http TCP 8080}] {10.1.0.1 node=ip-10-0-0-0.eu-west-1.compute.internal [eu-west-1a] [] ready=true serving=true terminating=false}\n"
	cidrs    = "service CIDRs [10.96.0.0/16]\n"
)

func TestServicesOfTheAPIAreFollowed(t *testing.T) {
	for _, noStreaming := range []bool{false, true} {
		t.Run(fmt.Sprintf("without streaming lists: %t", noStreaming), func(t *testing.T) {
			f := newFakeAPI(t)
			f.noStreaming = noStreaming
			f.put(kubeNode("a", "10.0.0.1", "10.1.0.0/24"))
			f.put(kubeServiceCIDR("kubernetes", "10.96.0.0/16"))
			f.put(kubeService("ns", "a", "10.96.0.1"))
			f.put(kubeSlice("ns", "a-1", "a", "10.1.0.1"))
			others := kubeService("ns", "b", "10.96.0.2")
			others.Labels[labelProxyName] = "someone"
			f.put(others)
			headless := kubeSlice("ns", "h-1", "h", "10.1.0.9")
			headless.Labels[corev1.IsHeadlessService] = ""
			f.put(headless)
			k := f.sourceOf(t, "a", true, false)
			run(t, k.Run)
			awaitText(t, k, nodeA+cidrs+serviceA+sliceA)

			f.put(kubeService("ns", "b", "10.96.0.2")) // another proxy's no longer
			awaitText(t, k, nodeA+cidrs+serviceA+sliceA+strings.NewReplacer("/a", "/b", "-a", "-b", "0.1]", "0.2]").Replace(serviceA))
			f.put(others)
			awaitText(t, k, nodeA+cidrs+serviceA+sliceA)
			f.remove(kubeService("ns", "a", ""))
			awaitText(t, k, nodeA+cidrs+sliceA)
			f.put(kubeSlice("ns", "a-1", "c", "10.1.0.1")) // a slice that goes to another Service
			awaitText(t, k, nodeA+cidrs+strings.Replace(sliceA, "of ns/a", "of ns/c", 1))
			f.remove(kubeSlice("ns", "a-1", "c"))
			f.put(kubeServiceCIDR("more", "10.97.0.0/16", "x"))
			awaitText(t, k, nodeA+"service CIDRs [10.96.0.0/16 10.97.0.0/16]\nproblem ServiceCIDR/more: read CIDR: \"x\" is not a CIDR\n")
		})
	}
}

func TestServicesThatNobodyAskedForAreNotRead(t *testing.T) {
	f := newFakeAPI(t)
	f.put(kubeNode("a", "10.0.0.1", "10.1.0.0/24"))
	f.put(kubeService("ns", "a", "10.96.0.1"))
	k := f.source(t, "a")
	run(t, k.Run)
	s := awaitText(t, k, nodeA)
	if n := f.count("GET services") + f.count("GET endpointslices") + f.count("GET servicecidrs"); n > 0 || s.Services != nil {
		t.Errorf("%d requests", n)
	}
}

func TestAnAPIServerWithoutServiceCIDRsIsEnough(t *testing.T) {
	f := newFakeAPI(t)
	f.unknown = "servicecidrs"
	f.put(kubeNode("a", "10.0.0.1", "10.1.0.0/24"))
	f.put(kubeService("ns", "a", "10.96.0.1"))
	f.put(kubeServiceCIDR("kubernetes", "10.96.0.0/16"))
	k := f.sourceOf(t, "a", true, false)
	run(t, k.Run)
	awaitText(t, k, nodeA+serviceA)
	f.set(func() { f.unknown = "" }) // it is updated
	awaitText(t, k, nodeA+cidrs+serviceA)
}

func TestNothingIsSaidBeforeEveryListIsRead(t *testing.T) {
	k := unheard(t, true, false)
	for _, read := range []func([]any, string) error{k.nodes.Replace, k.slices.Replace, k.cidrs.Replace, k.pods.Replace, k.svcs.Replace} {
		if s := k.Latest(); s != nil {
			t.Errorf("says too early:\n%s", text(s))
		}
		must(t, read(nil, ""))
	}
	if k.Latest() == nil {
		t.Error("says nothing though everything has been read")
	}
}

// toldOf returns a source that has read everything, and was told of objects since.
func toldOf(t testing.TB, objs ...any) *KubeSource {
	t.Helper()
	k := unheard(t, true, false)
	for _, err := range []error{k.nodes.Replace([]any{kubeNode("a", "10.0.0.1", "10.1.0.0/24")}, ""), k.pods.Replace(nil, ""), k.cidrs.Replace(nil, ""), k.svcs.Replace(nil, ""), k.slices.Replace(nil, "")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range objs {
		if err := tell(k, o); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func tell(k *KubeSource, obj any) error {
	if _, ok := obj.(*corev1.Service); ok {
		return k.svcs.Update(obj)
	}
	return k.slices.Update(obj)
}

func TestWhatStaysOfServicesIsTheSame(t *testing.T) {
	a, b, a1, a2 := kubeService("ns", "a", "10.96.0.1"), kubeService("ns", "b", "10.96.0.2"), kubeSlice("ns", "a-1", "a", "10.1.0.1"), kubeSlice("ns", "a-2", "a", "10.1.0.2")
	k := toldOf(t, a, b, a1, a2)
	first := k.Latest()
	name := cluster.ServiceName{Namespace: "ns", Name: "a"}

	other := a1.DeepCopy()
	other.ResourceVersion, other.Endpoints[0].TargetRef = "7", nil
	must(t, k.slices.Update(other))
	must(t, k.slices.Replace([]any{a2.DeepCopy(), other}, ""))
	must(t, k.svcs.Replace([]any{b.DeepCopy(), a.DeepCopy()}, ""))
	if k.Latest() != first {
		t.Error("another Snapshot after a relist of the same")
	}

	must(t, k.slices.Update(kubeSlice("ns", "a-2", "a", "10.1.0.7")))
	next := k.Latest()
	if changed := next.Services.ChangedSince(first.Services); !slices.Equal(changed, []cluster.ServiceName{name}) {
		t.Errorf("changed: %v", changed)
	}
	was, is := first.Services.Get(name), next.Services.Get(name)
	if was.Service != is.Service || was.Slices[0] != is.Slices[0] || was.Slices[1] == is.Slices[1] || &next.Nodes[0] != &first.Nodes[0] {
		t.Error("more is new than the slice")
	}
	if was.Slices[1].Endpoints[0].Addr.String() != "10.1.0.2" {
		t.Error("what was published has changed")
	}

	must(t, k.nodes.Update(kubeNode("b", "10.0.0.2", "10.1.1.0/24")))
	last := k.Latest()
	if last.Services != next.Services || last == next {
		t.Error("Services are others after a change of a node")
	}

	must(t, k.slices.Update(kubeSlice("ns", "a-1", "a", "10.1.0.7")))
	must(t, k.slices.Update(a1))
	if k.Latest() != last {
		t.Error("another Snapshot though the slice is what it was")
	}
}

// Whatever way it came to be, what is said is what a source that reads it for the first time says.
func TestTheHistoryOfServicesDoesNotMatter(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 30 {
		k := toldOf(t)
		services, sliced := map[string]any{}, map[string]any{}
		last := k.Latest()
		for range 200 {
			step(t, k, r, services, sliced)
			if r.IntN(5) > 0 {
				continue
			}
			next := k.Latest()
			mustDifferAsSaid(t, last, next)
			last = next
		}
		got, want := k.Latest(), toldOf(t, append(valuesOf(services), valuesOf(sliced)...)...).Latest()
		if text(got) != text(want) {
			t.Fatalf("seed %d: got:\n%swant:\n%s", seed, text(got), text(want))
		}
	}
	if t.Failed() {
		t.Logf("seed %d", seed)
	}
}

// step changes one object, or relists.
func step(t *testing.T, k *KubeSource, r *rand.Rand, services, sliced map[string]any) {
	t.Helper()
	n := r.IntN(4)
	service, slice := fmt.Sprintf("s%d", n), fmt.Sprintf("e%d", r.IntN(6))
	switch r.IntN(6) {
	case 0:
		must(t, k.svcs.Delete(kubeService("ns", service, "")))
		delete(services, service)
	case 1:
		must(t, k.slices.Delete(kubeSlice("ns", slice, "")))
		delete(sliced, slice)
	case 2:
		must(t, k.svcs.Replace(valuesOf(services), ""))
		must(t, k.slices.Replace(valuesOf(sliced), ""))
	case 3:
		o := kubeService("ns", service, fmt.Sprintf("10.96.0.%d", r.IntN(3)))
		if r.IntN(4) == 0 {
			o.Spec.Type = corev1.ServiceTypeExternalName
		}
		services[service] = o
		must(t, k.svcs.Update(o))
	default:
		o := kubeSlice("ns", slice, service, fmt.Sprintf("10.1.0.%d", r.IntN(3)))
		if r.IntN(4) == 0 {
			o.Labels = nil
		}
		sliced[slice] = o
		must(t, k.slices.Update(o))
	}
}

func valuesOf(m map[string]any) (all []any) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// mustDifferAsSaid checks that two Snapshots differ in what ChangedSince names, and in no other Service.
func mustDifferAsSaid(t *testing.T, old, now *cluster.Snapshot) {
	t.Helper()
	changed := now.Services.ChangedSince(old.Services)
	if (now == old) != (len(changed) == 0 && text(now) == text(old)) {
		t.Errorf("the same Snapshot: %t, changed: %v", now == old, changed)
	}
	one := func(s *cluster.Services, name cluster.ServiceName) string {
		return servicesText((*cluster.Services)(nil).With(map[cluster.ServiceName]*cluster.ServiceObjects{name: s.Get(name)}))
	}
	for i := range 4 {
		name := cluster.ServiceName{Namespace: "ns", Name: fmt.Sprintf("s%d", i)}
		if (one(old.Services, name) != one(now.Services, name)) != slices.Contains(changed, name) {
			t.Errorf("%s: from:\n%sto:\n%schanged: %v", name, one(old.Services, name), one(now.Services, name), changed)
		}
	}
}
