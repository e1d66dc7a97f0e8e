package datapath

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/oracle/cases"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/testnet"
)

// mostPods is how many a cluster may have.
const mostPods = 12

// verdictRig is one node of clusters, whose maps are written as its agent writes them. One datapath sees them all.
type verdictRig struct {
	court
	*cases.Dice
	seed  uint64
	links [mostPods]int // by the pod's place in the list

	self    string // the node
	config  desired.Config
	remotes map[netip.Prefix]route.Remote
	table   *policy.Table
	model   *cases.Model // of all nodes
	at      time.Time

	objects  *oracle.Objects
	snapshot *cluster.Snapshot
	rows     map[netip.Addr]route.Endpoint
	subjects map[cluster.Name]policy.Subject
	rulesets map[policy.ID]*policy.Ruleset

	tunnel net.Conn // from the node that is reached by one; nil: there is none

	port   uint16 // of the last client
	denied []deniedPacket
	before map[string]uint64 // counters
	counts map[string]int
}

func newVerdictRig(t *testing.T) *verdictRig {
	d := openSized(t, map[string]uint32{bpfMapRules: 16384, bpfMapClasses: 1024, bpfMapBlocks: 4096, bpfMapEndpoints: 256, bpfMapRemotes: 256,
		bpfMapJudgedFlows: 4096, bpfMapJudgedOpening: 4096, bpfMapDenied: 4096})
	r := &verdictRig{court: court{Datapath: d, t: t, ns: testnet.New(t)}, at: time.Now(), rows: map[netip.Addr]route.Endpoint{}, counts: map[string]int{}}
	far := testnet.New(t)
	for i := range r.links {
		name := fmt.Sprint("pod", i)
		testnet.Pair(t, r.ns, name, far, name)
		r.ns.Do(func() { r.links[i] = index(t, name) })
	}
	r.dig(t, far)
	return r
}

func (r *verdictRig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("-seed=%d: %v", r.seed, err)
	}
}

// start makes the rig's agent one that knows nothing, maybe of another node. The maps are as the last one left them.
func (r *verdictRig) start(seed uint64, self string, remotes map[netip.Prefix]route.Remote) {
	r.seed, r.Dice, r.self, r.remotes = seed, cases.NewDice(seed), self, remotes
	r.config = desired.Config{Policies: true, Tunnel: lo, AskConntrack: r.IntN(4) == 0, OthersPods: r.IntN(8) == 0}
	r.table, r.model, r.snapshot = policy.NewTable(self), cases.NewModel(&cluster.Snapshot{}), &cluster.Snapshot{}
	r.subjects, r.rulesets = map[cluster.Name]policy.Subject{}, map[policy.ID]*policy.Ruleset{}
	_, err := r.SyncMaps(desired.Tables{Config: r.config, Endpoints: r.rows, Remotes: remotes})
	r.must(err)
}

// become brings the node to another cluster: all of it is read, or the agent hears what is different.
func (r *verdictRig) become(o *oracle.Objects, s *cluster.Snapshot, anew bool) {
	r.model.Become(s)
	cases.Tell(r.table, r.snapshot, s)
	r.objects, r.snapshot = o, s
	c := r.table.Changes()
	for name, s := range c.Subjects {
		if delete(r.subjects, name); s != nil {
			r.subjects[name] = *s
		}
	}
	maps.Copy(r.rulesets, c.Rulesets)
	for _, x := range c.Rulesets {
		for _, row := range rowsOf(x) {
			r.counts[fmt.Sprint("rows of parts: ", partsOf(row))]++
		}
	}
	if anew {
		_, err := r.ResyncPolicies(r.table.All())
		r.must(err)
	} else {
		r.must(r.SyncPolicies(c))
	}
	r.swap()
}

func rowsOf(x *policy.Ruleset) rules {
	if x == nil {
		return nil
	}
	return x.Rows
}

