package explain

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/oracle/cases"
)

var (
	seedFlag = flag.Uint64("seed", 0, "repeat the random test of this seed")
	clusters = flag.Int("clusters", 60, "how many random clusters are compared with one like them")
)

func TestADifferenceIsWhatOnlyOneAllows(t *testing.T) {
	old, now := street(func(*cluster.Service) {}), street(func(*cluster.Service) {})
	now.objects.ClusterPolicies = []*v1alpha2.ClusterNetworkPolicy{{
		ObjectMeta: metav1.ObjectMeta{Name: "no-world"},
		Spec: v1alpha2.ClusterNetworkPolicySpec{
			Tier: v1alpha2.AdminTier, Subject: v1alpha2.ClusterNetworkPolicySubject{Namespaces: &metav1.LabelSelector{}},
			Egress: []v1alpha2.ClusterNetworkPolicyEgressRule{{
				Action: v1alpha2.ClusterNetworkPolicyRuleActionDeny,
				To:     []v1alpha2.ClusterNetworkPolicyEgressPeer{{Networks: []v1alpha2.CIDR{"198.51.100.0/24"}}},
			}},
		},
	}}
	now.pods = slices.DeleteFunc(now.pods, func(p *pod) bool { return p.name == "ns/lost" })
	for _, back := range []bool{false, true} {
		a, b := old, now
		if back {
			a, b = now, old
		}
		d := Diff(a, b)
		var got []string
		for _, ch := range d.Changes {
			got = append(got, fmt.Sprintf("%s to %s %s %t", ch.From.Name, ch.To.Name, ch.Ports, ch.Now.Allowed))
		}
		var want []string
		for _, from := range []string{"far", "near"} {
			for _, ports := range []string{"1-65535/TCP", "1-65535/UDP", "1-65535/SCTP", "ICMP"} {
				want = append(want, fmt.Sprintf("ns/%s to 198.51.100.0/24 (198.51.100.1) %s %t", from, ports, back))
			}
		}
		if !slices.Equal(got, want) || !slices.Equal(d.Left, []string{"ns/lost"}) {
			t.Errorf("changes are %q, want %q; nothing is said about %q", got, want, d.Left)
		}
	}
}

// mutant is a cluster with some of the other's policies, and now and then other labels, ports or addresses.
func mutant(d *cases.Dice, o *oracle.Objects) *oracle.Objects {
	other, m := d.Cluster(), *o
	m.NetworkPolicies, m.ClusterPolicies = slices.Clone(o.NetworkPolicies), slices.Clone(o.ClusterPolicies)
	for range 1 + d.IntN(2) {
		switch n := len(m.NetworkPolicies); d.IntN(8) {
		case 0, 1:
			if n > 0 {
				m.NetworkPolicies = slices.Delete(m.NetworkPolicies, n-1, n)
			}
		case 2:
			m.NetworkPolicies = append(m.NetworkPolicies[:max(0, n-1)], other.NetworkPolicies[0])
		case 3:
			m.ClusterPolicies = other.ClusterPolicies
		case 4:
			m.Namespaces = other.Namespaces
		case 5:
			m.Nodes = other.Nodes
		default:
			m.Pods = slices.Clone(o.Pods)
			at := d.IntN(len(m.Pods))
			m.Pods[at] = mutantPod(d, m.Pods[at], other.Pods[0])
		}
	}
	return &m
}

func mutantPod(d *cases.Dice, old, other *corev1.Pod) *corev1.Pod {
	p := old.DeepCopy()
	switch d.IntN(4) {
	case 0:
		p.Labels = other.Labels
	case 1:
		p.Spec.Containers = other.Spec.Containers
	case 2:
		p.Status.PodIPs, p.Status.PodIP = []corev1.PodIP{{IP: "10.0.9.9"}}, ""
	default:
		p.Spec.NodeName = "node-1"
	}
	return p
}

