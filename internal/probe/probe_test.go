package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/testnet"
)

// flat is a flat network without any of Polder: two nodes that know each other's pods by plain routes, each with two
// pods. What a check says of it is the kernel's own doing, and what a test spoils.
type flat struct {
	t     *testing.T
	nodes [2]*testnet.NS
	pods  [2][2]*testnet.NS
}

func newFlat(t *testing.T) *flat {
	t.Helper()
	f := &flat{t: t, nodes: [2]*testnet.NS{readyAtOnce(t), readyAtOnce(t)}}
	testnet.Pair(t, f.nodes[0], "eth0", f.nodes[1], "eth0")
	for i, node := range f.nodes {
		node.Addr("eth0", fmt.Sprintf("172.30.0.%d/24", i+1))
		node.Addr("eth0", fmt.Sprintf("fd30::%d/64", i+1))
		for j := range f.pods[i] {
			f.pods[i][j] = readyAtOnce(t)
			f.attach(i, j)
		}
	}
	for i, node := range f.nodes {
		node.Do(func() {
			write(t, "/proc/sys/net/ipv4/ip_forward", "1")
			write(t, "/proc/sys/net/ipv6/conf/all/forwarding", "1")
			f.route(fmt.Sprintf("10.244.%d.0/24", 2-i), fmt.Sprintf("172.30.0.%d", 2-i), "eth0")
			f.route(fmt.Sprintf("fd00:244:0:%d::/64", 2-i), fmt.Sprintf("fd30::%d", 2-i), "eth0")
		})
	}
	for i, node := range f.nodes {
		f.awaitAddresses(node)
		for _, pod := range f.pods[i] {
			f.awaitAddresses(pod)
		}
	}
	return f
}

// awaitAddresses waits until the kernel has joined the groups by which a namespace's IPv6 addresses are asked for: it
// does so in the background, and clears the flag then.
func (f *flat) awaitAddresses(ns *testnet.NS) {
	ns.Do(func() {
		for tentative := true; tentative; time.Sleep(time.Millisecond) {
			list, err := netlink.AddrList(nil, netlink.FAMILY_V6)
			if err != nil {
				f.t.Fatal(err)
			}
			tentative = slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
		}
	})
}

// readyAtOnce makes a namespace in which no IPv6 address waits for others to object to it.
func readyAtOnce(t *testing.T) *testnet.NS {
	ns := testnet.New(t)
	ns.Do(func() { write(t, "/proc/sys/net/ipv6/conf/default/accept_dad", "0") })
	return ns
}

// attach connects a pod as Polder would: host routes on the node, a gateway that is the node's link.
func (f *flat) attach(i, j int) {
	link, pod := fmt.Sprintf("pdr%d", j), f.pods[i][j]
	testnet.Pair(f.t, f.nodes[i], link, pod, "eth0")
	f.nodes[i].Addr(link, "169.254.1.1/32")
	f.nodes[i].Addr(link, "fe80::1/64")
	pod.Addr("eth0", fmt.Sprintf("10.244.%d.%d/32", i+1, j+2))
	pod.Addr("eth0", fmt.Sprintf("fd00:244:0:%d::%d/128", i+1, j+2))
	f.nodes[i].Do(func() {
		f.route(fmt.Sprintf("10.244.%d.%d/32", i+1, j+2), "", link)
		f.route(fmt.Sprintf("fd00:244:0:%d::%d/128", i+1, j+2), "", link)
	})
	pod.Do(func() {
		f.route("169.254.1.1/32", "", "eth0")
		f.route("0.0.0.0/0", "169.254.1.1", "eth0")
		f.route("::/0", "fe80::1", "eth0")
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

// route adds a route in the namespace of the calling thread.
func (f *flat) route(prefix, via, link string) {
	f.t.Helper()
	l, err := netlink.LinkByName(link)
	if err != nil {
		f.t.Fatal(err)
	}
	_, dst, err := net.ParseCIDR(prefix)
	if err != nil {
		f.t.Fatal(err)
	}
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}
	if via != "" {
		r.Gw, r.Scope = net.ParseIP(via), netlink.SCOPE_UNIVERSE
	}
	if strings.HasPrefix(prefix, "10.") { // a node's own address towards pods
		r.Src = f.ownAddress()
	}
	if err := netlink.RouteAdd(r); err != nil {
		f.t.Fatalf("add route to %s: %v", prefix, err)
	}
}

// ownAddress is the IPv4 address on the uplink of the calling thread's namespace.
func (f *flat) ownAddress() net.IP {
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		f.t.Fatal(err)
	}
	list, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil || len(list) == 0 {
		f.t.Fatalf("no address on eth0: %v", err)
	}
	return list[0].IP
}

// options has a prober in each node, in this process.
func (f *flat) options() Options {
	var o Options
	for i := range f.nodes {
		node := cluster.Node{
			Name: fmt.Sprintf("node-%d", i+1),
			Addresses: []netip.Addr{
				netip.MustParseAddr(fmt.Sprintf("172.30.0.%d", i+1)), netip.MustParseAddr(fmt.Sprintf("fd30::%d", i+1)),
			},
			PodCIDRs: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%d::/64", i+1)),
			},
		}
		for j := range f.pods[i] {
			o.Pods = append(o.Pods, cluster.Pod{
				Namespace: "ns", Name: fmt.Sprintf("pod-%d%d", i+1, j+1), Node: node.Name, Addresses: podAddresses(i, j),
			})
		}
		o.Targets = append(o.Targets, Target{Node: node, Connect: f.prober(i, f.find(i))})
	}
	return o
}

