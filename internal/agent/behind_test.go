package agent

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/netdev"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/testnet"
)

// othersPod has another plugin make a pod's link: a veth pair under that plugin's name.
func othersPod(t *testing.T, link, prefix string) *testnet.NS {
	t.Helper()
	pod := testnet.New(t)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: link}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod.File().Fd())}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	if err := netlink.LinkSetUp(veth); err != nil {
		t.Fatal(err)
	}
	pod.Addr("eth0", prefix)
	return pod
}

func behind(id string, verb api.Verb, prefix string) api.Request {
	return api.Request{Verb: verb, Attachment: at(id), Behind: true, PodNamespace: "default", PodName: id,
		Addresses: []api.Address{{Prefix: netip.MustParsePrefix(prefix)}}, Pod: &api.Interface{Name: "eth0"}}
}

func (n *node) hooks(link string) map[string]string {
	n.t.Helper()
	hooks := map[string]string{}
	for _, h := range n.report().Programs {
		if h.Link == link {
			hooks[h.Program] = h.How
		}
	}
	return hooks
}

func TestThePodOfAnotherPluginIsGuardedAndNothingElseOfIt(t *testing.T) {
	const link, prefix = "veth9c1d", "10.88.0.5/16"
	addr := netip.MustParseAddr("10.88.0.5")
	world := newTown("10.0.1.0/24").pod("web").isolate("web", "")
	n := newNode(t, world.Snapshot, chainedTo)
	n.must(api.Request{Verb: api.Status}, nil) // ADD would succeed
	pod := othersPod(t, link, prefix)
	before, err := netlink.LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	n.must(behind("web", api.Add, prefix), pod.File())
	guarded := func(when string) {
		t.Helper()
		e, ok := n.endpoint(addr)
		if !ok || !isIsolated(e.Ingress) || e.Late || e.Index != before.Attrs().Index || e.HostMAC != [6]byte(before.Attrs().HardwareAddr) {
			t.Errorf("%s: its endpoint is %+v, %t", when, e, ok)
		}
		hooks := n.hooks(link)
		if len(hooks) != 2 || hooks[string(desired.FromPod)] == "missing" || hooks[string(desired.ToPod)] == "missing" {
			t.Errorf("%s: hooks are %v", when, hooks)
		}
		if s := n.states("web"); s.Ingress != api.Isolated {
			t.Errorf("%s: it is said to be %+v", when, s)
		}
		n.must(behind("web", api.Check, prefix), pod.File())
	}
	guarded("at first")
	n.refused(api.CodeExists, behind("web", api.Add, prefix), pod.File())
	n.restart()
	guarded("after a restart")
	n.stop()
	if w := n.agent.datapath.PolicyWrites(); w.Rows != 0 {
		t.Errorf("the next agent wrote %+v", w)
	}
	n.start()
	if err := netlink.LinkSetAlias(before, "somebody else's"); err != nil {
		t.Fatal(err)
	}
	n.source.say(world.pod("other").namespace("more", false).Snapshot)
	n.eventually("its record is written anew", func() bool {
		resp, err := n.call(behind("web", api.Check, prefix), pod.File())
		return err == nil && resp.Error == nil
	})
	guarded("after damage to its record")
	routes, err := netlink.RouteList(before, netlink.FAMILY_ALL)
	for _, r := range routes {
		if int(r.Protocol) == netdev.Protocol || r.Dst != nil && r.Dst.IP.Equal(addr.AsSlice()) {
			t.Errorf("it has a route: %v", r)
		}
	}
	if err != nil {
		t.Error(err)
	}

	n.del("web")
	n.del("web")
	if _, ok := n.endpoint(addr); ok {
		t.Error("its endpoint is left")
	}
	after, err := netlink.LinkByName(link)
	if err != nil || after.Attrs().Alias != "" || after.Attrs().Index != before.Attrs().Index || after.Attrs().MTU != before.Attrs().MTU {
		t.Errorf("its link is %+v, %v", after, err)
	}
	n.refused(api.CodeUnknownContainer, behind("web", api.Check, prefix), pod.File())
}

