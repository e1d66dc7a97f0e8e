package probe

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
)

// twoPods are pods on two nodes, each with an address of its node's pod CIDR.
func twoPods() (from, to *end) {
	make := func(node, name, cidr, address string) *end {
		s := &session{node: cluster.Node{Name: node, PodCIDRs: []netip.Prefix{netip.MustParsePrefix(cidr)}}}
		e := end{session: s, id: 1, name: name}
		e.Listeners = []listener{{Address: netip.MustParseAddr(address)}}
		s.ends = []end{{session: s, name: node}, e}
		return &s.ends[1]
	}
	return make("a", "ns/one", "10.244.1.0/24", "10.244.1.2"), make("b", "ns/two", "10.244.2.0/24", "10.244.2.2")
}

// good is a result without fault, for a packet of 1450 bytes.
func good() result {
	one := netip.MustParseAddr("10.244.1.2")
	return result{Source: one, MTU: 1450, Answer: &answer{Who: "b/1", Seen: one, Got: 1450 - 28}}
}

func TestAResultIsJudgedByTheLaws(t *testing.T) {
	elsewhere := netip.MustParseAddr("172.30.0.11")
	for _, c := range []struct {
		name   string
		probe  kind
		change func(*result)
		want   map[int]string // law and a part of the reason
	}{
		{"all is well", tcp, func(*result) {}, nil},
		{"lost", tcp, func(r *result) { *r = result{Error: "no answer within 2s"} }, map[int]string{2: "no answer"}},
		{"never tried", udp, func(r *result) { *r = result{} }, map[int]string{2: "no result"}},
		{"rewritten source", tcp, func(r *result) { r.Answer.Seen = elsewhere },
			map[int]string{2: "saw 172.30.0.11, not the sender's own 10.244.1.2", 4: "saw 172.30.0.11"}},
		{"source that is not the pod's", udp, func(r *result) { r.Source, r.Answer.Seen = elsewhere, elsewhere },
			map[int]string{2: "does not list", 4: "which is not its address"}},
		{"another one answers", tcp, func(r *result) { r.Answer.Who = "b/2" }, map[int]string{2: "b/2 answered in its place"}},
		{"first packet lost", udp, func(r *result) { r.LostFirst = true }, map[int]string{2: "first packet was lost"}},
		{"full-size packet lost", full, func(r *result) { *r = result{MTU: 1450, Error: "no answer within 2s"} },
			map[int]string{6: "1450 bytes: no answer"}},
		{"full-size packet cut", full, func(r *result) { r.Answer.Got = 1000 }, map[int]string{6: "of 1422 bytes of payload, 1000 arrived"}},
		{"full-size packet in fragments", full, func(r *result) { r.Answer.Fragmented = true }, map[int]string{6: "in fragments"}},
		{"smaller MTU learned on the way", full, func(r *result) { r.Learned = true }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, to := twoPods()
			results := map[kind]result{tcp: good(), udp: good(), full: good()}
			changed := results[c.probe]
			c.change(&changed)
			results[c.probe] = changed
			got := &tally{laws: newLaws()}
			trial{path{from, to, to.Listeners[0]}, results}.judge(got)
			if len(got.failures) != len(c.want) {
				t.Errorf("failures are %v, want laws %v", got.failures, c.want)
			}
			for _, f := range got.failures {
				if part := c.want[f.Law]; part == "" || !strings.Contains(f.Reason, part) {
					t.Errorf("law %d: %q, want %q", f.Law, f.Reason, part)
				}
				if f.From != "ns/one" || f.To != "ns/two" || f.Family != "IPv4" || f.Probe != string(c.probe) {
					t.Errorf("the failure is of %s to %s by %s %s", f.From, f.To, f.Family, f.Probe)
				}
			}
		})
	}
}

func TestAnAddressNobodyCanListenOnFailsItsPairs(t *testing.T) {
	from, to := twoPods()
	to.Listeners[0].Error = "cannot assign requested address"
	got := &tally{laws: newLaws()}
	trial{path{from, to, to.Listeners[0]}, nil}.judge(got)
	if len(got.failures) != 1 || got.failures[0].Law != 2 || !strings.Contains(got.failures[0].Reason, "cannot assign") {
		t.Errorf("failures are %v", got.failures)
	}
}

func TestAddressesAreUniqueAndOfTheNodesPodCIDR(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(from, to *end)
		want   []string
	}{
		{"all is well", func(_, _ *end) {}, nil},
		{"twice", func(from, to *end) { to.Listeners[0] = from.Listeners[0] },
			[]string{"10.244.1.2 belongs to [ns/one ns/two]", "10.244.1.2 belongs to [ns/one ns/two]"}},
		{"of another node's range", func(_, to *end) { to.Listeners[0].Address = netip.MustParseAddr("10.244.3.9") },
			[]string{"10.244.3.9 is not of its node's pod CIDRs [10.244.2.0/24]"}},
		{"none in a family", func(_, to *end) {
			to.session.node.PodCIDRs = append(to.session.node.PodCIDRs, netip.MustParsePrefix("fd00::/64"))
		}, []string{"has no address of its node's fd00::/64"}},
		{"ranges unknown", func(from, to *end) { from.session.node.PodCIDRs, to.session.node.PodCIDRs = nil, nil }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, to := twoPods()
			c.change(from, to)
			got := &tally{laws: newLaws()}
			checkAddresses(got, []*end{from, to})
			var reasons []string
			for _, f := range got.failures {
				reasons = append(reasons, f.Reason)
			}
			if !reflect.DeepEqual(reasons, c.want) {
				t.Errorf("failures are %q, want %q", reasons, c.want)
			}
			if checked := got.laws[4].Checked; checked < 2 {
				t.Errorf("%d addresses were checked", checked)
			}
		})
	}
}

func TestAPodOfTheClusterThatIsNowhereIsAFailure(t *testing.T) {
	from, _ := twoPods()
	pod := func(name, address string, host bool) cluster.Pod {
		return cluster.Pod{Namespace: "ns", Name: name, Node: "a", HostNetwork: host, Addresses: []netip.Addr{netip.MustParseAddr(address)}}
	}
	got := &tally{laws: newLaws()}
	checkPods(got, []*session{from.session}, []cluster.Pod{
		pod("one", "10.244.1.2", false), pod("lost", "10.244.1.9", false), pod("host", "172.30.0.11", true),
	})
	if len(got.failures) != 1 || got.failures[0].From != "ns/lost" || got.failures[0].Law != 4 {
		t.Errorf("failures are %v", got.failures)
	}
}