// prober connects to a prober in a node that finds what find says.
func (f *flat) prober(i int, find func() ([]Namespace, error)) func(context.Context) (io.ReadWriteCloser, error) {
	return func(context.Context) (io.ReadWriteCloser, error) {
		ours, its := net.Pipe()
		go func() {
			defer its.Close()
			f.nodes[i].Do(func() { Serve(its, its, find) })
		}()
		return ours, nil
	}
}

func podAddresses(i, j int) []netip.Addr {
	return []netip.Addr{
		netip.MustParseAddr(fmt.Sprintf("10.244.%d.%d", i+1, j+2)),
		netip.MustParseAddr(fmt.Sprintf("fd00:244:0:%d::%d", i+1, j+2)),
	}
}

func (f *flat) find(i int) func() ([]Namespace, error) {
	return func() ([]Namespace, error) {
		var list []Namespace
		for j, pod := range f.pods[i] {
			file, err := os.Open(pod.Path())
			if err != nil {
				return nil, err
			}
			list = append(list, Namespace{
				Netns: file, Link: fmt.Sprintf("pdr%d", j), Ifname: "eth0", Addresses: podAddresses(i, j), MTU: 1500,
			})
		}
		return list, nil
	}
}

func (f *flat) check() Report {
	f.t.Helper()
	r, err := Run(f.t.Context(), f.options())
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func TestAFlatNetworkKeepsAllLaws(t *testing.T) {
	f := newFlat(t)
	r := f.check()
	for _, failure := range r.Failures {
		t.Errorf("%+v", failure)
	}
	// 2 nodes and 4 pods: 30 ordered pairs, each in two families.
	want := map[int]int{1: 2 * 2, 2: 12 * 2, 3: 16 * 2, 4: 20 * 2, 5: 4 * 2, 6: 30 * 2}
	for _, l := range r.Laws {
		if l.Checked != want[l.Number] || l.Passed != want[l.Number] || l.Failed != 0 {
			t.Errorf("law %d: checked %d, passed %d, failed %d, want %d", l.Number, l.Checked, l.Passed, l.Failed, want[l.Number])
		}
	}
	if r.Nodes != 2 || r.Pods != 4 || r.Pairs != 30 || r.Possible != 30 || r.Probes != 180 {
		t.Errorf("the report counts %d nodes, %d pods, %d of %d pairs, %d probes", r.Nodes, r.Pods, r.Pairs, r.Possible, r.Probes)
	}
}

// failing lists what failed under a law, as "from > to family probe".
func failing(r Report, law int) []string {
	var list []string
	for _, f := range r.Failures {
		if f.Law == law {
			list = append(list, fmt.Sprintf("%s > %s %s %s", f.From, f.To, f.Family, f.Probe))
		}
	}
	return list
}

func TestADropInOnePodFailsExactlyItsPairs(t *testing.T) {
	f := newFlat(t)
	// The pod takes no UDP over IPv4 in, but for answers to what it asked itself, which go to high ports of its own.
	f.rule(f.pods[0][1], nftables.TableFamilyIPv4, nftables.ChainHookInput, nftables.ChainTypeFilter,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(expr.CtStateBitNEW), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)},
		&expr.Verdict{Kind: expr.VerdictDrop})
	r := f.check()
	if got, want := failing(r, 2), []string{
		"ns/pod-11 > ns/pod-12 IPv4 udp", "ns/pod-21 > ns/pod-12 IPv4 udp", "ns/pod-22 > ns/pod-12 IPv4 udp",
	}; !slices.Equal(got, want) {
		t.Errorf("law 2 fails for %q, want %q", got, want)
	}
	if got, want := failing(r, 3), []string{"node-1 > ns/pod-12 IPv4 udp", "node-2 > ns/pod-12 IPv4 udp"}; !slices.Equal(got, want) {
		t.Errorf("law 3 fails for %q, want %q", got, want)
	}
	if got := failing(r, 6); len(got) != 5 {
		t.Errorf("law 6 fails for %q", got)
	}
	if others := slices.Concat(failing(r, 0), failing(r, 1), failing(r, 4), failing(r, 5)); len(others) > 0 {
		t.Errorf("there fail besides: %q", others)
	}
}