// placeOf names who has an address, as changes do, by what the objects say; empty: of that, changes say nothing.
func placeOf(o *oracle.Objects, a netip.Addr, blocks map[netip.Prefix]bool) string {
	if p := o.Pod(a); p != nil {
		return p.Namespace + "/" + p.Name
	}
	for _, n := range o.Nodes {
		if slices.Contains(oracle.NodeAddresses(n), a) {
			return "node/" + n.Name
		}
	}
	longest := -1
	name := ""
	for p := range blocks {
		if p.Contains(a) && p.Bits() > longest {
			longest, name = p.Bits(), p.String()
		}
	}
	if longest < 0 || a.IsLoopback() || a.IsUnspecified() {
		return ""
	}
	return name
}

// randomPacket is near what one of the clusters names, at any port.
func randomPacket(d *cases.Dice, of *both, i int) oracle.Packet {
	p := d.Packet(&of.clusters[i].objects)
	if d.IntN(2) == 0 {
		var blocks []netip.Prefix
		for b := range of.named.blocks {
			if b.Addr().Is4() == p.Src.Is4() {
				blocks = append(blocks, b)
			}
		}
		if slices.SortFunc(blocks, comparePrefixes); len(blocks) > 0 {
			b := blocks[d.IntN(len(blocks))]
			a := []netip.Addr{b.Addr(), b.Addr().Next(), b.Addr().Prev(), lastOf(b), lastOf(b).Next()}[d.IntN(5)]
			if end := []*netip.Addr{&p.Src, &p.Dst}[d.IntN(2)]; a.IsValid() && a.BitLen() == p.Src.BitLen() {
				*end = a
			}
		}
	}
	if p.Port > 0 && d.IntN(3) == 0 {
		p.Port = uint16(1 + d.IntN(lastPort))
	}
	if slices.Contains(protocolsInOrder()[:3], cluster.Protocol(p.Protocol)) {
		p.Port = max(p.Port, 1)
	}
	return p
}

