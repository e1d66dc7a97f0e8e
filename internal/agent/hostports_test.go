package agent

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/service"
	"github.com/polder-net/polder/internal/testnet"
)

func TestAHostPortLeadsToItsPodFromAddToDelAndAcrossRestarts(t *testing.T) {
	n := newServingNode(t, "10.0.1.0/24", "fd00:1::/64")
	pod := testnet.New(t)
	udp := port("127.0.0.1", 53, 5353)
	udp.Protocol = cluster.UDP
	req := withPorts("a", port("", 80, 8080), port("", 80, 8080), port(ownV6, 81, 8081), udp, port("0.0.0.0", 82, 1), port(ownV4, 82, 2))
	resp := n.must(req, pod.File())
	want := everywhere()
	want["["+ownV6+"]:81"], want["[::1]:81"], want[ownV4+":81"] = "[fd00:1::2]:8081", "", ""
	want["127.0.0.1:82"], want[ownV4+":82"], want["[::1]:82"] = "10.0.1.2:1", "10.0.1.2:2", ""
	look := func(when string) {
		t.Helper()
		n.expect(when, want)
		if got := n.leads("127.0.0.1:53", cluster.UDP); got.String() != "10.0.1.2:5353" {
			t.Errorf("%s, UDP leads to %s", when, got)
		}
		n.must(checkOf(req, resp), pod.File())
	}
	look("after ADD")
	before := n.hostPorts(func(*datapath.Datapath) error { return nil })
	n.restart()
	look("after a restart")
	n.serve(false)
	n.serve(true)
	look("after Services were off")
	if after := n.hostPorts(func(*datapath.Datapath) error { return nil }); len(after) != 6 || !reflect.DeepEqual(before, after) {
		t.Errorf("the record was %v, and is %v", before, after)
	}
	n.del("a")
	n.expect("after DEL", nowhere(want))
	if got := n.leads("127.0.0.1:53", cluster.UDP); got.IsValid() {
		t.Errorf("after DEL, UDP leads to %s", got)
	}
	n.withoutPorts()
	n.empty(253)
}

// withoutPorts checks that no host port is recorded.
func (n *node) withoutPorts() {
	n.t.Helper()
	if have := n.hostPorts(func(*datapath.Datapath) error { return nil }); len(have) > 0 {
		n.t.Errorf("host ports are left: %v", have)
	}
}

func TestAHostPortThatAnotherPodHasIsRefusedAndNothingChanges(t *testing.T) {
	n := newServingNode(t, "10.0.1.0/24", "fd00:1::/64")
	first, second := testnet.New(t), testnet.New(t)
	n.must(withPorts("a", port("", 80, 8080), port(ownV4, 90, 9090)), first.File())
	before := n.report()
	for _, taken := range []api.PortMapping{port("", 80, 1), port(ownV4, 80, 1), port("::1", 80, 1), port("0.0.0.0", 90, 1), port("", 90, 1)} {
		n.refused(api.CodePortTaken, withPorts("b", port("", 70, 7070), taken), second.File())
	}
	resp, err := n.call(withPorts("b", port("", 80, 8080)), second.File())
	if err != nil || resp.Error == nil || !strings.Contains(resp.Error.Error(), "container a (pod default/a)") {
		t.Errorf("%+v, %v", resp.Error, err)
	}
	if after := n.report(); len(podLinks(t)) != 1 || !reflect.DeepEqual(after.Addresses, before.Addresses) || len(after.Pods) != 1 {
		t.Errorf("%+v became %+v", before, after)
	}
	n.expect("after refusals", everywhere())
	if have := n.hostPorts(func(*datapath.Datapath) error { return nil }); len(have) != 3 {
		t.Errorf("the record is %v", have)
	}
	udp := port("", 80, 8080)
	udp.Protocol = cluster.UDP
	n.must(withPorts("b", udp, port(ownV6, 90, 9090), port("127.0.0.1", 90, 9090)), second.File())
	n.del("a")
	third := testnet.New(t)
	n.must(withPorts("c", port("", 80, 8080)), third.File())
}

func TestAHostPortOfAPodWhoseNamespaceHasJustVanishedIsFree(t *testing.T) {
	n := newServingNode(t, "10.0.1.0/24")
	first, second := testnet.New(t), testnet.New(t)
	n.must(withPorts("a", port("", 80, 8080)), first.File())
	first.Close()
	n.eventually("its link is gone", func() bool { return len(podLinks(t)) == 0 }) // the agent waits for such news to settle
	n.must(withPorts("b", port("", 80, 8080)), second.File())
	n.expect("after the second ADD", map[string]string{ownV4 + ":80": "10.0.1.3:8080"})
	n.del("a")
	n.expect("after the first's DEL", map[string]string{ownV4 + ":80": "10.0.1.3:8080"})
	second.Close()
	n.eventually("nobody is led to the pod that vanished", func() bool { return !n.leads(ownV4+":80", cluster.TCP).IsValid() })
	n.withoutPorts()
}