func TestThePodsOfAnotherPluginAreCollected(t *testing.T) {
	n := newNode(t, newTown("10.0.1.0/24").pod("one").pod("two").pod("three").Snapshot, chainedTo)
	for id, link := range map[string]string{"one": "vetha", "two": "vethb"} {
		prefix := map[string]string{"one": "10.88.0.5/16", "two": "10.88.0.6/16"}[id]
		n.must(behind(id, api.Add, prefix), othersPod(t, link, prefix).File())
	}
	n.must(api.Request{Verb: api.GC, Attachment: api.Attachment{Network: "polder"}, Valid: []api.Attachment{at("two")}}, nil)
	if r := n.report(); len(r.Pods) != 1 || r.Pods[0].Name != "two" || r.Pods[0].Link != "vethb" {
		t.Errorf("%+v", r.Pods)
	}
	// One whose link went without a DEL, and another that gets its address.
	link, err := netlink.LinkByName("vethb")
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	n.must(behind("three", api.Add, "10.88.0.6/16"), othersPod(t, "vethc", "10.88.0.6/16").File())
	if r := n.report(); len(r.Pods) != 1 || r.Pods[0].Name != "three" {
		t.Errorf("%+v", r.Pods)
	}
	n.del("three")
}

func TestWhoIsNotToGuardOthersLeavesThemAlone(t *testing.T) {
	for name, settings := range map[string][]func(*Config){
		"with routing of its own": {judged}, "without policies": {chainedTo, func(c *Config) { c.Options.Policies = false }},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, newTown("10.0.1.0/24").Snapshot, settings...)
			pod := othersPod(t, "vethx", "10.88.0.5/16")
			n.must(behind("web", api.Add, "10.88.0.5/16"), pod.File())
			n.must(behind("web", api.Check, "10.88.0.5/16"), pod.File())
			n.del("web")
			if r := n.report(); len(r.Pods) > 0 {
				t.Errorf("%+v", r.Pods)
			}
			if _, ok := n.endpoint(netip.MustParseAddr("10.88.0.5")); ok {
				t.Error("it has an endpoint")
			}
		})
	}
}

func TestAnInterfaceThatCannotBeGuardedIsRefused(t *testing.T) {
	n := newNode(t, newTown("10.0.1.0/24").pod("web").Snapshot, chainedTo)
	pod := testnet.New(t)
	testnet.Pair(t, testnet.New(t), "far", pod, "eth0")
	n.refused(api.CodeUnsupported, behind("web", api.Add, "10.88.0.5/16"), pod.File())
	if r := n.report(); len(r.Pods) > 0 {
		t.Errorf("%+v", r.Pods)
	}
}

// A pod whose policies do not fit passes nothing, and its owner is told.
func TestAPodWhosePoliciesDoNotFitIsClosed(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web")
	a := &Agent{datapath: &datapath.Datapath{}, snapshot: world.Snapshot} // in these maps is nothing
	a.cfg.Options.Policies = true
	a.openPolicies()
	web := podName("default", "web")
	a.policies.subjects[web] = policy.Subject{Ingress: 77}
	p := a.judge(localPod("web"))
	if p.Ingress != uint64(policy.Closed) || p.Egress != uint64(policy.Closed) {
		t.Errorf("%+v", p)
	}
	a.pods = podsOf(p)
	if problems := a.policyProblems(); len(problems) != 1 || problems[0].Object != "Pod/default/web" || problems[0].Message != unfit {
		t.Errorf("%+v", problems)
	}
	a.policies.subjects[web] = policy.Subject{}
	if p = a.judge(p); p.Ingress != 0 || p.Egress != 0 || p.Late || len(a.policyProblems()) > 0 {
		t.Errorf("%+v", p)
	}
}
