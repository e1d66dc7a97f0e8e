package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/table"
)

// skb is the part of struct __sk_buff (include/uapi/linux/bpf.h) that BPF_PROG_RUN takes as the packet's context.
type skb struct {
	_       [40]byte // len … ingress_ifindex
	Ifindex uint32
	_       [148]byte
}

// Verdict is what a program made of one packet.
type Verdict struct {
	Outcome string // the counter's name: "to pod", "drop spoofed mac"
	Packet  []byte // as the program left it
}

// Run executes a loaded program, with the maps as they are, on a made-up Ethernet frame that comes in by a device.
// Nothing leaves the machine. The outcome is told by the counter that moved, so no other traffic may pass meanwhile.
func (d *Datapath) Run(p desired.Program, ifindex int, frame []byte) (Verdict, error) {
	r, err := d.run(p, ifindex, frame, 0)
	return r.verdict(), err
}

func (r ran) verdict() Verdict {
	v := Verdict{Packet: r.packet}
	for _, name := range r.moved {
		v.Outcome = name
	}
	return v
}

// ran is a run of a program: what it told the kernel to do, and the counters that moved, by it or by other packets.
type ran struct {
	action uint32
	moved  []string
	packet []byte
}

// run is Run with flags of the kernel's (BPF_F_TEST_…).
func (d *Datapath) run(p desired.Program, ifindex int, frame []byte, flags uint32) (ran, error) {
	before, err := d.Counters()
	if err != nil {
		return ran{}, err
	}
	out := make([]byte, len(frame)+256)
	opts := ebpf.RunOptions{Data: frame, DataOut: out, Context: skb{Ifindex: uint32(ifindex)}, Repeat: 1, Flags: flags}
	action, err := d.programs[p].Run(&opts)
	if err != nil {
		return ran{}, fmt.Errorf("run %s: %w", p, err)
	}
	after, err := d.Counters()
	if err != nil {
		return ran{}, err
	}
	r := ran{action: action, packet: opts.DataOut}
	for _, name := range table.Keys(after) {
		if after[name] != before[name] {
			r.moved = append(r.moved, name)
		}
	}
	return r, nil
}