func TestWhatAnAddThatFailedOrWasCutOffLeftOfHostPortsIsRemoved(t *testing.T) {
	n := newServingNode(t, "10.0.1.0/24", "fd00:1::/64")
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	n.refused(api.CodeIO, withPorts("failed", port("", 70, 8080)), own)
	n.withoutPorts()

	pod := testnet.New(t)
	kept := n.must(withPorts("kept", port("", 80, 8080)), pod.File())
	n.stop()
	at := func(port uint16) service.Frontend {
		return service.Frontend{Addr: netip.IPv4Unspecified(), Port: port, Protocol: cluster.TCP}
	}
	junk := map[service.Frontend]datapath.HostPort{
		at(71): {Pod: netip.MustParseAddrPort("10.0.1.2:1"), Link: cluster.LinkName("polder", "before-its-link", "eth0")},
		at(72): {Pod: netip.MustParseAddrPort("10.0.1.9:1"), Link: kept.Host.Name}, // of an earlier ADD
		at(73): {},
		{}:     {Pod: netip.MustParseAddrPort("10.0.1.2:1"), Link: "\xff\xfe"},
	}
	n.hostPorts(func(d *datapath.Datapath) error {
		for f, h := range junk {
			if err := d.PutHostPort(f, h); err != nil {
				return err
			}
		}
		return nil
	})
	// A link that was made, and whose record was not written.
	half := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: cluster.LinkName("polder", "half", "eth0")}, PeerName: "half"}
	if err := netlink.LinkAdd(half); err != nil {
		t.Fatal(err)
	}
	n.hostPorts(func(d *datapath.Datapath) error {
		return d.PutHostPort(at(74), datapath.HostPort{Pod: netip.MustParseAddrPort("10.0.1.3:1"), Link: half.Name})
	})
	n.start()
	if have := n.hostPorts(func(*datapath.Datapath) error { return nil }); len(have) != 2 {
		t.Errorf("the record is %v", have)
	}
	want := everywhere()
	for at, to := range want { // the first address was the failed one's
		want[at] = strings.NewReplacer("1.2:", "1.3:", "::2]", "::3]").Replace(to)
	}
	for p := 71; p < 75; p++ {
		want[fmt.Sprintf("%s:%d", ownV4, p)] = ""
	}
	n.expect("after the start", want)
}

func TestAPodWhoseHostPortsWereLostFailsCheckAndCanGo(t *testing.T) {
	n := newServingNode(t, "10.0.1.0/24", "fd00:1::/64")
	pod := testnet.New(t)
	req := withPorts("a", port("", 80, 8080))
	resp := n.must(req, pod.File())
	n.hostPorts(func(d *datapath.Datapath) error {
		return d.DeleteHostPort(service.Frontend{Addr: netip.IPv6Unspecified(), Port: 80, Protocol: cluster.TCP})
	})
	n.refused(api.CodeNotAsExpected, checkOf(req, resp), pod.File())
	n.restart()
	n.refused(api.CodeNotAsExpected, checkOf(req, resp), pod.File())
	n.del("a")
	n.expect("after DEL", nowhere(everywhere()))
	n.withoutPorts()
}

func TestGCEndsTheHostPortsOfWhatItCollects(t *testing.T) {
	n := newServingNode(t, "10.0.1.0/24", "fd00:1::/64")
	kept, collected := testnet.New(t), testnet.New(t)
	n.must(withPorts("kept", port("", 80, 8080)), kept.File())
	n.must(withPorts("collected", port("", 81, 8080)), collected.File())
	n.must(api.Request{Verb: api.GC, Attachment: api.Attachment{Network: "polder"}, Valid: []api.Attachment{at("kept")}}, nil)
	want := everywhere()
	want[ownV4+":81"], want["[::1]:81"] = "", ""
	n.expect("after GC", want)
	if have := n.hostPorts(func(*datapath.Datapath) error { return nil }); len(have) != 2 {
		t.Errorf("the record is %v", have)
	}
}

func TestDelEndsHostPortsAlsoWhileTheClusterIsUnknown(t *testing.T) {
	n := newServingNode(t, "10.0.1.0/24", "fd00:1::/64")
	pod := testnet.New(t)
	n.must(withPorts("a", port("", 80, 8080)), pod.File())
	snap := n.source.Latest()
	n.stop()
	n.source.say(nil)
	n.start()
	n.del("a")
	n.withoutPorts()
	n.source.say(snap)
	n.eventually("nobody is led to it", func() bool { return !n.leads(ownV4+":80", cluster.TCP).IsValid() })
}

func TestHostPortsThatCannotBeAreRefused(t *testing.T) {
	n := newServingNode(t, "10.0.1.0/24")
	pod := testnet.New(t)
	n.refused(api.CodeUnsupported, withPorts("a", port("::", 80, 8080)), pod.File()) // the pod has no such address
	n.serve(false)
	resp, err := n.call(withPorts("a", port("", 80, 8080)), pod.File())
	if err != nil || resp.Error == nil || resp.Error.Code != api.CodeUnsupported || !strings.Contains(resp.Error.Msg, "runtimeConfig.portMappings") {
		t.Errorf("with Services off: %+v, %v", resp.Error, err)
	}
	n.withoutPorts()
	n.empty(253)
}

// Or whoever may create a pod could take any address over, as its node's pods see it.
func TestAHostPortIsOpenedAtTheNodesOwnAddressesAlone(t *testing.T) {
	n := newServingNode(t, "10.0.1.0/24")
	pod := testnet.New(t)
	n.must(withPorts("a", port("198.51.100.7", 80, 8080), port("127.0.0.9", 80, 8080)), pod.File())
	n.expect("after ADD", map[string]string{"198.51.100.7:80": "", "127.0.0.9:80": "10.0.1.2:8080"})
	said := func() bool {
		return strings.Contains(fmt.Sprint(n.report().Problems), "host port 198.51.100.7:80/TCP is not opened: the node has no such address")
	}
	n.eventually("it is said", said)
	ownLink(t, "vip", "198.51.100.7/32")
	n.eventually("it is opened once the node has the address", func() bool {
		return n.leads("198.51.100.7:80", cluster.TCP).IsValid() && !said()
	})
}
