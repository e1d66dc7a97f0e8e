package datapath

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/desired"
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
	return d.run(p, ifindex, frame, 0)
}

// run is Run with flags of the kernel's (BPF_F_TEST_…).
func (d *Datapath) run(p desired.Program, ifindex int, frame []byte, flags uint32) (Verdict, error) {
	before, err := d.Counters()
	if err != nil {
		return Verdict{}, err
	}
	out := make([]byte, len(frame)+256)
	opts := ebpf.RunOptions{Data: frame, DataOut: out, Context: skb{Ifindex: uint32(ifindex)}, Repeat: 1, Flags: flags}
	if _, err := d.programs[p].Run(&opts); err != nil {
		return Verdict{}, fmt.Errorf("run %s: %w", p, err)
	}
	after, err := d.Counters()
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{Packet: opts.DataOut}
	for name := range after {
		if after[name] != before[name] {
			v.Outcome = name
		}
	}
	return v, nil
}
