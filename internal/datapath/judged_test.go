package datapath

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

func TestJudgedFlowsEndWhenNothingUsedThemForLong(t *testing.T) {
	const now = 10 * judgedStream
	d := openTest(t)
	m := d.maps[bpfMapJudgedFlows]
	for i, c := range []struct {
		proto uint8
		flags bpfJudgedFlags
		limit uint32
	}{
		{6, 0, judgedStream}, {6, bpfJudgedFlagsJUDGED_CLOSING | bpfJudgedFlagsJUDGED_ANSWERED, judgedClosing}, {132, 0, judgedStream},
		{17, bpfJudgedFlagsJUDGED_ANSWERED, judgedIdle}, {47, 0, judgedIdle}, {1, 0, judgedEcho}, {58, 0, judgedEcho},
	} {
		key := bpfTuple{Src: encodeAddr(podAddr(0)), Dst: encodeAddr(podAddr(1)), Sport: uint16(i), Proto: c.proto}
		for used, want := range map[uint32]int{now: 0, now + 5: 0, now - c.limit: 0, now - c.limit - 1: 1} {
			if err := m.Put(key, bpfJudged{Used: used, Flags: c.flags}); err != nil {
				t.Fatal(err)
			}
			if ended, err := d.sweepJudged(now); err != nil || ended != want {
				t.Errorf("protocol %d, used %d: %d ended, want %d (%v)", c.proto, used, ended, want, err)
			}
		}
	}
}

func TestADenialSaysWhoAndWhy(t *testing.T) {
	e := bpfDenial{Tuple: bpfTuple{Src: encodeAddr(netip.MustParseAddr("10.0.1.2")), Dst: encodeAddr(netip.MustParseAddr("10.0.2.3")),
		Sport: encodePort(4000), Dport: encodePort(80), Proto: 6}, Ruleset: 77, Decision: 3, Ifindex: 9, Ingress: 1}
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, e); err != nil {
		t.Fatal(err)
	}
	want := Denial{cluster.TCP, netip.MustParseAddrPort("10.0.1.2:4000"), netip.MustParseAddrPort("10.0.2.3:80"), true, 77, 3, 9}
	if got, err := decodeDenial(b.Bytes()); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if _, err := decodeDenial(b.Bytes()[1:]); err == nil {
		t.Error("a short one is no error")
	}
}

func TestListeningForDenialsEndsWithItsContext(t *testing.T) {
	d := openTest(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := d.Denials(ctx, func(Denial) { t.Error("nothing was denied") }); err != nil {
		t.Fatal(err)
	}
}

func TestDeniedPacketsAreCounted(t *testing.T) {
	d := openTest(t)
	if err := d.maps[bpfMapDenied].Put(bpfDeniedKey{Ruleset: 77, Decision: 3, Ifindex: 9}, uint64(5)); err != nil {
		t.Fatal(err)
	}
	counts, err := d.Denied()
	if err != nil || len(counts) != 1 || counts[DeniedKey{policy.ID(77), 3, 9}] != 5 {
		t.Fatalf("%v, %v", counts, err)
	}
}
