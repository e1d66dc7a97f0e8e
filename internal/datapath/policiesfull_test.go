package datapath

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// allow lets one selector in, and nobody else.
func allow(label int) *text {
	return &text{rules: []rule{{label: label, allow: true, protocol: cluster.TCP, first: 80, last: 80}}}
}

// smallWorld is one pod that lets label 0 in, and so many peers that have it.
func smallWorld(peers int) policyWorld {
	w := policyWorld{map[cluster.Name][2]*text{podName(0): {allow(0), nil}}, map[netip.Addr]labels{}, map[netip.Prefix]labels{}}
	for i := range peers {
		w.labels[netip.AddrFrom4([4]byte{10, 0, byte(2 + i>>8), byte(i)})] = 1
	}
	return w
}

// follow brings a node to a world, pods included.
func follow(t testing.TB, d *Datapath, w policyWorld, at time.Time) ([]Change, error) {
	t.Helper()
	all := w.all()
	changes, err := d.ResyncPolicies(all)
	for n := range 4 {
		s := all.Subjects[podName(n)]
		if s == nil {
			continue
		}
		row := *s
		for _, id := range []*policy.ID{&row.Ingress, &row.Egress} {
			if !d.PolicyFits(*id) {
				*id = policy.Closed
			}
		}
		if err := d.PutEndpoint(podAddr(n), endpointOf(row, 100+n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.SwappedPolicies(at); err != nil {
		t.Fatal(err)
	}
	return changes, err
}

func settlePolicies(t testing.TB, d *Datapath, at time.Time) {
	t.Helper()
	for n := 1; d.RetiredPolicies(); n++ {
		if err := d.RetirePolicies(at.Add(time.Duration(n) * retireAfter)); err != nil || n > 4 {
			t.Fatal(n, err)
		}
	}
}

func TestARestartWritesNothingOfPolicies(t *testing.T) {
	d, at, w := openTest(t), time.Now(), smallWorld(10)
	w.blocks[netip.MustParsePrefix("::/0")] = 1
	if _, err := follow(t, d, w, at); err != nil {
		t.Fatal(err)
	}
	settlePolicies(t, d, at)
	before := stateOf(t, d)
	d.Close()
	d = reopen(t, d.dir)
	changes, err := follow(t, d, w, at)
	settlePolicies(t, d, at)
	if err != nil || len(changes) > 0 || d.PolicyWrites() != (Writes{}) {
		t.Fatalf("%v, %v, %+v", changes, err, d.PolicyWrites())
	}
	if after := stateOf(t, d); !maps.Equal(before.rules, after.rules) || !maps.Equal(before.classes, after.classes) || !maps.Equal(before.blocks, after.blocks) {
		t.Fatalf("%+v became %+v", before, after)
	}
}

// A map that is full closes pods, says so, and lets them be when there is room again.
func TestFullMapsOfPoliciesCloseTheirPods(t *testing.T) {
	big := smallWorld(20)
	for label := range 4 {
		big.pods[podName(label)] = [2]*text{allow(label), nil}
		big.labels[peers()[label]] = 1 << label
		for i := range 3 {
			big.blocks[netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(16 + i), 0, 0}), 16)] = 1
		}
	}
	for _, again := range []bool{false, true} {
		for table, size := range map[string]uint32{bpfMapRules: 4, bpfMapClasses: 10, bpfMapBlocks: 2} {
			t.Run(fmt.Sprint(table, " again ", again), func(t *testing.T) {
				d, at := openSized(t, map[string]uint32{table: size}), time.Now()
				small := smallWorld(2)
				if _, err := follow(t, d, small, at); err != nil {
					t.Fatal(err)
				}
				if !again {
					err := d.SyncPolicies(since(small.all(), big.all()))
					if e, _, _ := d.Endpoint(podAddr(0)); err == nil || d.PoliciesKnown() || table != bpfMapRules && e.Ingress != uint64(policy.Closed) {
						t.Fatalf("%v, %+v", err, e)
					}
					if id := big.pods[podName(0)][0].id(); table != bpfMapRules && (!d.PolicyUnfit(id) || d.PolicyFits(id)) || d.PolicyUnfit(policy.Closed) {
						t.Fatal("it is not said which rulesets do not fit")
					}
				}
				for range 3 {
					_, err := follow(t, d, big, at)
					if err == nil || d.PoliciesKnown() {
						t.Fatal("it did not say so")
					}
					expectNotLooser(t, d, big)
				}
				at = at.Add(retireAfter)
				_, err := follow(t, d, small, at)
				if err != nil && table == bpfMapRules {
					at = at.Add(retireAfter)
					_, err = follow(t, d, small, at)
				}
				if err != nil {
					t.Fatal(err)
				}
				settlePolicies(t, d, at)
				if changes, err := follow(t, d, small, at); err != nil || len(changes) > 0 || len(stateOf(t, d).classes) != 2 {
					t.Fatalf("%v, %v", changes, err)
				}
			})
		}
	}
}

// expectNotLooser sees to it that nothing passes that should not.
func expectNotLooser(t *testing.T, d *Datapath, w policyWorld) {
	t.Helper()
	s, closed := stateOf(t, d), 0
	for _, p := range packets() {
		id, passes := p.passes(func() kernelState { return s })
		if passes && !w.passes(p, w.of(p.peer)) {
			t.Fatalf("%+v passes by %x", p, id)
		}
		if id == policy.Closed {
			closed++
		}
	}
	if closed == 0 {
		t.Fatal("no pod is closed")
	}
}