// swap gives pods their rulesets.
func (r *verdictRig) swap() {
	next := map[netip.Addr]route.Endpoint{}
	self, _ := r.snapshot.Node(r.self)
	for _, a := range self.Addresses {
		next[a] = route.Endpoint{}
	}
	for i, p := range r.objects.Pods {
		if p.Spec.HostNetwork || p.Spec.NodeName != r.self {
			continue
		}
		s, ok := r.subjects[cluster.Name{Namespace: p.Namespace, Name: p.Name}]
		if !ok || !r.PolicyFits(s.Ingress) || !r.PolicyFits(s.Egress) {
			r.t.Fatalf("-seed=%d: %s has no rulesets that fit", r.seed, p.Name)
		}
		e := route.Endpoint{Index: r.links[i], PodMAC: [6]byte{2, 0, 0, 0, 1, byte(i)}, HostMAC: hostMAC, Shaped: r.IntN(4) == 0, Late: r.IntN(2) == 0,
			Ingress: uint64(s.Ingress), Egress: uint64(s.Egress)}
		for _, a := range oracle.PodAddresses(p) {
			next[a] = e
		}
	}
	for a, e := range next {
		if have, ok := r.rows[a]; !ok || have != e {
			r.must(r.PutEndpoint(a, e))
		}
	}
	for a := range r.rows {
		if _, ok := next[a]; !ok {
			r.must(r.DeleteEndpoint(a))
		}
	}
	r.rows = next
	r.must(r.SwappedPolicies(r.at))
}

// retire lets time pass, in which what was put off is done.
func (r *verdictRig) retire() {
	r.at = r.at.Add(retireAfter)
	r.must(r.RetirePolicies(r.at))
}

// drops runs a program on a packet, and says whether it drops it.
func (r *verdictRig) drops(h hook, b []byte) bool {
	if h.program == desired.FromTunnel {
		return r.carry(b)
	}
	action, err := r.programs[h.program].Run(&ebpf.RunOptions{Data: b, Context: passing{Ingress: uint32(h.ingress), Ifindex: uint32(h.ifindex)}, Repeat: 1})
	r.must(err)
	return action == 2 // TC_ACT_SHOT
}

// draw makes packets that this node has to do with.
func (r *verdictRig) draw(n int) (all []oracle.Packet) {
	for len(all) < n {
		if p := r.Packet(r.objects); r.concerns(p) {
			all = append(all, p)
		}
	}
	return all
}

// concerns says whether a packet is a local pod's, or to one, and no guard stops it.
func (r *verdictRig) concerns(p oracle.Packet) bool {
	if p.Src.Is4() != p.Dst.Is4() { // only people who write scenarios make such
		return false
	}
	return r.rows[p.Src].Index != 0 && !isNowhere(p.Dst) || r.rows[p.Dst].Index != 0
}

// isNowhere says whether no pod may send to an address.
func isNowhere(a netip.Addr) bool {
	return a.Is4() && a.As4()[0] == 0 || a.IsUnspecified() || a.IsLoopback()
}

// frame is a packet, or an answer to one.
func (r *verdictRig) frame(p oracle.Packet, client uint16, set byte, answer bool) []byte {
	from, to, echo := client, p.Port, map[uint8][]byte{protoICMP: {8, 0}, protoICMP6: {128, 129}}[p.Protocol]
	if answer {
		p.Src, p.Dst, from, to = p.Dst, p.Src, to, from
		slices.Reverse(echo)
	}
	f := frame{from: strange, to: hostMAC, src: p.Src.String(), dst: p.Dst.String(), proto: p.Protocol, l4: make([]byte, 12)}
	if e := r.rows[p.Src]; e.Index != 0 {
		f.from = e.PodMAC
	}
	switch p.Protocol {
	case protoTCP:
		f.l4 = segment(from, to, set, 1000, 0, "")
	case protoUDP, protoSCTP:
		f.l4 = append(ports(from, to), f.l4...)
	case protoICMP, protoICMP6:
		f.l4 = icmp(echo[0], 1, 2, 3, 4)
		binary.BigEndian.PutUint16(f.l4[4:], client)
	}
	return f.bytes()
}
