package datapath

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/oracle/cases"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/watch"
)

// firstClient is above all ports that are served, and such as clients have.
const firstClient = 33000

// deniedPacket is one that the programs denied, and so does the oracle.
type deniedPacket struct {
	oracle.Packet
	by *oracle.Judgement // nil: it is on its way from one class to another, and waits
}

// A node's agent is started ten times, say, and hears of some changes each time; each time, packets are sent. The verdict
// and who decided are the oracle's, the tables' and the programs'. Flags make it as long as one likes.
func TestProgramsJudgeRandomPacketsAsTheOracleAndTheTablesDo(t *testing.T) {
	const packets = 60
	seed := cmp.Or(*seedFlag, rand.Uint64())
	t.Logf("-seed=%d", seed)
	r := newVerdictRig(t)
	left := cmp.Or(*casesFlag, 20_000)
	r.ns.Do(func() {
		for ; left > 0; seed++ {
			self := int(seed % 2)
			r.start(seed, fmt.Sprint("node-", self), remotesOf(self))
			for i := range 1 + r.IntN(10) {
				o := r.Cluster()
				r.become(o, cases.Snapshot(o), i == 0)
				if !r.hasPods() {
					continue
				}
				r.send(r.draw(packets / 2)...)
				r.retire()
				r.send(r.draw(packets / 2)...)
				left -= packets
			}
		}
	})
	t.Logf("%v", r.counts)
}

func TestProgramsJudgeEveryScenarioAsTheOracleDoes(t *testing.T) {
	files, err := cases.Files("../../testdata/policies")
	if err != nil || len(files) == 0 {
		t.Fatal(len(files), err)
	}
	r := newVerdictRig(t)
	for _, file := range files {
		s, err := cases.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		var packets []oracle.Packet
		for _, c := range s.Connections {
			packets = append(packets, c.Packet)
		}
		r.everyNode(s.Objects, watch.Once("scenario.yaml", s.Manifests), packets)
	}
	t.Logf("%v", r.counts)
}

// Of all its packets, one of nine is sent, and all if -cases is given.
func TestProgramsJudgeCyclonusAsTheOracleDoes(t *testing.T) {
	all, err := cases.Cyclonus()
	if err != nil {
		t.Fatal(err)
	}
	r := newVerdictRig(t)
	some := 9
	if *casesFlag > 0 {
		some = 1
	}
	for i, c := range all {
		for _, o := range c.States {
			var packets []oracle.Packet
			for n, p := range cases.Tried(o) {
				if (n+i)%some == 0 {
					packets = append(packets, p)
				}
			}
			r.everyNode(o, cases.Snapshot(o), packets)
		}
	}
	t.Logf("%v", r.counts)
}

// everyNode sends packets on each node of a cluster that has to do with them.
func (r *verdictRig) everyNode(o *oracle.Objects, s *cluster.Snapshot, packets []oracle.Packet) {
	r.ns.Do(func() {
		for i, n := range o.Nodes {
			r.start(uint64(i), n.Name, nil)
			r.become(o, s, true)
			mine := slices.DeleteFunc(slices.Clone(packets), func(p oracle.Packet) bool { return !r.concerns(p) })
			for some := range slices.Chunk(mine, 1000) { // as many as there is room to tell of
				r.send(some...)
			}
			r.retire()
			r.retire()
		}
	})
}

func (r *verdictRig) hasPods() bool {
	for _, e := range r.rows {
		if e.Index != 0 {
			return true
		}
	}
	return false
}

// send sends packets, each of which opens a connection, and compares what becomes of them.
func (r *verdictRig) send(packets ...oracle.Packet) {
	if r.before == nil {
		r.before, _ = r.Counters()
	}
	empty(r.t, r.maps[bpfMapDenied])
	for _, p := range packets {
		r.judge(p)
	}
	r.compareDenials()
}

func (r *verdictRig) judge(p oracle.Packet) {
	want := r.objects.Judge(p)
	if diff := r.model.Differs(p, want); diff != "" {
		r.fail(p, diff)
	}
	if r.port++; r.port < firstClient || r.port > 60000 {
		r.forget()
		r.port = firstClient
	}
	if p.Protocol == 47 { // always the same flow
		r.forget()
	}
	set := []byte{tcpSYN, tcpSYN, tcpSYN, tcpACK, tcpFIN | tcpACK, tcpSYN | tcpACK}[r.IntN(6)]
	if e, own := r.rows[p.Dst]; own && e.Index == 0 {
		set = tcpSYN // what begins nothing may be an answer to the pod's node
	}
	by := r.decides(want)
	for _, h := range r.way(p) {
		r.counts[string(h.program)]++
		dropped := r.drops(h, r.frame(p, r.port, set, false))
		if dropped && by == nil && r.isMoving(p) {
			r.counts["waits"]++
			r.denied = append(r.denied, deniedPacket{p, nil})
			return
		}
		if dropped != (by != nil && h.judges) {
			r.fail(p, fmt.Sprintf("%s drops it: %v %s\noracle: %s", h.program, dropped, r.moved(), want))
		} else if dropped {
			break
		}
	}
	r.note(p, want)
	if by != nil {
		r.denied = append(r.denied, deniedPacket{p, by})
	} else if r.IntN(4) == 0 && !isNowhere(p.Src) && (p.Protocol != protoTCP || set == tcpSYN) {
		r.answer(p)
	}
}

