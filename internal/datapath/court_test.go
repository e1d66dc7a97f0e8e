package datapath

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/table"
	"github.com/polder-net/polder/internal/testnet"
)

const letPass = 1 << 31

// court is a datapath that judges, with rows written by hand. Pods: 10.0.1.2 on link a, 10.0.1.3 on link b, 10.0.1.4 on
// a link that nothing comes from; their IPv6 addresses likewise. Packets from the network come in by the loopback device.
type court struct {
	*Datapath
	t    testing.TB
	f    family
	ns   *testnet.NS // with the links
	a, b int
}

const nowhere = 999 // a link's index

// inCourt runs a test in every family.
func inCourt(t *testing.T, test func(*testing.T, court), change ...func(*desired.Tables)) {
	c := newCourt(t, openTest(t))
	for _, f := range families() {
		t.Run(f.String(), func(t *testing.T) {
			c := c
			c.t, c.f = t, f
			c.reset(change...)
			test(t, c)
		})
	}
}

func newCourt(t *testing.T, d *Datapath) court {
	t.Helper()
	c := court{Datapath: d, t: t, f: families()[0], ns: testnet.New(t)}
	far := testnet.New(t)
	testnet.Pair(t, c.ns, "a", far, "a")
	testnet.Pair(t, c.ns, "b", far, "b")
	c.ns.Do(func() { c.a, c.b = index(t, "a"), index(t, "b") })
	return c
}

// reset makes the world new: nobody is isolated, and nothing remembered.
func (c court) reset(change ...func(*desired.Tables)) {
	c.t.Helper()
	w := servedWorld()
	w.Config.Services, w.Config.Policies = false, true
	for a, e := range map[string]route.Endpoint{
		"10.0.1.2": {Index: c.a, PodMAC: podMAC, HostMAC: hostMAC}, "10.0.1.3": {Index: c.b, PodMAC: peerMAC, HostMAC: hostMAC},
		"10.0.1.4": {Index: nowhere, PodMAC: peerMAC, HostMAC: hostMAC},
	} {
		w.Endpoints[family{ipv4: true}.addr(a)], w.Endpoints[family{}.addr(a)] = e, e
	}
	for _, ch := range change {
		ch(&w)
	}
	if _, err := c.SyncMaps(w); err != nil {
		c.t.Fatal(err)
	}
	for _, m := range []string{bpfMapClasses, bpfMapBlocks, bpfMapRules, bpfMapJudgedFlows, bpfMapJudgedOpening, bpfMapDenied} {
		empty(c.t, c.maps[m])
	}
	c.change()
}

func empty(t testing.TB, m *ebpf.Map) {
	t.Helper()
	for {
		var key []byte
		if key, _ = m.NextKeyBytes(nil); key == nil {
			return
		}
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			t.Fatal(err)
		}
	}
}

func (c court) put(m string, key, value any) {
	c.t.Helper()
	if err := c.maps[m].Put(key, value); err != nil {
		c.t.Fatal(err)
	}
}

// change tells the programs that the tables are others.
func (c court) change() {
	c.t.Helper()
	var n uint32
	if err := c.maps[bpfMapEpoch].Lookup(uint32(0), &n); err != nil {
		c.t.Fatal(err)
	}
	c.put(bpfMapEpoch, uint32(0), n+1)
}

// isolate gives a pod rulesets.
func (c court) isolate(pod string, ingress, egress uint64, late ...bool) {
	c.t.Helper()
	e, ok, err := c.Endpoint(c.f.addr(pod))
	if err != nil || !ok {
		c.t.Fatal(pod, ok, err)
	}
	e.Ingress, e.Egress, e.Late = ingress, egress, len(late) > 0
	if err := c.PutEndpoint(c.f.addr(pod), e); err != nil {
		c.t.Fatal(err)
	}
	c.change()
}

func (c court) class(addr string, class uint64) {
	c.t.Helper()
	c.put(bpfMapClasses, encodeAddr(c.f.addr(addr)), class)
	c.change()
}

// block gives the addresses that agree with one in so many bits of its family's a class.
func (c court) block(addr string, ipv4Bits, ipv6Bits int, class uint64) {
	c.t.Helper()
	bits := ipv6Bits
	if c.f.ipv4 {
		bits = ipv4Bits
	}
	k := encodePrefix(netip.PrefixFrom(c.f.addr(addr), bits))
	c.put(bpfMapBlocks, bpfClassKey{Prefixlen: k.Prefixlen, Addr: k.Addr}, class)
	c.change()
}

func span(first, last uint16, decision uint32) bpfSpan {
	return bpfSpan{First: first, Last: last, Decision: decision}
}

// row writes what a ruleset says about a class and a protocol, in as many parts as it takes.
func (c court) row(ruleset, class uint64, protocol uint8, spans ...bpfSpan) {
	c.t.Helper()
	for i := 0; i*rowSpans < len(spans); i++ {
		var r bpfRule
		copy(r.Spans[:], spans[i*rowSpans:])
		c.put(bpfMapRules, bpfRuleKey{Ruleset: ruleset, Class: class, Proto: protocol, Part: uint8(i)}, r)
	}
	c.change()
}

