package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/testnet"
	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

func TestLibcniDrivesTheInstalledConfiguration(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 1})
	n := newRuntimeNode(t, c.Nodes()[0])
	t.Run("a pod shows in every trace that is looked for", func(t *testing.T) { n.with(t).showsEverywhere() })
	t.Run("life of a pod in every version", func(t *testing.T) { n.with(t).livesInEveryVersion() })
	t.Run("DEL is fine with whatever is gone", func(t *testing.T) { n.with(t).delOfWhatIsGone() })
	t.Run("GC removes what is not listed", func(t *testing.T) { n.with(t).collects() })
	t.Run("ADD twice never gives a second address", func(t *testing.T) { n.with(t).addsTwice() })
	t.Run("the longest names fit", func(t *testing.T) { n.with(t).longNames() })
	t.Run("networks leave each other alone", func(t *testing.T) { n.with(t).networksApart() })
	t.Run("hostile input changes nothing", func(t *testing.T) { n.with(t).hostileInput() })
	t.Run("CHECK names what somebody changed", func(t *testing.T) { n.with(t).checksAfterTampering() })
	t.Run("an address that somebody else uses is not given", func(t *testing.T) { n.with(t).foreignAddresses() })
	t.Run("STATUS without an agent is 50", func(t *testing.T) { n.with(t).statusWithoutAgent() })
	n.nothingLeft()
}

func (n *runtimeNode) showsEverywhere() {
	n.shaped = true // such a pod's program hangs on a pinned link, others' on a filter
	list, c := n.installed(), limited(newContainer(n.t, "seen"))
	n.add(list, c)
	if _, err := n.ipam("ADD", "other", "seen"); err != nil {
		n.t.Fatal(err)
	}
	found, err := n.traces()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, kind := range []string{"link ", "route ", "neighbour ", "pin ", "endpoint ", "reservation ", "2 addresses of "} {
		if !slices.ContainsFunc(found, func(s string) bool { return strings.HasPrefix(s, kind) }) {
			n.t.Errorf("no %sin %v", kind, found)
		}
	}
	if _, err := n.ipam("DEL", "other", "seen"); err != nil {
		n.t.Fatal(err)
	}
	n.del(list, c)
	n.nothingLeft()
}

func (n *runtimeNode) livesInEveryVersion() {
	for _, v := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		list, c := n.installedAs(v), newContainer(n.t, "version-"+v)
		r := n.add(list, c)
		if len(r.IPs) != 2 || len(r.Interfaces) != 2 || r.Interfaces[1].Sandbox != c.NetNS {
			n.t.Errorf("%s: result is %+v", v, r)
		}
		if v >= "0.4.0" {
			if err := n.check(list, c); err != nil {
				n.t.Errorf("%s: CHECK: %v", v, err)
			}
		}
		if v >= "1.1.0" {
			if err := n.status(list); err != nil {
				n.t.Errorf("%s: STATUS: %v", v, err)
			}
			if err := n.gc(list, c); err != nil {
				n.t.Errorf("%s: GC: %v", v, err)
			}
			if reportOf(n.t, n.Node).Pods[0].ContainerID != c.ContainerID {
				n.t.Errorf("%s: GC removed what is listed", v)
			}
		}
		n.del(list, c)
		err := n.cni(func(ctx context.Context, cni *libcni.CNIConfig) error {
			info, err := cni.GetVersionInfo(ctx, "polder-cni")
			if err == nil && !slices.Contains(info.SupportedVersions(), v) {
				err = fmt.Errorf("it supports %v", info.SupportedVersions())
			}
			return err
		})
		if err != nil {
			n.t.Errorf("%s: VERSION: %v", v, err)
		}
	}
	n.nothingLeft()
}

func (n *runtimeNode) delOfWhatIsGone() {
	list, c := n.installed(), newContainer(n.t, "gone")
	n.add(list, c)
	n.del(list, c)
	n.del(list, c)
	n.del(list, newContainer(n.t, "never-was"))

	n.add(list, c)
	without := c
	without.RuntimeConf = &libcni.RuntimeConf{ContainerID: c.ContainerID, IfName: c.IfName}
	n.del(list, without) // no namespace given
	n.nothingLeft()

	n.add(list, c)
	c.NetNS = "/run/netns/it-is-gone"
	n.del(list, c)
	n.nothingLeft()

	c = newContainer(n.t, "vanished")
	n.add(list, c)
	c.ns.Close() // and the link with it
	n.del(list, c)
	n.nothingLeft()
}

