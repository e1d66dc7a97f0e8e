package datapath

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// policyRig is a node whose agent follows a world of policies, and looks after each write at what packets would meet.
type policyRig struct {
	t     *testing.T
	d     *Datapath
	dice  policyDice
	at    time.Time
	world policyWorld
	said  policy.Changes // of world

	packets []packet

	truths []truth       // that may judge now
	states []kernelState // since a moment that a program may still be in
	torn   map[policy.ID]bool

	guesses int // packets that are dropped since it is not known which pod goes which way
}

// smallMaps have room enough, and are read in no time.
func smallMaps() map[string]uint32 {
	return map[string]uint32{bpfMapRules: 4096, bpfMapClasses: 128, bpfMapBlocks: 128, bpfMapEndpoints: 64}
}

func newPolicyRig(t *testing.T, dice policyDice) *policyRig {
	r := &policyRig{t: t, d: openSized(t, smallMaps()), dice: dice, at: time.Now(), packets: packets(),
		world: policyWorld{map[cluster.Name][2]*text{}, map[netip.Addr]labels{}, map[netip.Prefix]labels{}}}
	if _, err := r.d.ResyncPolicies(r.world.all()); err != nil {
		t.Fatal(err)
	}
	if err := r.d.SwappedPolicies(r.at); err != nil {
		t.Fatal(err)
	}
	r.truths = []truth{truthOf(r.world)}
	return r
}

// look judges every packet in the state of this moment, and some by look-ups in several moments.
func (r *policyRig) look() {
	last := stateOf(r.t, r.d)
	last.at = r.at
	r.states = append(r.states, last)
	for n := range r.packets {
		r.judge(n, func() kernelState { return last })
		if i := r.dice.IntN(len(r.states)); r.dice.IntN(4) == 0 {
			r.judge(n, func() kernelState {
				s := r.states[i]
				i += r.dice.IntN(len(r.states) - i)
				return s
			})
		}
	}
}

func (r *policyRig) judge(n int, when func() kernelState) {
	p := r.packets[n]
	ruleset, passes := p.passes(when)
	for _, w := range r.truths {
		if w[n] == passes {
			return
		}
	}
	if !passes && r.torn[ruleset] {
		r.guesses++
		return
	}
	r.t.Fatalf("%+v: by %x it passes: %v, but of %d worlds in none; its class is %x, its pod's rulesets are %x", p, ruleset, passes,
		len(r.truths), r.states[len(r.states)-1].classOf(p.peer), r.said.Subjects[podName(p.pod)])
}