func TestWhatPoliciesDenyIsNotTried(t *testing.T) {
	f := newFlat(t)
	o := f.options()
	shut := netip.MustParseAddr("10.244.1.3")
	o.Denied = func(from netip.Addr, to netip.AddrPort, udp bool) bool {
		return to.Addr() == shut && udp && !from.Is6()
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK() || r.Denied != 5 || r.Probes != 180-5*3 || r.Laws[1].Checked != 12*2-3 {
		t.Errorf("the report is %+v", r)
	}
	o.Denied = func(netip.Addr, netip.AddrPort, bool) bool { return true }
	if r, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "policies deny everything") {
		t.Errorf("the report is %+v, %v", r, err)
	}
}

func TestTranslatedSourcesAreFound(t *testing.T) {
	f := newFlat(t)
	// The mistake of many: what leaves the node gets the node's address, to other nodes' pods, too.
	f.rule(f.nodes[0], nftables.TableFamilyIPv4, nftables.ChainHookPostrouting, nftables.ChainTypeNAT,
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: append([]byte("eth0"), make([]byte, 12)...)},
		&expr.Masq{})
	r := f.check()
	if r.OK() {
		t.Fatal("nothing failed")
	}
	for _, failure := range r.Failures {
		if !strings.HasPrefix(failure.From, "ns/pod-1") || failure.Family != "IPv4" || !strings.Contains(failure.Reason, "172.30.0.1") {
			t.Errorf("there fails besides: %+v", failure)
		}
	}
	var want []string
	for _, from := range []string{"ns/pod-11", "ns/pod-12"} {
		for _, to := range []string{"ns/pod-21", "ns/pod-22"} {
			want = append(want, from+" > "+to+" IPv4 tcp", from+" > "+to+" IPv4 udp")
		}
	}
	if got := failing(r, 2); !slices.Equal(got, want) {
		t.Errorf("law 2 fails for %q, want %q", got, want)
	}
	if got := failing(r, 4); len(got) != 12 { // two pods to two pods and a node, by TCP and UDP
		t.Errorf("law 4 fails for %q", got)
	}
}

func TestAPathThatSwallowsFullSizePacketsFails(t *testing.T) {
	f := newFlat(t)
	f.mtu(f.pods[1][0], "eth0", 9000) // thinks that it may send 9000 bytes, its peer takes 1500
	f.rule(f.pods[1][0], nftables.TableFamilyIPv4, nftables.ChainHookInput, nftables.ChainTypeFilter,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMP}},
		&expr.Verdict{Kind: expr.VerdictDrop})
	r := f.check()
	for _, to := range []string{"node-1", "node-2", "ns/pod-11", "ns/pod-12", "ns/pod-22"} {
		if want := "ns/pod-21 > " + to + " IPv4 full-size"; !slices.Contains(failing(r, 6), want) {
			t.Errorf("law 6 does not fail for %q but for %q", want, failing(r, 6))
		}
	}
	if others := slices.Concat(failing(r, 1), failing(r, 2), failing(r, 3)); len(others) > 0 {
		t.Errorf("small packets fail, too: %q", others)
	}
}