func (n *runtimeNode) collects() {
	list := n.installed()
	a, b := newContainer(n.t, "gc-a"), newContainer(n.t, "gc-b")
	n.add(list, a)
	kept := n.add(list, b)
	_, err := n.plugin("polder-cni", "GC", `{"cniVersion":"1.1.0","name":"polder","type":"polder-cni"}`)
	if code(err) != 7 || !strings.Contains(err.Error(), "valid-attachments") {
		n.t.Errorf("GC without the list: %v", err)
	}
	if used := n.pool().Used; used != 2 {
		n.t.Errorf("after it %d addresses are in use", used)
	}
	if err := n.gc(list, b); err != nil {
		n.t.Errorf("GC: %v", err)
	}
	report := reportOf(n.t, n.Node)
	if len(report.Pods) != 1 || !slices.Equal(report.Pods[0].Addresses, addresses(kept)) {
		n.t.Errorf("GC left %+v", report.Pods)
	}
	if err := n.gc(list); err != nil {
		n.t.Errorf("GC with an empty list: %v", err)
	}
	n.nothingLeft()
}

func (n *runtimeNode) addsTwice() {
	list, c := n.installed(), newContainer(n.t, "twice")
	n.add(list, c)
	if r, err := n.tryAdd(list, c); err == nil {
		n.t.Errorf("a second ADD gives %+v", r)
	} else if code(err) != 101 {
		n.t.Errorf("a second ADD: %v", err)
	}
	if used := n.pool().Used; used != 1 {
		n.t.Errorf("%d addresses are in use", used)
	}
	n.del(list, c)
	both := make([]bool, 2)
	parallel(2, func(i int) error {
		_, err := n.tryAdd(list, c)
		both[i] = err == nil
		return nil
	})
	if both[0] == both[1] || n.pool().Used != 1 {
		n.t.Errorf("two at once: %v, %d addresses are in use", both, n.pool().Used)
	}
	n.del(list, c)
	n.nothingLeft()
}

func (n *runtimeNode) longNames() {
	list := n.installed()
	c := newContainer(n.t, strings.Repeat("c", 128))
	c.IfName = "eth" + strings.Repeat("0", 12)
	c.Args = [][2]string{{"K8S_POD_NAMESPACE", strings.Repeat("n", 63)}, {"K8S_POD_NAME", strings.Repeat("p", 253)}, {"IgnoreUnknown", "1"}}
	r := n.add(list, c)
	if err := n.check(list, c); err != nil {
		n.t.Error(err)
	}
	if err := n.KillAgent(); err != nil {
		n.t.Fatal(err)
	}
	n.ready()
	pods := reportOf(n.t, n.Node).Pods
	if len(pods) != 1 || pods[0].ContainerID != c.ContainerID || pods[0].Ifname != c.IfName || !slices.Equal(pods[0].Addresses, addresses(r)) {
		n.t.Errorf("the next agent knows %+v", pods)
	}
	if err := n.check(list, c); err != nil {
		n.t.Error(err)
	}
	n.del(list, c)
	n.nothingLeft()
}

// ready waits for the next agent.
func (n *runtimeNode) ready() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cniTimeout)
	defer cancel()
	if err := n.WaitReady(ctx); err != nil {
		n.t.Fatal(err)
	}
}

func (n *runtimeNode) networksApart() {
	one, two := n.network("one", `{"type":"polder-cni"}`), n.network("two", `{"type":"polder-cni"}`)
	c, d := newContainer(n.t, "apart"), newContainer(n.t, "apart")
	d.IfName = "eth1" // the same container ID in both
	n.add(one, c)
	n.add(two, d)
	held := map[string]bool{}
	for _, network := range []string{"one", "two"} {
		r, err := n.ipam("ADD", network, "apart")
		if err != nil {
			n.t.Fatal(err)
		}
		for _, a := range addresses(r) {
			held[a.String()] = true
		}
	}
	for _, p := range reportOf(n.t, n.Node).Pods {
		for _, a := range p.Addresses {
			held[a.String()] = true
		}
	}
	if len(held) != 8 || n.pool().Used != 4 {
		n.t.Errorf("four attachments have %v, %d are in use", held, n.pool().Used)
	}
	if err := n.gc(one); err != nil {
		n.t.Error(err)
	}
	if used := n.pool().Used; used != 3 {
		n.t.Errorf("after GC of one network's links %d are in use", used)
	}
	const gc = `{"cniVersion":"1.1.0","name":"one","type":"ptp","ipam":{"type":"polder-ipam"},"cni.dev/valid-attachments":[]}`
	if _, err := n.plugin("polder-ipam", "GC", gc); err != nil {
		n.t.Error(err)
	}
	if used := n.pool().Used; used != 2 {
		n.t.Errorf("after GC of its reservations too %d are in use", used)
	}
	n.del(two, d)
	if _, err := n.ipam("DEL", "two", "apart"); err != nil {
		n.t.Error(err)
	}
	n.nothingLeft()
}

