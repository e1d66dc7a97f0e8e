package datapath

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/polder-net/polder/internal/desired"
)

// InTurn runs a program on many made-up frames in turn, as a link would bring them: none is as the program left it, and no
// system call lies between two. It is for those who measure.
type InTurn struct {
	d                *Datapath
	name             desired.Program
	ifindex          int
	first            []byte
	next, frames     *ebpf.Map
	targets          [2]*ebpf.Map
	wrapped, nothing *ebpf.Program // the program, and one that does nothing, behind what puts the frames in place
	empty            *ebpf.Program
}

// InTurn makes one of frames of one length and family, which come in by a device.
func (d *Datapath) InTurn(p desired.Program, ifindex int, frames [][]byte) (t *InTurn, err error) {
	if len(frames) == 0 || d.programs[p] == nil {
		return nil, fmt.Errorf("run %s in turn: no frames or no such program", p)
	}
	t = &InTurn{d: d, name: p, ifindex: ifindex, first: frames[0]}
	defer func() {
		if err != nil {
			err = fmt.Errorf("run %s in turn: %w", p, errors.Join(err, t.Close()))
		}
	}()
	if t.next, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}); err != nil {
		return t, err
	}
	size := uint32(len(frames[0]))
	if t.frames, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: size, MaxEntries: uint32(len(frames))}); err != nil {
		return t, err
	}
	if err = t.Set(frames); err != nil {
		return t, err
	}
	t.empty, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: license,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, actRedirect), asm.Return()}})
	if err != nil {
		return t, err
	}
	if t.wrapped, err = t.wrap(0, d.programs[p], len(frames)); err != nil {
		return t, err
	}
	t.nothing, err = t.wrap(1, t.empty, len(frames))
	return t, err
}

const license = "Dual BSD/GPL"

// Set replaces the frames by as many others.
func (t *InTurn) Set(frames [][]byte) error {
	for i, f := range frames {
		if err := t.frames.Put(uint32(i), f); err != nil {
			return fmt.Errorf("write frame %d: %w", i, err)
		}
	}
	return t.next.Put(uint32(0), uint32(0))
}

// Close lets go of everything. The datapath is the caller's.
func (t *InTurn) Close() error {
	var errs []error
	for _, m := range []*ebpf.Map{t.next, t.frames, t.targets[0], t.targets[1]} {
		errs = append(errs, m.Close())
	}
	for _, p := range []*ebpf.Program{t.wrapped, t.nothing, t.empty} {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// wrap returns a program that puts the next frame into the packet and goes on with target.
func (t *InTurn) wrap(i int, target *ebpf.Program, frames int) (*ebpf.Program, error) {
	var err error
	t.targets[i], err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, err
	}
	if err := t.targets[i].Put(uint32(0), uint32(target.FD())); err != nil {
		return nil, fmt.Errorf("name the program that goes on: %w", err)
	}
	return ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: license, Instructions: asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -8, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, t.next.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R7, asm.R0, 0, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R7), asm.Add.Imm(asm.R1, 1),
		asm.JLT.Imm(asm.R1, int32(frames), "more"), asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.Word).WithSymbol("more"),
		asm.StoreMem(asm.RFP, -8, asm.R7, asm.Word),
		asm.LoadMapPtr(asm.R1, t.frames.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, 0), asm.Mov.Reg(asm.R3, asm.R0),
		asm.Mov.Imm(asm.R4, int32(len(t.first))), asm.Mov.Imm(asm.R5, 0), asm.FnSkbStoreBytes.Call(),
		asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMapPtr(asm.R2, t.targets[i].FD()), asm.Mov.Imm(asm.R3, 0), asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, 2).WithSymbol("out"), asm.Return(),
	}})
}

// Run passes the next frames to the program, so many, and returns what that took. Want is what becomes of them
// ("to pod"): it is an error if it is something else for any of them.
func (t *InTurn) Run(runs int, want string) (time.Duration, error) {
	before, err := t.d.Counters()
	if err != nil {
		return 0, err
	}
	took, err := t.time(t.wrapped, runs)
	if err != nil {
		return 0, err
	}
	after, err := t.d.Counters()
	if err == nil && after[want]-before[want] < uint64(runs) {
		err = fmt.Errorf("run %s: %d of %d frames: %q; others: %v", t.name, after[want]-before[want], runs, want, moved(before, after))
	}
	return took, err
}

func moved(before, after map[string]uint64) map[string]uint64 {
	all := map[string]uint64{}
	for name, n := range after {
		if n != before[name] {
			all[name] = n - before[name]
		}
	}
	return all
}

// Nothing passes the next frames to a program that does nothing: what is to be taken off what Run took.
func (t *InTurn) Nothing(runs int) (time.Duration, error) { return t.time(t.nothing, runs) }

func (t *InTurn) time(p *ebpf.Program, runs int) (time.Duration, error) {
	opts := ebpf.RunOptions{Data: t.first, Context: skb{Ifindex: uint32(t.ifindex)}, Repeat: uint32(runs)}
	began := time.Now()
	_, err := p.Run(&opts)
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", t.name, err)
	}
	return took, nil
}
