package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
)

// Trial is what becomes of the first packet of a connection that nobody makes.
type Trial struct {
	Source netip.AddrPort

	// Outcomes are what Verdict's is; more than one where other packets passed meanwhile and came to the same kind of end.
	Outcomes []string
	Flow     *Flow // what the packet became; nil: it was not translated
}

// Try runs a live program on a made-up packet, a TCP SYN or a datagram, that comes in by a device. The kernel drops the
// packet, and what it leaves in maps is taken back: its flow, and where the client's next connection would go. It is
// counted, like any other packet.
func (d *Datapath) Try(p desired.Program, ifindex int, macs [2]cluster.MAC, proto cluster.Protocol, src netip.Addr, dst netip.AddrPort) (Trial, error) {
	t, err := d.freeTuple(proto, src, dst)
	if err != nil {
		return Trial{}, err
	}
	trial := Trial{Source: decodeAddrPort(t.Src, t.Sport)}
	restore, err := d.keepAffinity(t)
	if err != nil {
		return trial, err
	}
	r, err := d.run(p, ifindex, firstPacket(macs, proto, trial.Source, dst), 0)
	flow, taken := d.takeFlow(t)
	if err := errors.Join(err, taken, restore()); err != nil {
		return trial, err
	}
	trial.Flow = flow
	trial.Outcomes = slices.DeleteFunc(r.moved, func(outcome string) bool {
		return kindOf(outcome) != r.action || outcome == refusedOutcome && flow != nil
	})
	return trial, nil
}

const refusedOutcome = "refused"

// kindOf is the action with which an outcome leaves a program (finish in bpf/deliver.h; include/uapi/linux/pkt_cls.h).
func kindOf(outcome string) uint32 {
	const unspec, shot = 1<<32 - 1, 2
	switch {
	case strings.HasPrefix(outcome, "drop "):
		return shot
	case outcome == "to stack":
		return unspec
	}
	return actRedirect
}

// freeTuple finds a source port that no flow has.
func (d *Datapath) freeTuple(proto cluster.Protocol, src netip.Addr, dst netip.AddrPort) (bpfTuple, error) {
	t := bpfTuple{Src: encodeAddr(src), Dst: encodeAddr(dst.Addr()), Dport: encodePort(dst.Port()), Proto: uint8(proto)}
	for range 100 {
		t.Sport = encodePort(uint16(32768 + rand.IntN(28000)))
		var f bpfFlow
		err := d.maps[bpfMapFlows].Lookup(t, &f)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			err = d.maps[bpfMapOpening].Lookup(t, &f)
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return t, nil
		}
		if err != nil {
			return t, fmt.Errorf("look for a free port: %w", err)
		}
	}
	return t, fmt.Errorf("look for a free port: %s has none to %s", src, dst)
}

// takeFlow takes back what the packet of a tuple left: both directions.
func (d *Datapath) takeFlow(t bpfTuple) (*Flow, error) {
	var f bpfFlow
	m := d.maps[bpfMapOpening]
	err := m.Lookup(t, &f)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read flow: %w", err)
	}
	tuples := []bpfTuple{t}
	if f.Flags&bpfFlowFlagsFLOW_HANDED == 0 {
		tuples = append(tuples, answerTuple(t, f))
	}
	for _, t := range tuples {
		if err := m.Delete(t); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("end flow: %w", err)
		}
	}
	flow := decodeFlow(t, f, false)
	return &flow, nil
}

// keepAffinity remembers which backend the client of a tuple stays with, and says how to bring that back.
func (d *Datapath) keepAffinity(t bpfTuple) (restore func() error, err error) {
	row, found := d.frontendOf(t)
	if !found || row.Affinity == 0 {
		return func() error { return nil }, nil
	}
	var last bpfAffinity
	key, m := bpfAffinityKey{Owner: row.Owner, Client: t.Src}, d.maps[bpfMapAffinities]
	err = m.Lookup(key, &last)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return func() error {
			if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("forget client's backend: %w", err)
			}
			return nil
		}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read client's backend: %w", err)
	}
	return func() error {
		if err := m.Put(key, last); err != nil {
			return fmt.Errorf("write client's backend: %w", err)
		}
		return nil
	}, nil
}

// frontendOf finds the row of the frontend that packets of a tuple are to.
func (d *Datapath) frontendOf(t bpfTuple) (row bpfFrontend, found bool) {
	key := bpfFrontendKey{Addr: t.Dst, Port: t.Dport, Proto: t.Proto}
	if d.maps[bpfMapFrontends].Lookup(key, &row) == nil {
		return row, true
	}
	key.Addr = encodeAddr(unspecified(decodeAddr(t.Dst)))
	return row, d.maps[bpfMapFrontends].Lookup(key, &row) == nil
}

// firstPacket is an Ethernet frame with a SYN, or an empty datagram. Nobody looks at the transport's checksum.
func firstPacket(macs [2]cluster.MAC, proto cluster.Protocol, src, dst netip.AddrPort) []byte {
	l4 := make([]byte, 8)
	if proto == cluster.TCP {
		l4 = make([]byte, 20)
		l4[12], l4[13] = 5<<4, 1<<1 // length in words; SYN
	} else {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	}
	binary.BigEndian.PutUint16(l4, src.Port())
	binary.BigEndian.PutUint16(l4[2:], dst.Port())
	frame := slices.Concat(macs[1][:], macs[0][:])
	if src.Addr().Is4() {
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, 64, byte(proto)
		binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(l4)))
		copy(h[12:], src.Addr().AsSlice())
		copy(h[16:], dst.Addr().AsSlice())
		binary.BigEndian.PutUint16(h[10:], headerChecksum(h))
		return slices.Concat(binary.BigEndian.AppendUint16(frame, unix.ETH_P_IP), h, l4)
	}
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, byte(proto), 64
	binary.BigEndian.PutUint16(h[4:], uint16(len(l4)))
	copy(h[8:], src.Addr().AsSlice())
	copy(h[24:], dst.Addr().AsSlice())
	return slices.Concat(binary.BigEndian.AppendUint16(frame, unix.ETH_P_IPV6), h, l4)
}

// headerChecksum is the Internet checksum (RFC 1071).
func headerChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