func TestASmallerMTUThatThePathTellsIsFine(t *testing.T) {
	f := newFlat(t)
	for i := range f.nodes {
		f.mtu(f.nodes[i], "eth0", 1400) // pods are not told, but learn it from the node by ICMP
	}
	r := f.check()
	for _, failure := range r.Failures {
		t.Errorf("%+v", failure)
	}
	if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "an ICMP message had to say") }) {
		t.Errorf("notes are %q", r.Notes)
	}
}

func TestADuplicateAddressIsFound(t *testing.T) {
	f := newFlat(t)
	o := f.options()
	f.pods[1][1].Addr("eth0", "10.244.1.2/32")
	o.Targets[1].Connect = f.prober(1, func() ([]Namespace, error) {
		list, err := f.find(1)()
		list[1].Addresses = append(list[1].Addresses, netip.MustParseAddr("10.244.1.2"))
		return list, err
	})
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, failure := range r.Failures {
		if failure.Law == 5 {
			reasons = append(reasons, failure.From+": "+failure.Reason)
		}
	}
	want := []string{
		"ns/pod-11: 10.244.1.2 belongs to [ns/pod-11 ns/pod-22]", "ns/pod-22: 10.244.1.2 belongs to [ns/pod-11 ns/pod-22]",
	}
	if !slices.Equal(reasons, want) {
		t.Errorf("law 5 fails with %q, want %q", reasons, want)
	}
}

func TestANodeThatCannotBeProbedIsAFailure(t *testing.T) {
	f := newFlat(t)
	o := f.options()
	o.Targets[1].Connect = func(context.Context) (io.ReadWriteCloser, error) {
		return nil, errors.New("no agent's pod runs on the node")
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Failures) != 1 || r.Failures[0].From != "node-2" || r.Failures[0].Law != 0 {
		t.Errorf("failures are %+v", r.Failures)
	}
	o.Targets[0].Connect = o.Targets[1].Connect
	if _, err := Run(t.Context(), o); err == nil {
		t.Error("a check of no node at all is no error")
	}
}

func TestANodeAloneProvesNothing(t *testing.T) {
	f := newFlat(t)
	o := f.options()
	o.Targets = o.Targets[:1]
	o.Targets[0].Connect = f.prober(0, func() ([]Namespace, error) { return nil, nil })
	if r, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "nothing to prove") {
		t.Errorf("the report is %+v, %v", r, err)
	}
}

func TestAProberThatDiesFailsItsProbes(t *testing.T) {
	f := newFlat(t)
	o := f.options()
	first := o.Targets[0].Connect
	o.Targets[0].Connect = func(ctx context.Context) (io.ReadWriteCloser, error) {
		c, err := first(ctx)
		return &dying{ReadWriteCloser: c, lines: 20}, err
	}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(r.Failures, func(f Failure) bool { return strings.Contains(f.Reason, "the prober of node-1 ended") }) {
		t.Errorf("failures are %+v", r.Failures)
	}
}

// dying is a connection that breaks after some reads.
type dying struct {
	io.ReadWriteCloser
	lines int
}

func (d *dying) Read(b []byte) (int, error) {
	if d.lines--; d.lines < 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return d.ReadWriteCloser.Read(b)
}

// rule adds one nftables rule in a chain of its own.
func (f *flat) rule(ns *testnet.NS, family nftables.TableFamily, hook *nftables.ChainHook, kind nftables.ChainType, exprs ...expr.Any) {
	f.t.Helper()
	ns.Do(func() {
		conn, err := nftables.New()
		if err != nil {
			f.t.Fatal(err)
		}
		table := conn.AddTable(&nftables.Table{Family: family, Name: "test"})
		priority := nftables.ChainPriorityFilter
		if kind == nftables.ChainTypeNAT {
			priority = nftables.ChainPriorityNATSource
		}
		chain := conn.AddChain(&nftables.Chain{Name: "test", Table: table, Type: kind, Hooknum: hook, Priority: priority})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
		if err := conn.Flush(); err != nil {
			f.t.Fatalf("add nftables rule: %v", err)
		}
	})
}

func native(v uint32) []byte {
	return binary.NativeEndian.AppendUint32(nil, v)
}

func (f *flat) mtu(ns *testnet.NS, link string, mtu int) {
	f.t.Helper()
	ns.Do(func() {
		l, err := netlink.LinkByName(link)
		if err == nil {
			err = netlink.LinkSetMTU(l, mtu)
		}
		if err != nil {
			f.t.Fatal(err)
		}
	})
}
