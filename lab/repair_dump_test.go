package lab_test

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/lab"
)

// state is all that the kernel of a node, and of its pods, has of Polder's, one line each, with names for numbers.
type state map[string][]string

// fresh waits until the lab has settled, and returns the state of every node: what a first start made.
func (w *world) fresh(t testing.TB) map[string]state {
	t.Helper()
	w.settled(t)
	all := map[string]state{}
	for _, n := range w.Nodes() {
		s, err := w.stateOf(n)
		if err != nil {
			t.Fatalf("read the kernel's state on %s: %v", n.Name, err)
		}
		all[n.Name] = s
	}
	return all
}

// asBefore wants the kernel's state on every node to be, or to become, what it was.
func (w *world) asBefore(t testing.TB, before map[string]state) {
	t.Helper()
	for _, n := range w.Nodes() {
		w.nodeAsBefore(t, n, before[n.Name], time.Minute)
	}
}

func (w *world) nodeAsBefore(t testing.TB, n *lab.Node, before state, limit time.Duration) {
	t.Helper()
	eventually(t, limit, n.Name+" is as it was", func() error {
		now, err := w.stateOf(n)
		if err != nil {
			return err
		}
		return before.differs(now)
	})
}

// differs lists what is too few (-) and too much (+).
func (s state) differs(now state) error {
	var lines []string
	for table := range s {
		for _, line := range s[table] {
			if !slices.Contains(now[table], line) {
				lines = append(lines, "- "+table+": "+line)
			}
		}
	}
	for table := range now {
		for _, line := range now[table] {
			if !slices.Contains(s[table], line) {
				lines = append(lines, "+ "+table+": "+line)
			}
		}
		if len(now[table]) != len(s[table]) {
			lines = append(lines, fmt.Sprintf("%s has %d rows, had %d", table, len(now[table]), len(s[table])))
		}
	}
	if len(lines) == 0 {
		return nil
	}
	slices.Sort(lines)
	return fmt.Errorf("the kernel's state differs:\n%s", strings.Join(lines, "\n"))
}

func (w *world) stateOf(n *lab.Node) (state, error) {
	s := state{}
	maps, err := mapsOf(n)
	if err != nil {
		return nil, err
	}
	for name, rows := range maps {
		for k, v := range rows {
			s["map "+name] = append(s["map "+name], k+" = "+v)
		}
	}
	if err := n.Do(func() error { return s.readNetns("") }); err != nil {
		return nil, err
	}
	if err := n.Do(func() error { return s.readOurs(n.PID()) }); err != nil {
		return nil, err
	}
	pods, err := w.Pods()
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if p.Node == n.Name {
			if err := p.Do(func() error { return s.readNetns("pod " + p.Name + " ") }); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// readNetns reads links, addresses, routes, rules and permanent neighbours of the calling thread's namespace.
func (s state) readNetns(prefix string) error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	names := map[int]string{}
	add := func(table, format string, args ...any) {
		s[prefix+table] = append(s[prefix+table], fmt.Sprintf(format, args...))
	}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		add("links", "%s %s mtu %d %s %s alias %q", a.Name, l.Type(), a.MTU, a.Flags&^net.FlagRunning, a.HardwareAddr, a.Alias)
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			add("addresses", "%s %s flags %x", a.Name, addr.IPNet, addr.Flags)
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return err
		}
		for _, r := range routes {
			add("routes", "table %d type %d %v via %v dev %s src %v proto %d metric %d mtu %d", r.Table, r.Type, r.Dst, r.Gw,
				names[r.LinkIndex], r.Src, r.Protocol, r.Priority, r.MTU)
		}
		rules, err := netlink.RuleList(family)
		if err != nil {
			return err
		}
		for _, r := range rules {
			add("rules", "family %d priority %d from %v to %v table %d proto %d", family, r.Priority, r.Src, r.Dst, r.Table, r.Protocol)
		}
		neighbours, err := netlink.NeighList(0, family)
		if err != nil {
			return err
		}
		for _, e := range neighbours {
			if e.State == netlink.NUD_PERMANENT {
				add("neighbours", "%s %s %s", names[e.LinkIndex], e.IP, e.HardwareAddr)
			}
		}
	}
	return nil
}

// readOurs reads what only a node has: programs, pins, the nftables table and sysctls.
func (s state) readOurs(pid int) error {
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	names := map[string]string{}
	for _, l := range links {
		names[strconv.Itoa(l.Index)] = l.Name
		if err := s.readPrograms(l); err != nil {
			return err
		}
		if strings.HasPrefix(l.Name, "pdr") || l.Name == "polder-vxlan" {
			s.readSysctls("ipv4/conf/"+l.Name+"/rp_filter", "ipv6/conf/"+l.Name+"/accept_ra")
		}
	}
	s.readSysctls("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/route_localnet")
	pins, err := filepath.Glob(fmt.Sprintf("/proc/%d/root/sys/fs/bpf/polder/*/*", pid))
	if err != nil {
		return err
	}
	for _, pin := range pins {
		name := filepath.Base(pin)
		if program, index, ok := strings.Cut(name, ":"); ok {
			name = program + ":" + names[index]
		} else {
			name = name[:strings.LastIndexByte(name, '_')] // without its layout
		}
		s["pins"] = append(s["pins"], name)
	}
	return s.readMasquerade()
}

func (s state) readSysctls(names ...string) {
	for _, name := range names {
		s["sysctls"] = append(s["sysctls"], name+"="+strings.TrimSpace(readFile("/proc/sys/net/"+name)))
	}
}

func (s state) readPrograms(l net.Interface) error {
	for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		found, err := link.QueryPrograms(link.QueryOptions{Target: l.Index, Attach: attach})
		if err != nil {
			return fmt.Errorf("list programs of %s: %w", l.Name, err)
		}
		for _, p := range found.Programs {
			prog, err := ebpf.NewProgramFromID(p.ID)
			if err != nil {
				return err
			}
			info, err := prog.Info()
			prog.Close()
			if err != nil {
				return err
			}
			s["programs"] = append(s["programs"], fmt.Sprintf("%s %s %s", l.Name, attach, info.Name))
		}
	}
	return nil
}

func (s state) readMasquerade() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	for _, c := range chains {
		s["nft"] = append(s["nft"], fmt.Sprintf("chain %s %s", c.Table.Name, c.Name))
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return err
		}
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			s["nft"] = append(s["nft"], fmt.Sprintf("rule of %d expressions: %s", len(r.Exprs), comment))
		}
		sets, err := conn.GetSets(c.Table)
		if err != nil {
			return err
		}
		for _, set := range sets {
			elements, err := conn.GetSetElements(set)
			if err != nil {
				return err
			}
			for _, e := range elements {
				addr, _ := netip.AddrFromSlice(e.Key)
				s["nft"] = append(s["nft"], fmt.Sprintf("set %s: %s end %v", set.Name, addr, e.IntervalEnd))
			}
		}
	}
	return nil
}

// nodeFile is where a path of the node's is for this process.
func nodeFile(n *lab.Node, path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", n.PID()), path)
}
