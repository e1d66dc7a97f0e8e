package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
)

// How long a translated flow is remembered after its last packet, in ticks of 2^30 ns, a little more than a second.
const (
	openingTicks = 60           // it has not had a packet each way and one more
	closingTicks = 60           // TCP, after a FIN or RST: late ones still find their way
	datagramIdle = 180          // UDP
	streamIdle   = 24 * 60 * 60 // TCP and SCTP, as kube-proxy has it
	markTicks    = streamIdle + 60*60
)

// Flow is a translated flow, for people.
type Flow struct {
	Protocol         cluster.Protocol
	Client, Frontend netip.AddrPort
	Backend          netip.AddrPort // zero: the packet is handed, unchanged, to Node
	Node             netip.Addr
	Settled          bool
}

// SweepFlows ends the flows that nothing has used for long, and datagrams' flows to backends that serve no longer. It
// returns how many it ended. It may run beside everything else.
func (d *Datapath) SweepFlows() (int, error) { return d.sweepFlows(nowTicks()) }

func (d *Datapath) sweepFlows(now uint32) (int, error) {
	s := sweep{d: d, now: now, ended: map[bpfTuple]bool{}}
	err := errors.Join(s.table(d.maps[bpfMapOpening], false), s.table(d.maps[bpfMapFlows], true), s.marks())
	return len(s.ended), err
}

func nowTicks() uint32 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts) != nil {
		return 0
	}
	return uint32(ts.Nano() >> 30)
}

// sweep is one pass over the flows.
type sweep struct {
	d     *Datapath
	now   uint32
	ended map[bpfTuple]bool
}

func (s *sweep) table(m *ebpf.Map, settled bool) error {
	var over []bpfTuple
	err := eachRow(m, func(t bpfTuple, f bpfFlow) {
		if s.isOver(m, t, f, settled) {
			over = append(over, t)
		}
	})
	for _, t := range over {
		var f bpfFlow
		if m.Lookup(t, &f) != nil || !s.isOver(m, t, f, settled) { // used since it was listed
			continue
		}
		if err := m.Delete(t); err == nil {
			s.ended[t] = true
		} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("end flow: %w", err)
		}
	}
	return err
}

// isOver judges one direction. Directions end together: when neither has been used for long, or one has lost the other.
func (s *sweep) isOver(m *ebpf.Map, t bpfTuple, f bpfFlow, settled bool) bool {
	if f.Flags&bpfFlowFlagsFLOW_HANDED != 0 {
		return s.idle(f) > limit(t, settled, f.Flags) || cluster.Protocol(t.Proto) == cluster.UDP && !s.serves(t, f)
	}
	var other bpfFlow
	err := m.Lookup(answerTuple(t, f), &other)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return s.ended[answerTuple(t, f)] || s.idle(f) > 2 // else it may be about to be written
	}
	if min(s.idle(f), s.idle(other)) > limit(t, settled, f.Flags|other.Flags) {
		return true
	}
	if cluster.Protocol(t.Proto) != cluster.UDP {
		return false
	}
	if f.Flags&bpfFlowFlagsFLOW_REPLY != 0 {
		t, f = answerTuple(t, f), other
	}
	return !s.serves(t, f)
}

func (s *sweep) idle(f bpfFlow) uint32 {
	if f.Used > s.now {
		return 0
	}
	return s.now - f.Used
}

func limit(t bpfTuple, settled bool, flags bpfFlowFlags) uint32 {
	switch {
	case !settled:
		return openingTicks
	case cluster.Protocol(t.Proto) == cluster.UDP:
		return datagramIdle
	case flags&bpfFlowFlagsFLOW_CLOSING != 0:
		return closingTicks
	}
	return streamIdle
}

// answerTuple is the tuple of the other direction's packets.
func answerTuple(t bpfTuple, f bpfFlow) bpfTuple {
	return bpfTuple{Src: f.Dst, Dst: f.Src, Sport: f.Dport, Dport: f.Sport, Proto: t.Proto}
}

// serves asks the maps whether the backend of a flow still serves the frontend.
func (s *sweep) serves(t bpfTuple, f bpfFlow) bool {
	row, found := s.d.frontendOf(t)
	if !found {
		return false
	}
	var member bpfMember
	return s.d.maps[bpfMapMembers].Lookup(bpfMemberKey{Generation: row.Generation, Backend: bpfBackend{Addr: f.Dst, Port: f.Dport}}, &member) == nil
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// marks clears the marks of addresses that no flow can have any more.
func (s *sweep) marks() error {
	var old []uint32
	err := eachRow(s.d.maps[bpfMapMarks], func(index, at uint32) {
		if at != 0 && at+markTicks < s.now {
			old = append(old, index)
		}
	})
	for _, index := range old {
		if err := s.d.maps[bpfMapMarks].Put(index, uint32(0)); err != nil {
			return fmt.Errorf("clear mark: %w", err)
		}
	}
	return err
}

func decodeFlow(t bpfTuple, f bpfFlow, settled bool) Flow {
	flow := Flow{Protocol: cluster.Protocol(t.Proto), Client: decodeAddrPort(t.Src, t.Sport),
		Frontend: decodeAddrPort(t.Dst, t.Dport), Settled: settled}
	if f.Flags&bpfFlowFlagsFLOW_HANDED != 0 {
		flow.Node = decodeAddr(f.Node)
	} else {
		flow.Backend = decodeAddrPort(f.Dst, f.Dport)
	}
	return flow
}

// Flows lists the translated flows.
func (d *Datapath) Flows() ([]Flow, error) {
	var list []Flow
	each := func(settled bool) func(bpfTuple, bpfFlow) {
		return func(t bpfTuple, f bpfFlow) {
			if f.Flags&bpfFlowFlagsFLOW_REPLY != 0 {
				return
			}
			list = append(list, decodeFlow(t, f, settled))
		}
	}
	err := errors.Join(eachRow(d.maps[bpfMapOpening], each(false)), eachRow(d.maps[bpfMapFlows], each(true)))
	return list, err
}