// step changes the world, and brings the node there.
func (r *policyRig) step(next policyWorld, again bool) {
	said := next.all()
	if again {
		r.d.policies.wrote = nil
		dir := r.d.dir
		r.d.Close()
		r.d = reopenSized(r.t, dir, smallMaps())
	}
	r.truths = append(r.truths, truthOf(next))
	r.look()
	r.d.policies.wrote = r.look
	var err error
	if again || r.dice.IntN(8) == 0 {
		r.tear(said, again)
		_, err = r.d.ResyncPolicies(said)
	} else {
		r.tear(said, false)
		err = r.d.SyncPolicies(since(r.said, said))
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.world, r.said = next, said
	r.swap()
}

// tear notes which rulesets some pods leave while others enter or keep them: what they all agree on is not always known.
func (r *policyRig) tear(next policy.Changes, unknown bool) {
	left := map[policy.ID]bool{}
	for id := range r.d.policies.left {
		left[id] = true
	}
	subject := func(c policy.Changes, n int) (s policy.Subject) {
		if p := c.Subjects[podName(n)]; p != nil {
			s = *p
		}
		return s
	}
	for n := range 4 {
		a, b := subject(r.said, n), subject(next, n)
		if a.Ingress != b.Ingress {
			left[a.Ingress] = true
		}
		if a.Egress != b.Egress {
			left[a.Egress] = true
		}
	}
	for id := range next.Rulesets {
		if unknown || left[id] { // and entered, or kept: who just left may be judged by what those who keep it are
			put(&r.torn, id, true)
		}
	}
}

// swap gives endpoints their rulesets, in any order.
func (r *policyRig) swap() {
	for _, n := range r.dice.Perm(4) {
		var err error
		if s := r.said.Subjects[podName(n)]; s == nil {
			err = r.d.DeleteEndpoint(podAddr(n))
		} else {
			err = r.d.PutEndpoint(podAddr(n), endpointOf(*s, 100+n))
			for _, id := range []policy.ID{s.Ingress, s.Egress} {
				if !r.d.PolicyFits(id) {
					r.t.Fatalf("%x does not fit", id)
				}
			}
		}
		if err != nil {
			r.t.Fatal(err)
		}
		r.look()
	}
	if err := r.d.SwappedPolicies(r.at); err != nil {
		r.t.Fatal(err)
	}
}

// pass lets time pass.
func (r *policyRig) pass(long time.Duration) {
	r.at = r.at.Add(long)
	r.states = slices.DeleteFunc(r.states, func(s kernelState) bool { return r.at.Sub(s.at) >= retireAfter }) // no program is that slow
	if len(r.states) == 0 {
		r.look()
	}
	if err := r.d.RetirePolicies(r.at); err != nil {
		r.t.Fatal(err)
	}
	if s := r.d.policies; len(s.left)+len(s.emptied)+len(s.classes.late)+len(s.blocks.late) == 0 {
		r.states, r.truths, r.torn = nil, []truth{truthOf(r.world)}, nil
		r.look()
	}
}

func TestNoPacketIsJudgedByWhatNeitherOldNorNewPoliciesSay(t *testing.T) {
	seed := cmp.Or(*seedFlag, rand.Uint64())
	t.Logf("seed %d", seed)
	dice := policyDice{rand.New(rand.NewPCG(seed, 0))}
	r := newPolicyRig(t, dice)
	var texts []*text
	for range 8 {
		texts = append(texts, dice.text())
	}
	for n := range cmp.Or(*casesFlag, 25) {
		if dice.IntN(3) == 0 {
			texts[dice.IntN(len(texts))] = dice.text()
		}
		r.step(dice.next(r.world, texts), dice.IntN(10) == 0)
		switch dice.IntN(3) {
		case 0:
			r.pass(time.Duration(dice.IntN(1500)) * time.Millisecond)
		case 1:
			r.pass(retireAfter)
			r.pass(retireAfter)
		}
		if n%10 == 9 {
			r.expectFresh()
		}
	}
	t.Logf("%d packets are dropped rather than guessed at", r.guesses)
}

// expectFresh compares the maps with those of a node that never knew anything else.
func (r *policyRig) expectFresh() {
	r.t.Helper()
	for n := 0; r.d.RetiredPolicies(); n++ {
		if r.pass(retireAfter); n > 4 {
			r.t.Fatalf("something waits for ever: %+v %+v %v %v", r.d.policies.classes.late, r.d.policies.blocks.late, r.d.policies.left, r.d.policies.doomed)
		}
	}
	fresh := openSized(r.t, smallMaps())
	defer fresh.Close()
	if _, err := fresh.ResyncPolicies(r.said); err != nil {
		r.t.Fatal(err)
	}
	got, want := stateOf(r.t, r.d), stateOf(r.t, fresh)
	if want.endpoints = got.endpoints; !reflect.DeepEqual(got, want) {
		r.t.Fatalf("it is\n%+v\nfresh:\n%+v", got, want)
	}
	if changes, err := r.d.ResyncPolicies(r.said); err != nil || len(changes) > 0 || r.d.RetiredPolicies() {
		r.t.Fatalf("not at rest: %v, %v", changes, err)
	}
}

// Some pods leave a ruleset and others keep it, while a peer gets another class: those that stay deny what is denied now as
// soon as the others have left, and lose nothing before.
func TestWhatIsDeniedAnewWaitsForNoPodThatLeaves(t *testing.T) {
	d, at := openTest(t), time.Now()
	x, y := &text{rules: []rule{{label: 0, allow: true, last: 65535}}}, &text{rules: []rule{{label: 1, allow: true, last: 65535}}}
	peer := peers()[1]
	old := policyWorld{map[cluster.Name][2]*text{podName(0): {x}, podName(1): {x}, podName(2): {y}}, map[netip.Addr]labels{peer: 1}, map[netip.Prefix]labels{}}
	next := old.clone()
	next.pods[podName(0)], next.labels[peer] = [2]*text{y}, 2
	expect := func(when string, want ...bool) {
		t.Helper()
		s := stateOf(t, d)
		for n, want := range want {
			if _, passes := (packet{pod: n, peer: peer, protocol: cluster.TCP, port: 80}).passes(func() kernelState { return s }); passes != want {
				t.Errorf("%s, pod %d: %v", when, n, passes)
			}
		}
	}
	swap := func(c policy.Changes) {
		for n := range 3 {
			if err := d.PutEndpoint(podAddr(n), endpointOf(*c.Subjects[podName(n)], 100+n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.SwappedPolicies(at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.ResyncPolicies(old.all()); err != nil {
		t.Fatal(err)
	}
	swap(old.all())
	for d.RetiredPolicies() {
		at = at.Add(retireAfter)
		if err := d.RetirePolicies(at); err != nil {
			t.Fatal(err)
		}
	}
	expect("before", true, true, false)
	if err := d.SyncPolicies(since(old.all(), next.all())); err != nil {
		t.Fatal(err)
	}
	expect("written", true, true)
	swap(next.all())
	expect("swapped", true, false, true)
	if err := d.RetirePolicies(at.Add(retireAfter)); err != nil {
		t.Fatal(err)
	}
	expect("retired", true, false, true)
}