// A packet fares differently exactly if it is among the changes.
func TestADifferenceIsExactlyWhatTheOracleJudgesDifferently(t *testing.T) {
	first := *seedFlag
	if first == 0 {
		first = rand.Uint64()
	}
	t.Logf("-seed=%d", first)
	differ, none := 0, 0
	for i := range uint64(*clusters) {
		d := cases.NewDice(first + i)
		o := d.Cluster()
		pair := [2]*oracle.Objects{o, mutant(d, o)}
		old, now := New(*pair[0], nil, nil, nil), New(*pair[1], nil, nil, nil)
		of, changes := newBoth(old, now), Diff(old, now).Changes
		if len(changes) == 0 {
			none++
		}
		for range 200 {
			if comparePacket(t, first+i, pair, of, changes, randomPacket(d, of, d.IntN(2))) {
				differ++
			}
		}
		sites, _ := of.sites()
		for range min(len(changes), 200) {
			checkChange(t, first+i, pair, sites, changes[d.IntN(len(changes))])
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d packets differ; nothing changes between %d of %d clusters", differ, none, *clusters)
	if differ == 0 || none == 0 || none == *clusters {
		t.Error("the clusters are too much alike, or not enough")
	}
}

func comparePacket(t *testing.T, seed uint64, pair [2]*oracle.Objects, of *both, changes []Change, p oracle.Packet) bool {
	t.Helper()
	var names [2][2]string // of each cluster, of either end
	for i, o := range pair {
		names[i] = [2]string{placeOf(o, p.Src, withWholes(of.named.blocks)), placeOf(o, p.Dst, withWholes(of.named.blocks))}
	}
	if names[0] != names[1] || names[0][0] == "" || names[0][1] == "" {
		return false // of what is somebody else's in the other cluster, nothing is said
	}
	before, after := pair[0].Judge(p), pair[1].Judge(p)
	told := slices.ContainsFunc(changes, func(c Change) bool {
		return is(c.From, p.Src, names[0][0]) && is(c.To, p.Dst, names[0][1]) && c.IPv4 == p.Src.Is4() && c.Now.Allowed == after.Allowed &&
			(c.Ports.Protocol == cluster.Protocol(p.Protocol) || c.Ports.Protocol == ICMP && p.Port == 0) && c.Ports.First <= p.Port && p.Port <= c.Ports.Last
	})
	if told != (before.Allowed != after.Allowed) {
		t.Errorf("-seed=%d: %v, %q: %s, then %s; told: %t", seed, p, names[0], before, after, told)
	}
	return before.Allowed != after.Allowed
}

// is says whether an address of somebody, or of a block, is a place's.
func is(p Place, a netip.Addr, name string) bool {
	if p.Block.IsValid() {
		return p.Block.String() == name
	}
	return p.Name == name || p.Name == fmt.Sprintf("%s (%s)", name, a)
}

func withWholes(blocks map[netip.Prefix]bool) map[netip.Prefix]bool {
	blocks[netip.MustParsePrefix("0.0.0.0/0")], blocks[netip.MustParsePrefix("::/0")] = true, true
	return blocks
}

// checkChange asks whole clusters about the ends of what changes.
func checkChange(t *testing.T, seed uint64, pair [2]*oracle.Objects, sites []*site, c Change) {
	t.Helper()
	now := New(*pair[1], nil, nil, nil)
	find := func(p Place) *site {
		return sites[slices.IndexFunc(sites, func(s *site) bool { return s.Place == p && s.ipv4() == c.IPv4 })]
	}
	from, to := find(c.From), find(c.To)
	for _, port := range []uint16{c.Ports.First, c.Ports.First/2 + c.Ports.Last/2, c.Ports.Last} {
		port = min(max(port, c.Ports.First), c.Ports.Last)
		before := pair[0].Judge(packet(from.at[0], to.at[0], c.Ports.Protocol, port))
		after := pair[1].Judge(packet(from.at[1], to.at[1], c.Ports.Protocol, port))
		because := c.Because(from.pod(), to.pod())
		lines := []string{}
		for _, s := range (Way{Egress: now.side(after.Egress), Ingress: now.side(after.Ingress)}).sides() {
			if s.Allowed == after.Allowed && slices.Contains(because, s.title()+" "+s.Pods[0]+" "+s.Because(s.direction)) {
				lines = append(lines, s.direction)
			}
		}
		if before.Allowed == after.Allowed || after.Allowed != c.Now.Allowed || len(because) == 0 || len(lines) != len(because) {
			t.Errorf("-seed=%d: %+v at port %d: %s, then %s: %q", seed, c, port, before, after, because)
		}
	}
}

func TestTheScenariosDifferFromNoPolicies(t *testing.T) {
	files, err := cases.Files("../../testdata/policies")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios: ", err)
	}
	for _, file := range files {
		s, err := cases.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		open := *s.Objects
		open.NetworkPolicies, open.ClusterPolicies = []*networkingv1.NetworkPolicy{}, nil
		pair := [2]*oracle.Objects{&open, s.Objects}
		old, now := New(open, nil, nil, nil), New(*s.Objects, nil, nil, nil)
		of, changes := newBoth(old, now), Diff(old, now).Changes
		for _, c := range s.Connections {
			comparePacket(t, 0, pair, of, changes, c.Packet)
		}
		sites, _ := of.sites()
		for _, c := range changes {
			checkChange(t, 0, pair, sites, c)
		}
		if t.Failed() {
			t.Fatal(file)
		}
	}
}

func TestCyclonusStatesDifferAsTheOracleSays(t *testing.T) {
	all, err := cases.Cyclonus()
	if err != nil {
		t.Fatal(err)
	}
	differ := 0
	for _, c := range all {
		for i := range c.States[1:] {
			pair := [2]*oracle.Objects{c.States[i], c.States[i+1]}
			old, now := New(*pair[0], nil, nil, nil), New(*pair[1], nil, nil, nil)
			of, changes := newBoth(old, now), Diff(old, now).Changes
			for _, p := range cases.Tried(pair[1]) {
				if comparePacket(t, 0, pair, of, changes, p) {
					differ++
				}
			}
		}
	}
	t.Logf("%d connections differ", differ)
	if differ == 0 {
		t.Error("no state differs from the one before")
	}
}