// isMoving says whether an end of a packet has yet to get its class. What passes by the new one alone may have to wait.
func (r *verdictRig) isMoving(p oracle.Packet) bool {
	for _, a := range []netip.Addr{p.Src, p.Dst} {
		if _, late := r.policies.classes.late[encodeAddr(a)]; late {
			return true
		}
		for k := range r.policies.blocks.late {
			if decodeBlock(k).Contains(a) {
				return true
			}
		}
	}
	return false
}

// answer sends one to a packet that has passed.
func (r *verdictRig) answer(p oracle.Packet) {
	back := p
	back.Src, back.Dst = p.Dst, p.Src
	for _, h := range r.way(back) {
		if r.drops(h, r.frame(p, r.port, tcpSYN|tcpACK, true)) {
			r.fail(p, fmt.Sprintf("%s drops the answer: %s", h.program, r.moved()))
		}
	}
	r.counts["answers"]++
}

// decides is what of the oracle's word this node has to enforce with a drop; nil: the packet passes here.
func (r *verdictRig) decides(v oracle.Ruling) *oracle.Judgement {
	for _, j := range []*oracle.Judgement{v.Egress, v.Ingress} {
		if j == nil || j.Allowed {
			continue
		}
		namespace, name, _ := strings.Cut(j.Subject, "/")
		if _, here := r.subjects[cluster.Name{Namespace: namespace, Name: name}]; here {
			return j
		}
	}
	return nil
}

func (r *verdictRig) forget() {
	empty(r.t, r.maps[bpfMapJudgedFlows])
	empty(r.t, r.maps[bpfMapJudgedOpening])
}

func (r *verdictRig) note(p oracle.Packet, v oracle.Ruling) {
	r.counts["packets"]++
	r.counts[fmt.Sprint("protocol ", p.Protocol)]++
	for _, j := range []*oracle.Judgement{v.Egress, v.Ingress} {
		if j != nil {
			r.counts[fmt.Sprintf("by %s, allowed %v", j.Reason, j.Allowed)]++
		}
	}
}

// compareDenials compares what the agent is told of drops, and what is counted, with who decided.
func (r *verdictRig) compareDenials() {
	told, counted := r.denials(), map[DeniedKey]uint64{}
	want := map[bool]uint64{}
	for i, d := range r.denied {
		if i == len(told) {
			r.fail(d.Packet, "nobody is told of the drop")
		}
		want[told[i].Ingress == 1]++
		counted[DeniedKey{policy.ID(told[i].Ruleset), policy.Decision(told[i].Decision), int(told[i].Ifindex)}]++
		if diff := r.denialDiffers(d, told[i]); diff != "" {
			r.fail(d.Packet, diff)
		}
	}
	counters, err := r.Counters()
	r.must(err)
	for ingress, name := range map[bool]string{false: toEgress, true: toIngress} {
		if n := counters[name] - r.before[name]; n != want[ingress] || len(told) != len(r.denied) {
			r.t.Fatalf("-seed=%d: %d times %s, want %d; %d denials are told of, want %d", r.seed, n, name, want[ingress], len(told), len(r.denied))
		}
	}
	got, err := r.Denied()
	r.must(err)
	if !maps.Equal(got, counted) {
		r.t.Fatalf("-seed=%d: counted are %v, want %v", r.seed, got, counted)
	}
	r.before, r.denied = counters, nil
}

func (r *verdictRig) denialDiffers(want deniedPacket, got bpfDenial) string {
	if want.by == nil {
		return ""
	}
	end := want.Src
	if !want.by.Egress {
		end = want.Dst
	}
	e := r.rows[end]
	ruleset := e.Egress
	if !want.by.Egress {
		ruleset = e.Ingress
	}
	t := got.Tuple
	if t.Src != encodeAddr(want.Src) || t.Dst != encodeAddr(want.Dst) || t.Proto != want.Protocol || (got.Ingress == 1) == want.by.Egress ||
		int(got.Ifindex) != e.Index || got.Ruleset != ruleset {
		return fmt.Sprintf("told of is %+v, want ruleset %d of link %d", got, ruleset, e.Index)
	}
	x, n := r.rulesets[policy.ID(ruleset)], policy.Decision(got.Decision)
	if x == nil || n.Allows() || n.Decider() >= len(x.Deciders) || !cases.IsSame(want.by, &x.Deciders[n.Decider()]) {
		return fmt.Sprintf("decision %d of %+v; oracle: %+v", n, x, want.by)
	}
	return ""
}

// moved are the counters that differ from what they were when the last comparison was made.
func (r *verdictRig) moved() string {
	after, err := r.Counters()
	r.must(err)
	maps.DeleteFunc(after, func(name string, n uint64) bool { return n == r.before[name] })
	return fmt.Sprint(after)
}

func (r *verdictRig) fail(p oracle.Packet, why string) {
	r.t.Helper()
	file := filepath.Join(os.TempDir(), "polder-policies.json")
	_ = os.WriteFile(file, cases.Manifests(r.objects), 0o644)
	r.t.Fatalf("-seed=%d: on %s: %+v\n%s\nconfiguration %+v\nends %+v and %+v\nthe cluster is in %s", r.seed, r.self, p, why,
		r.config, r.rows[p.Src], r.rows[p.Dst], file)
}
