package lab_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/lab"
)

// repairTime is the promise: foreign hands are noticed and repaired within it.
const repairTime = 10 * time.Second

// foreignHand does something to a node that an administrator, or another program, might do.
type foreignHand struct {
	name   string
	do     func(*foreigner) error // in the node's network namespace
	tables []string               // of the repairs that follow
}

// foreigner is a node and what its hands need to know of it.
type foreigner struct {
	node *lab.Node
	pod  *lab.Pod // on it
	link string   // the pod's
}

func TestWhatForeignHandsDoIsRepaired(t *testing.T) {
	w := newWorld(t)
	before := w.fresh(t)
	hands := foreignHands()
	// The nodes take turns, at the same time: some hands are found by the regular look alone.
	t.Run("on", func(t *testing.T) {
		for i, pod := range []*lab.Pod{w.one, w.tunnelled, w.native} {
			n, err := w.Node(pod.Node)
			if err != nil {
				t.Fatal(err)
			}
			t.Run(n.Name, func(t *testing.T) {
				t.Parallel()
				f := &foreigner{node: n, pod: pod, link: linkOf(t, n, pod)}
				for j := i; j < len(hands); j += 3 {
					t.Run(hands[j].name, func(t *testing.T) { w.repaired(t, f, hands[j], before[n.Name]) })
				}
			})
		}
	})
	t.Run("all at a time", func(t *testing.T) {
		f := &foreigner{node: w.near, pod: w.one, link: linkOf(t, w.near, w.one)}
		w.repaired(t, f, foreignHand{"all", f.everything, []string{"tunnel", "routes", "rules", "neighbours", "masquerade",
			"sysctls", "programs", "endpoints", "remotes", "pins"}}, before[w.near.Name])
	})
	t.Run("packets pass again", func(t *testing.T) {
		port := echoServer(t, w.tunnelled)
		for i, a := range w.one.Addresses {
			if err := echoes(w.one.Place, a, w.tunnelled.Addresses[i], port); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("a restart finds nothing to repair", func(t *testing.T) {
		for _, n := range w.Nodes() {
			if err := n.RestartAgent(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.nodeAsBefore(t, n, before[n.Name], time.Minute)
			if r := reportOf(t, n).Repairs; len(r) > 0 {
				t.Errorf("%s: repairs: %v", n.Name, r)
			}
		}
	})
}

// repaired lets a hand do its work, and wants the state to be as it was in time, and the report to say so.
func (w *world) repaired(t *testing.T, f *foreigner, hand foreignHand, before state) {
	t.Helper()
	seen := reportOf(t, f.node).Repairs
	if err := f.node.Do(func() error { return hand.do(f) }); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.nodeAsBefore(t, f.node, before, 2*repairTime)
	took := time.Since(began)
	if took > repairTime {
		t.Errorf("repaired after %s only", took)
	}
	t.Logf("repaired after %s", took.Round(10*time.Millisecond))
	eventually(t, repairTime, "the repair is listed", func() error { // once its sync is over
		return lists(reportOf(t, f.node).Repairs, seen, hand.tables)
	})
}

// lists wants a repair of each table that was not there before.
func lists(now, before []api.Repair, tables []string) error {
	var missing []string
	for _, table := range tables {
		if !slices.ContainsFunc(now, func(r api.Repair) bool { return r.Table == table && !slices.Contains(before, r) }) {
			missing = append(missing, table)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("no new repairs of %v among these: %v", missing, now[:max(0, len(now)-len(before))])
	}
	return nil
}

// linkOf is the name of a pod's link on its node.
func linkOf(t *testing.T, n *lab.Node, p *lab.Pod) string {
	t.Helper()
	for _, have := range reportOf(t, n).Pods {
		if have.Name == p.Name {
			return have.Link
		}
	}
	t.Fatalf("%s does not know pod %s", n.Name, p.Name)
	return ""
}

func foreignHands() []foreignHand {
	return []foreignHand{
		{"the qdisc of a pod's program is deleted", (*foreigner).deleteQdisc, []string{"programs"}},
		{"the uplink's program is detached", func(f *foreigner) error { return f.detach("from_network") }, []string{"programs"}},
		{"the tunnel's programs are detached", func(f *foreigner) error { return f.detach("from_tunnel", "to_tunnel") }, []string{"programs"}},
		{"pins of programs are removed", func(f *foreigner) error { return removeAll(f.node, "links/*") }, []string{"programs"}},
		{"pins of maps are removed", func(f *foreigner) error { return removeAll(f.node, "maps/*") }, []string{"pins"}},
		{"entries of a map are deleted", func(f *foreigner) error { return f.emptyMap("endpoints") }, []string{"endpoints"}},
		{"prefixes of other nodes are deleted", func(f *foreigner) error { return f.emptyMap("remotes") }, []string{"remotes"}},
		{"the configuration is cleared", func(f *foreigner) error { return f.emptyMap("configuration") }, []string{"configuration"}},
		{"the masquerade table is deleted", deleteTable, []string{"masquerade"}},
		{"the masquerade rules are deleted", deleteRules, []string{"masquerade"}},
		{"a rule is added to the masquerade chain", addRule, []string{"masquerade"}},
		{"routes are flushed as by ip route flush proto 112", flushRoutes, []string{"routes"}},
		{"a pod's route is led elsewhere", (*foreigner).misroute, []string{"routes"}},
		{"rules are flushed as systemd-networkd does", flushRules, []string{"rules"}},
		{"a pod's neighbours are flushed", (*foreigner).flushNeighbours, []string{"neighbours"}},
		{"forwarding is turned off", stopForwarding, []string{"sysctls"}},
		{"the tunnel device is deleted", deleteTunnel, []string{"tunnel"}},
		{"the tunnel device is set down", setTunnelDown, []string{"tunnel"}},
		{"the tunnel device gets another MTU", setTunnelMTU, []string{"tunnel"}},
		{"a pod's MTU is changed", func(f *foreigner) error { return setLinkMTU(f.link, 1400) }, []string{"mtu"}},
	}
}

func (f *foreigner) pins(pattern string) ([]string, error) {
	return filepath.Glob(nodeFile(f.node, "/sys/fs/bpf/polder/"+pattern))
}

func (f *foreigner) deleteQdisc() error {
	l, err := netlink.LinkByName(f.link)
	if err != nil {
		return err
	}
	return netlink.QdiscDel(clsactOf(l))
}

// clsactOf is the qdisc of a link that filters of ours hang on.
func clsactOf(l netlink.Link) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

func (f *foreigner) detach(programs ...string) error {
	for _, program := range programs {
		pins, err := f.pins("links/" + program + ":*")
		if err != nil || len(pins) == 0 {
			return fmt.Errorf("no pinned link of %s: %v", program, err)
		}
		l, err := link.LoadPinnedLink(pins[0], nil)
		if err != nil {
			return err
		}
		err = l.Detach()
		l.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func removeAll(n *lab.Node, pattern string) error {
	pins, err := filepath.Glob(nodeFile(n, "/sys/fs/bpf/polder/"+pattern))
	if err != nil || len(pins) == 0 {
		return fmt.Errorf("no pins %s: %v", pattern, err)
	}
	for _, pin := range pins {
		if err := os.Remove(pin); err != nil {
			return err
		}
	}
	return nil
}

func (f *foreigner) emptyMap(name string) error {
	pins, err := f.pins("maps/" + name + "_*")
	if err != nil || len(pins) != 1 {
		return fmt.Errorf("pins of map %s are %v: %v", name, pins, err)
	}
	m, err := ebpf.LoadPinnedMap(pins[0], nil)
	if err != nil {
		return err
	}
	defer m.Close()
	if m.Type() == ebpf.Array {
		return m.Put(uint32(0), make([]byte, m.ValueSize()))
	}
	var keys [][]byte
	var key, value []byte
	for it := m.Iterate(); it.Next(&key, &value); {
		keys = append(keys, slices.Clone(key))
	}
	for _, key := range keys {
		if err := m.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

func withTable(do func(*nftables.Conn, *nftables.Table, *nftables.Chain)) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	for _, c := range chains {
		if c.Table.Name == "polder" {
			do(conn, c.Table, c)
			return conn.Flush()
		}
	}
	return fmt.Errorf("no table polder")
}

func deleteTable(*foreigner) error {
	return withTable(func(conn *nftables.Conn, t *nftables.Table, _ *nftables.Chain) { conn.DelTable(t) })
}

func deleteRules(*foreigner) error {
	return withTable(func(conn *nftables.Conn, _ *nftables.Table, c *nftables.Chain) { conn.FlushChain(c) })
}

func addRule(*foreigner) error {
	return withTable(func(conn *nftables.Conn, t *nftables.Table, c *nftables.Chain) {
		conn.InsertRule(&nftables.Rule{Table: t, Chain: c, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
	})
}

func flushRoutes(*foreigner) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Protocol: 112},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return err
		}
		if len(routes) == 0 {
			return fmt.Errorf("there are no routes of Polder's")
		}
		for _, r := range routes {
			if err := netlink.RouteDel(&r); err != nil {
				return fmt.Errorf("delete %v: %w", r, err)
			}
		}
	}
	return nil
}

// misroute leads the pod's address to the uplink.
func (f *foreigner) misroute() error {
	uplink, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	a := f.pod.Addresses[0]
	return netlink.RouteReplace(&netlink.Route{LinkIndex: uplink.Attrs().Index, Protocol: 112, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(32, 32)}})
}

// flushRules deletes every rule that the kernel did not come with.
func flushRules(*foreigner) error {
	found := false
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if r.Protocol == unix.RTPROT_KERNEL {
				continue
			}
			r.Family, found = family, true
			if err := netlink.RuleDel(&r); err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("there are no rules of Polder's")
	}
	return nil
}

func (f *foreigner) flushNeighbours() error {
	l, err := netlink.LinkByName(f.link)
	if err != nil {
		return err
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := netlink.NeighList(l.Attrs().Index, family)
		if err != nil {
			return err
		}
		for _, e := range list {
			if e.State == netlink.NUD_PERMANENT {
				if err := netlink.NeighDel(&e); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func stopForwarding(*foreigner) error {
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("0"), 0); err != nil {
			return err
		}
	}
	return nil
}

func deleteTunnel(*foreigner) error {
	l, err := netlink.LinkByName("polder-vxlan")
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

func setTunnelDown(*foreigner) error {
	l, err := netlink.LinkByName("polder-vxlan")
	if err != nil {
		return err
	}
	return netlink.LinkSetDown(l)
}

func setTunnelMTU(*foreigner) error { return setLinkMTU("polder-vxlan", 1300) }

func setLinkMTU(name string, mtu int) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(l, mtu)
}

// everything is all of it, in an order in which each still has something to break.
func (f *foreigner) everything(*foreigner) error {
	for _, hand := range foreignHands() {
		if strings.HasPrefix(hand.name, "the tunnel device ") || strings.HasPrefix(hand.name, "pins") ||
			slices.Contains(hand.tables, "masquerade") {
			continue
		}
		if err := hand.do(f); err != nil {
			return fmt.Errorf("%s: %w", hand.name, err)
		}
	}
	for _, do := range []func(*foreigner) error{deleteTable, deleteTunnel} {
		if err := do(f); err != nil {
			return err
		}
	}
	return removeAll(f.node, "*/*")
}
