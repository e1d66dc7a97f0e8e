package netdev

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What kube-proxy calls its own, by mode: nftables has a table, iptables chains, ipvs chains and a link.
const (
	kubeProxyTable = "kube-proxy"
	ipvsLink       = "kube-ipvs0"
)

// isKubeProxyChain says whether kube-proxy makes a chain of that name (pkg/proxy/iptables and ipvs of Kubernetes). Others
// that begin with KUBE- are the kubelet's, or kube-router's.
func isKubeProxyChain(name string) bool {
	switch name {
	case "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-FORWARD", "KUBE-MARK-MASQ",
		"KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY", "KUBE-LOAD-BALANCER", "KUBE-NODE-PORT", "KUBE-SOURCE-RANGES",
		"KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER":
		return true
	}
	return slices.ContainsFunc([]string{"KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-XLB-"},
		func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// Leftovers are what kube-proxy has left in the kernel. Remove takes away what was found, nothing else.
type Leftovers struct {
	Tables []string // "ip kube-proxy"
	Chains []string // by table: "ip nat: 12 chains, 3 rules that lead to them"
	Link   string   // kube-ipvs0; empty: there is none
	Legacy []string // tables of legacy iptables that nobody has looked into: "ip nat"

	tables []*nftables.Table
	chains []*nftables.Chain
	jumps  []*nftables.Rule
}

// Empty says whether there is nothing to remove.
func (l *Leftovers) Empty() bool { return len(l.Tables) == 0 && len(l.Chains) == 0 && l.Link == "" }

// Leftovers finds what kube-proxy has left.
func (k *Kernel) Leftovers() (*Leftovers, error) {
	conn, err := k.nftables()
	if err != nil {
		return nil, err
	}
	defer conn.CloseLasting()
	l := &Leftovers{}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		if err := l.find(conn, family); err != nil {
			return nil, fmt.Errorf("find kube-proxy's rules: %w", err)
		}
	}
	if _, err := k.linkNamed(ipvsLink); err == nil {
		l.Link = ipvsLink
	} else if !errors.Is(err, ErrNotFound) {
		return nil, fmt.Errorf("find kube-proxy's link: %w", err)
	}
	families, err := k.legacyNAT()
	for _, family := range families {
		l.Legacy = append(l.Legacy, family+" nat")
	}
	return l, err
}

func (k *Kernel) nftables() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(k.netns.Fd())), nftables.AsLasting(), nftables.WithSockOptions(enlarge))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return conn, nil
}

// find looks through the tables of one family.
func (l *Leftovers) find(conn *nftables.Conn, family nftables.TableFamily) error {
	tables, err := conn.ListTablesOfFamily(family)
	if err != nil {
		return err
	}
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return err
	}
	slices.SortFunc(tables, func(a, b *nftables.Table) int { return cmp.Compare(a.Name, b.Name) })
	for _, t := range tables {
		if t.Name == kubeProxyTable {
			l.Tables, l.tables = append(l.Tables, familyName(uint8(family))+" "+t.Name), append(l.tables, t)
			continue
		}
		if err := l.findIn(conn, t, chains); err != nil {
			return err
		}
	}
	return nil
}

// findIn looks for kube-proxy's chains in a table of others, and for rules that lead to them from chains of others.
func (l *Leftovers) findIn(conn *nftables.Conn, t *nftables.Table, chains []*nftables.Chain) error {
	var others []*nftables.Chain
	had, jumps := len(l.chains), len(l.jumps)
	for _, c := range chains {
		switch {
		case c.Table.Name != t.Name:
		case isKubeProxyChain(c.Name):
			l.chains = append(l.chains, c)
		default:
			others = append(others, c)
		}
	}
	if len(l.chains) == had {
		return nil
	}
	for _, c := range others {
		rules, err := conn.GetRules(t, c)
		if err != nil {
			return fmt.Errorf("list rules of chain %s: %w", c.Name, err)
		}
		for _, r := range rules {
			if slices.ContainsFunc(r.Exprs, leadsToKubeProxy) {
				l.jumps = append(l.jumps, r)
			}
		}
	}
	l.Chains = append(l.Chains, fmt.Sprintf("%s %s: chains: %d, rules that lead to them: %d",
		familyName(uint8(t.Family)), t.Name, len(l.chains)-had, len(l.jumps)-jumps))
	return nil
}

func leadsToKubeProxy(e expr.Any) bool {
	v, ok := e.(*expr.Verdict)
	return ok && isKubeProxyChain(v.Chain)
}

// chainsPerTransaction keeps a transaction within what the socket takes.
const chainsPerTransaction = 20_000

// RemoveLeftovers removes what Leftovers found: first the rules that lead to it, so that packets meet all of it or none.
func (k *Kernel) RemoveLeftovers(l *Leftovers) error {
	conn, err := k.nftables()
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	for _, t := range l.tables {
		conn.DelTable(t)
	}
	for _, r := range l.jumps {
		if err := conn.DelRule(r); err != nil {
			return fmt.Errorf("remove rule: %w", err)
		}
	}
	if err := flush(conn, "remove kube-proxy's tables and rules"); err != nil {
		return err
	}
	for _, step := range []func(*nftables.Chain){conn.FlushChain, conn.DelChain} {
		for chunk := range slices.Chunk(l.chains, chainsPerTransaction) {
			for _, c := range chunk {
				step(c)
			}
			if err := flush(conn, "remove kube-proxy's chains"); err != nil {
				return err
			}
		}
	}
	if l.Link == "" {
		return nil
	}
	link, err := k.linkNamed(l.Link)
	if err == nil {
		err = k.do(newMessage(unix.RTM_DELLINK, 0, linkBody(link.index, 0, 0)))
	}
	if err != nil && !gone(err) && !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("remove link %s: %w", l.Link, err)
	}
	return nil
}

func flush(conn *nftables.Conn, what string) error {
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
