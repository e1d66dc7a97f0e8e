package netdev

import (
	"net"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/testnet"
)

// foreignRules writes to a namespace's nftables by another hand.
func foreignRules(t testing.TB, ns *testnet.NS, write func(c *nftables.Conn)) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
	if err != nil {
		t.Fatal(err)
	}
	write(c)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

func wantTranslators(t testing.TB, k *Kernel, want ...string) {
	t.Helper()
	found, err := k.Translators()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range found {
		got = append(got, f.Who+": "+f.Where)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("translators are %q, want %q", got, want)
	}
}

func TestWhoElseTranslatesIsKnownByRulesAndLinks(t *testing.T) {
	ipv4, ipv6 := nftables.TableFamilyIPv4, nftables.TableFamilyIPv6
	table := func(family nftables.TableFamily, name string, chains ...string) func(c *nftables.Conn) {
		return func(c *nftables.Conn) {
			t := c.AddTable(&nftables.Table{Name: name, Family: family})
			for _, chain := range chains {
				c.AddChain(&nftables.Chain{Name: chain, Table: t})
			}
		}
	}
	for name, c := range map[string]struct {
		write func(c *nftables.Conn)
		want  []string
	}{
		"nobody":              {func(*nftables.Conn) {}, nil},
		"others":              {table(ipv4, "nat", "DOCKER", "KUBE-KUBELET-CANARY"), nil},
		"another family":      {table(nftables.TableFamilyINet, "kube-proxy"), nil},
		"nftables":            {table(ipv4, "kube-proxy"), []string{"kube-proxy: nftables table ip kube-proxy"}},
		"nftables, IPv6":      {table(ipv6, "kube-proxy"), []string{"kube-proxy: nftables table ip6 kube-proxy"}},
		"iptables":            {table(ipv4, "nat", "KUBE-SERVICES", "KUBE-NODEPORTS"), []string{"kube-proxy: chain KUBE-SERVICES in table ip nat"}},
		"iptables, half gone": {table(ipv6, "nat", "KUBE-NODEPORTS"), []string{"kube-proxy: chain KUBE-NODEPORTS in table ip6 nat"}},
		"portmap":             {table(ipv6, "cni_hostport"), []string{"portmap: nftables table ip6 cni_hostport"}},
		"portmap by iptables": {table(ipv4, "nat", "CNI-HOSTPORT-DNAT"), []string{"portmap: chain CNI-HOSTPORT-DNAT in table ip nat"}},
	} {
		t.Run(name, func(t *testing.T) {
			ns := testnet.New(t)
			k := open(t, ns)
			foreignRules(t, ns, c.write)
			wantTranslators(t, k, c.want...)
		})
	}
	t.Run("ipvs", func(t *testing.T) {
		ns := testnet.New(t)
		k := open(t, ns)
		device(t, ns, ipvsLink)
		wantTranslators(t, k, "kube-proxy: link kube-ipvs0")
	})
}

// redirectRules send UDP port 1000 of a namespace to its port 2000, as kube-proxy does with a Service's.
func redirectRules(c *nftables.Conn) {
	table := c.AddTable(&nftables.Table{Name: kubeProxyTable, Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{Name: "nat-output", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(1000)},
		&expr.Immediate{Register: 1, Data: []byte{127, 0, 0, 1}},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(2000)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	}})
}

func TestFlowsOfAProxyThatIsGoneAreNoticedUntilTheyEnd(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	foreignRules(t, ns, redirectRules)
	wantTranslators(t, k, "kube-proxy: nftables table ip kube-proxy")
	in(t, ns, func() error {
		conn, err := net.Dial("udp", "127.0.0.1:1000")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("translated"))
		return err
	})
	found, err := k.Leftovers()
	if err != nil || found.Empty() {
		t.Fatalf("leftovers are %+v, %v", found, err)
	}
	if err := k.RemoveLeftovers(found); err != nil {
		t.Fatal(err)
	}
	wantTranslators(t, k, "connections of an earlier proxy: conntrack")
	wantTranslators(t, open(t, ns), "connections of an earlier proxy: conntrack") // so does an agent that starts
	in(t, ns, func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	wantTranslators(t, k)
	if !k.untranslated.Load() {
		t.Error("flows are looked for though none were left")
	}
}

func TestKubeProxysLeftoversGoAndOthersStay(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	jump := func(to string) []expr.Any {
		return []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictJump, Chain: to}}
	}
	foreignRules(t, ns, func(c *nftables.Conn) {
		redirectRules(c)
		nat := c.AddTable(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv6})
		pre := c.AddChain(&nftables.Chain{Name: "PREROUTING", Table: nat, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
		chains := map[string]*nftables.Chain{}
		for _, name := range []string{"KUBE-SERVICES", "KUBE-SVC-X", "KUBE-SEP-X", "KUBE-KUBELET-CANARY", "KUBE-ROUTER-FORWARD", "DOCKER"} {
			chains[name] = c.AddChain(&nftables.Chain{Name: name, Table: nat})
		}
		for from, to := range map[*nftables.Chain]string{chains["KUBE-SERVICES"]: "KUBE-SVC-X", chains["KUBE-SVC-X"]: "KUBE-SEP-X"} {
			c.AddRule(&nftables.Rule{Table: nat, Chain: from, Exprs: jump(to)})
		}
		for _, to := range []string{"KUBE-SERVICES", "DOCKER", "KUBE-ROUTER-FORWARD"} {
			c.AddRule(&nftables.Rule{Table: nat, Chain: pre, Exprs: jump(to)})
		}
	})
	device(t, ns, ipvsLink)
	found, err := k.Leftovers()
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"ip kube-proxy"}; !slices.Equal(found.Tables, want) {
		t.Errorf("tables are %q, want %q", found.Tables, want)
	}
	if want := []string{"ip6 nat: chains: 3, rules that lead to them: 1"}; !slices.Equal(found.Chains, want) || found.Link != ipvsLink {
		t.Errorf("chains are %q, want %q; link %q", found.Chains, want, found.Link)
	}
	if err := k.RemoveLeftovers(found); err != nil {
		t.Fatal(err)
	}
	if found, err = k.Leftovers(); err != nil || !found.Empty() {
		t.Errorf("there is still %+v, %v", found, err)
	}
	c, err := nftables.New(nftables.WithNetNSFd(int(ns.File().Fd())))
	if err != nil {
		t.Fatal(err)
	}
	left, err := c.ListChains()
	if err != nil || len(left) != 4 {
		t.Errorf("%d chains of others are left, %v", len(left), err)
	}
	rules, err := c.GetRules(&nftables.Table{Name: "nat", Family: nftables.TableFamilyIPv6}, &nftables.Chain{Name: "PREROUTING"})
	if err != nil || len(rules) != 2 {
		t.Errorf("%d rules of others are left, %v", len(rules), err)
	}
}

// It is asked at every sync, every few seconds.
func BenchmarkTranslators(b *testing.B) {
	k := open(b, testnet.New(b))
	for b.Loop() {
		if _, err := k.Translators(); err != nil {
			b.Fatal(err)
		}
	}
}