func TestRowsOfPoliciesThatOthersTouchAreRepaired(t *testing.T) {
	d, at, w := openTest(t), time.Now(), smallWorld(5)
	w.blocks[netip.MustParsePrefix("192.0.2.0/24")] = 1
	if _, err := follow(t, d, w, at); err != nil {
		t.Fatal(err)
	}
	settlePolicies(t, d, at)
	ruleset, class := allow(0).id(), classID(1)
	row, addr := ruleKey(ruleset, policy.Key{Class: class, Protocol: cluster.TCP}, 0), encodeAddr(netip.MustParseAddr("10.0.2.3"))
	block := encodeBlock(netip.MustParsePrefix("192.0.2.0/24"))
	rules, classes, blocks := d.maps[bpfMapRules], d.maps[bpfMapClasses], d.maps[bpfMapBlocks]
	for name, spoil := range map[string]func() error{
		"a row is gone":         func() error { return rules.Delete(row) },
		"a row is another":      func() error { return rules.Put(row, bpfRule{Spans: [rowSpans]bpfSpan{{Last: 9}}}) },
		"an address is gone":    func() error { return classes.Delete(addr) },
		"an address is another": func() error { return classes.Put(addr, uint64(77)) },
		"a prefix is gone":      func() error { return blocks.Delete(block) },
		"added an address":      func() error { return classes.Put(bpfAddr{Word: [4]uint32{1, 2, 3, 4}}, uint64(class)) },
		"added a prefix":        func() error { return blocks.Put(bpfClassKey{Prefixlen: 128, Addr: addr}, uint64(class)) },
		"added a row":           func() error { return rules.Put(bpfRuleKey{Ruleset: 77}, bpfRule{Spans: [rowSpans]bpfSpan{{Last: 9}}}) },
		"added a part":          func() error { r := row; r.Part = 3; return rules.Put(r, bpfRule{Spans: [rowSpans]bpfSpan{{Last: 9}}}) },
		"a row makes no sense": func() error {
			r := row
			return rules.Put(r, bpfRule{Spans: [rowSpans]bpfSpan{{Last: 9}, {First: 9, Last: 5}}})
		},
	} {
		for _, way := range []string{"verify", "resync", "restart"} {
			if way == "verify" && name[:3] == "add" {
				continue
			}
			before := stateOf(t, d)
			if err := spoil(); err != nil {
				t.Fatal(name, err)
			}
			var changes []Change
			var err error
			switch way {
			case "verify":
				for range 40 {
					more, e := d.VerifyPolicies(1)
					if changes = append(changes, more...); e != nil {
						t.Fatal(e)
					}
				}
			case "restart":
				d.policies = policies{}
				fallthrough
			default:
				changes, err = follow(t, d, w, at)
			}
			settlePolicies(t, d, at)
			after := stateOf(t, d)
			if err != nil || len(changes) == 0 && way != "restart" || !maps.Equal(before.rules, after.rules) || !maps.Equal(before.classes, after.classes) || !maps.Equal(before.blocks, after.blocks) {
				t.Fatalf("%s, %s: %v, %v\n%+v\n%+v", name, way, changes, err, before, after)
			}
		}
	}
}

// Rulesets of an earlier agent stay as long as pods have them.
func TestRulesetsThatEndpointsNameStayUntilTheSwap(t *testing.T) {
	d, at, old := openTest(t), time.Now(), smallWorld(3)
	if _, err := follow(t, d, old, at); err != nil {
		t.Fatal(err)
	}
	settlePolicies(t, d, at)
	d.Close()
	d = reopen(t, d.dir)
	next := smallWorld(3)
	next.pods[podName(0)] = [2]*text{allow(1), nil}
	if _, err := d.ResyncPolicies(next.all()); err != nil {
		t.Fatal(err)
	}
	if err := d.SwappedPolicies(at); err != nil { // it says so, but has not
		t.Fatal(err)
	}
	for n := range 5 {
		if err := d.RetirePolicies(at.Add(time.Duration(n) * retireAfter)); err != nil {
			t.Fatal(err)
		}
	}
	peer := packet{0, false, netip.MustParseAddr("10.0.2.1"), cluster.TCP, 80}
	if _, passes := peer.passes(func() kernelState { return stateOf(t, d) }); !passes {
		t.Fatal("the old ruleset judges no more as it did")
	}
	at = at.Add(9 * retireAfter)
	if _, err := follow(t, d, next, at); err != nil {
		t.Fatal(err)
	}
	settlePolicies(t, d, at)
	if s := stateOf(t, d); len(s.classes) != 0 || len(d.policies.rules) != 1 {
		t.Fatalf("%+v", s)
	}
}

func TestAnIPv6BlockSaysNothingOfIPv4(t *testing.T) {
	d, w := openTest(t), smallWorld(0)
	w.blocks[netip.MustParsePrefix("::/0")] = 1
	if _, err := follow(t, d, w, time.Now()); err != nil {
		t.Fatal(err)
	}
	s := stateOf(t, d)
	for peer, want := range map[string]bool{"192.0.2.1": false, "fd00::1": true} {
		p := packet{0, false, netip.MustParseAddr(peer), cluster.TCP, 80}
		if _, passes := p.passes(func() kernelState { return s }); passes != want {
			t.Errorf("%s passes: %v", peer, passes)
		}
	}
}