// all is a row that says the same of every port.
func all(decision uint32) bpfSpan { return span(0, 65535, decision) }

// only lets one port pass; deciders 1 and 2.
func only(port uint16) []bpfSpan {
	return []bpfSpan{span(0, port-1, 1), span(port, port, letPass|2), span(port+1, 65535, 1)}
}

// passing is skb with the link that a packet had come in by.
type passing struct {
	_       [36]byte
	Ingress uint32
	Ifindex uint32
	_       [148]byte
}

// runIn runs a program on a packet that leaves by, or comes in by, a link, and had come in by another.
func (c court) runIn(p desired.Program, ifindex, ingress int, b []byte) string {
	c.t.Helper()
	before, err := c.Counters()
	if err != nil {
		c.t.Fatal(err)
	}
	context := passing{Ingress: uint32(ingress), Ifindex: uint32(ifindex)}
	opts := ebpf.RunOptions{Data: b, DataOut: make([]byte, len(b)+256), Context: context, Repeat: 1}
	c.ns.Do(func() { _, err = c.programs[p].Run(&opts) })
	if err != nil {
		c.t.Fatal(err)
	}
	after, err := c.Counters()
	if err != nil {
		c.t.Fatal(err)
	}
	moved := ""
	for _, name := range table.Keys(after) {
		if after[name] != before[name] {
			moved += name
		}
	}
	return moved
}

func (c court) link(addr netip.Addr) int {
	if e, ok, _ := c.Endpoint(addr); ok {
		return e.Index
	}
	return lo
}

// hookOf is the program that sees what comes from an address, and the link that it comes in by.
func (c court) hookOf(addr string) (desired.Program, int) {
	if link := c.link(c.f.addr(addr)); link != lo && link != 0 {
		return desired.FromPod, link
	}
	return desired.FromNetwork, lo
}

func (c court) expect(p desired.Program, ifindex, ingress int, f frame, want string) {
	c.t.Helper()
	if got := c.runIn(p, ifindex, ingress, f.bytes()); got != want {
		_, file, line, _ := runtime.Caller(2)
		c.t.Fatalf("%s:%d: %s from %s to %s: %q, want %q", file, line, p, f.src, f.dst, got, want)
	}
}

// pod sends a packet of a pod's.
func (c court) pod(from, to, want string, change ...func(*frame)) {
	c.t.Helper()
	c.expect(desired.FromPod, c.link(c.f.at(from).Addr()), 0, c.f.packet(from, to, change...), want)
}

// net sends a packet of somebody else's.
func (c court) net(from, to, want string, change ...func(*frame)) {
	c.t.Helper()
	c.expect(desired.FromNetwork, lo, 0, c.f.packet(from, to, change...), want)
}

// leave sends a packet to a pod out of the stack, where it has come in by a link; 0: it is the node's own.
func (c court) leave(ingress int, from, to, want string, change ...func(*frame)) {
	c.t.Helper()
	c.expect(desired.ToPod, c.link(c.f.at(to).Addr()), ingress, c.f.packet(from, to, change...), want)
}

// remembered counts the flows that are known: those with a place of their own, and the others.
func (c court) remembered(settled, opening int) {
	c.t.Helper()
	count := func(m string) int {
		var all map[bpfTuple]bpfJudged
		if err := readTable(c.maps[m], &all); err != nil {
			c.t.Fatal(err)
		}
		return len(all)
	}
	s, o := count(bpfMapJudgedFlows), count(bpfMapJudgedOpening)
	if s != settled || o != opening {
		c.t.Fatalf("%d flows are settled and %d opening, want %d and %d", s, o, settled, opening)
	}
}

// denials reads what the agent would be told now.
func (c court) denials() (all []bpfDenial) {
	c.t.Helper()
	r, err := ringbuf.NewReader(c.maps[bpfMapDenials])
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close()
	r.SetDeadline(time.Now())
	for {
		rec, err := r.Read()
		if err != nil {
			return all
		}
		var d bpfDenial
		if _, err := binary.Decode(rec.RawSample, binary.NativeEndian, &d); err != nil {
			c.t.Fatal(err)
		}
		all = append(all, d)
	}
}

// ping is an echo request, or the reply to one.
func (c court) ping(from, to string, reply bool, number uint16, change ...func(*frame)) frame {
	kinds := []byte{128, 129}
	fr := frame{src: c.f.addr(from).String(), dst: c.f.addr(to).String(), from: macOf(c.f.addr(from)), to: hostMAC, proto: protoICMP6}
	if c.f.ipv4 {
		kinds, fr.proto = []byte{8, 0}, protoICMP
	}
	kind := kinds[0]
	if reply {
		kind = kinds[1]
	}
	fr.l4 = icmp(kind, slices.Repeat([]byte{7}, 40)...)
	binary.BigEndian.PutUint16(fr.l4[4:], number)
	for _, ch := range change {
		ch(&fr)
	}
	return fr
}
