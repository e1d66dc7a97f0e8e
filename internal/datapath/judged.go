package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/cluster"
)

// How long a flow with an isolated end is remembered after its last packet, in ticks as in flows.go. Of one that is forgotten
// though it lives, answers do not pass until it begins anew: with the next packet of whoever opened it, or, of TCP, never.
const (
	judgedClosing = 60           // TCP, after a FIN or RST: late ones still pass
	judgedStream  = 24 * 60 * 60 // TCP and SCTP
	judgedIdle    = 180          // UDP, and protocols without connections
	judgedEcho    = 30           // ICMP: an answer comes at once, or not at all
)

// SweepJudged ends the flows with an isolated end that nothing has used for long. It returns how many it ended. It may run
// beside everything else. Those that have not been answered make room for each other by themselves.
func (d *Datapath) SweepJudged() (int, error) { return d.sweepJudged(nowTicks()) }

func (d *Datapath) sweepJudged(now uint32) (ended int, err error) {
	m := d.maps[bpfMapJudgedFlows]
	var over []bpfTuple
	err = eachRow(m, func(t bpfTuple, j bpfJudged) {
		if judgedOver(t, j, now) {
			over = append(over, t)
		}
	})
	for _, t := range over {
		var j bpfJudged
		if m.Lookup(t, &j) != nil || !judgedOver(t, j, now) { // used since it was listed
			continue
		}
		if err := m.Delete(t); err == nil {
			ended++
		} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return ended, fmt.Errorf("end judged flow: %w", err)
		}
	}
	return ended, err
}

func judgedOver(t bpfTuple, j bpfJudged, now uint32) bool {
	return j.Used < now && now-j.Used > judgedLimit(t, j.Flags)
}

func judgedLimit(t bpfTuple, flags bpfJudgedFlags) uint32 {
	switch p := cluster.Protocol(t.Proto); {
	case t.Proto == protocolICMP || t.Proto == protocolICMPv6:
		return judgedEcho
	case p != cluster.TCP && p != cluster.SCTP:
		return judgedIdle
	case flags&bpfJudgedFlagsJUDGED_CLOSING != 0:
		return judgedClosing
	}
	return judgedStream
}

const protocolICMP, protocolICMPv6 = 1, 58