func (n *runtimeNode) hostileInput() {
	const plain = `{"cniVersion":"1.1.0","name":"polder","type":"polder-cni"}`
	ns := testnet.New(n.t).Path()
	for what, try := range map[string]struct {
		input, id, ifname string
		code              uint
	}{
		"ten megabytes":             {`{"cniVersion":"1.1.0","x":"` + strings.Repeat("x", 10<<20) + `"}`, "c", "eth0", 6},
		"no JSON":                   {"\x00\xff{", "c", "eth0", 6},
		"deep":                      {strings.Repeat("[", 100_000), "c", "eth0", 6},
		"wrong types":               {`{"cniVersion":1,"name":[]}`, "c", "eth0", 6},
		"unknown version":           {`{"cniVersion":"9.9.9","name":"polder"}`, "c", "eth0", 1},
		"a way out of a folder":     {plain, "../../etc", "eth0", 4},
		"a container ID too long":   {plain, strings.Repeat("c", 300), "eth0", 4},
		"an interface with a slash": {plain, "c", "../x", 4},
		"an interface per cent d":   {plain, "c", "eth%d", 4},
		"a network with a slash":    {`{"cniVersion":"1.1.0","name":"../x","type":"polder-cni"}`, "c", "eth0", 7},
	} {
		for _, verb := range []string{"ADD", "DEL", "CHECK"} {
			_, err := n.plugin("polder-cni", verb, try.input, "CONTAINERID="+try.id, "IFNAME="+try.ifname, "NETNS="+ns)
			if verb == "CHECK" && try.code == 4 {
				continue // prevResult is missed before
			}
			if code(err) != try.code {
				n.t.Errorf("%s, %s: %v, want code %d", what, verb, err, try.code)
			}
		}
	}
	n.nothingLeft()
}

// foreignAddresses has somebody else use the addresses that come next.
func (n *runtimeNode) foreignAddresses() {
	list := n.installed()
	first := newContainer(n.t, "first")
	last := addresses(n.add(list, first))[0]
	routed, owned, free := last.Next(), last.Next().Next(), last.Next().Next().Next()
	err := n.Do(func() error {
		stale := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "stale0"}, PeerName: "stale1"}
		if err := netlink.LinkAdd(stale); err != nil {
			return err
		}
		owner, err := netlink.LinkByName("stale1")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr(owned.String() + "/32")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(stale), netlink.LinkSetUp(owner), netlink.AddrAdd(owner, addr),
			netlink.RouteAdd(&netlink.Route{LinkIndex: stale.Attrs().Index, Scope: netlink.SCOPE_LINK,
				Dst: &net.IPNet{IP: routed.AsSlice(), Mask: net.CIDRMask(32, 32)}}))
	})
	if err != nil {
		n.t.Fatal(err)
	}
	c := newContainer(n.t, "second")
	if got := addresses(n.add(list, c))[0]; got != free {
		n.t.Errorf("%s was given: %s is routed elsewhere, %s is the node's own, %s was free", got, routed, owned, free)
	}
	for _, by := range []string{"addr=" + routed.String(), "addr=" + owned.String()} {
		if !strings.Contains(n.LastLog(50), by) {
			n.t.Errorf("the log has no line about %s:\n%s", by, n.LastLog(50))
		}
	}
	if err := n.Do(func() error { return netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "stale0"}}) }); err != nil {
		n.t.Error(err)
	}
	n.del(list, first)
	n.del(list, c)
	n.nothingLeft()
}

// statusWithoutAgent hides the agent's socket, as it is between two agents.
func (n *runtimeNode) statusWithoutAgent() {
	socket := filepath.Join(n.Path("/run/polder"), "agent.sock")
	if err := os.Rename(socket, socket+".aside"); err != nil {
		n.t.Fatal(err)
	}
	list, c := n.installed(), newContainer(n.t, "no-agent")
	if err := n.status(list); code(err) != 50 {
		n.t.Errorf("STATUS: %v", err)
	}
	if _, err := n.tryAdd(list, c); code(err) != 11 {
		n.t.Errorf("ADD: %v", err)
	}
	if err := os.Rename(socket+".aside", socket); err != nil {
		n.t.Fatal(err)
	}
	if err := n.status(list); err != nil {
		n.t.Errorf("STATUS with the agent back: %v", err)
	}
}
