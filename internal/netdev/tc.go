package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Where Polder's filters are among those of one hook: after those that others put at the front (1), the first thing
// that every other program does.
const (
	tcPriority = Protocol
	tcHandle   = 0x706f // "po"

	// From linux/pkt_sched.h and linux/pkt_cls.h.
	clsact       = 0xfffffff1 // TC_H_CLSACT, the parent of the qdisc
	clsactHandle = 0xffff0000
	minIngress   = 0xfff2 // TC_H_MIN_INGRESS
	minEgress    = 0xfff3
	tcaKind      = 1
	tcaOptions   = 2
	tcaBPFFD     = 6
	tcaBPFName   = 7
	tcaBPFFlags  = 8
	tcaBPFID     = 11
	directAction = 1 // TCA_BPF_FLAG_ACT_DIRECT
)

// TCHook is one of the two hooks of a link.
type TCHook struct {
	Link   int // index
	Egress bool
}

// TCProgram is a program of Polder's on a hook.
type TCProgram struct {
	Name string
	ID   int // of the program; 0: there is none
}

// AttachTC puts a program on a link's hook, in the place of the one that Polder had there, without a gap. It is for
// kernels older than 6.6, which have no tcx links.
func (k *Kernel) AttachTC(ifindex int, egress bool, progFD int, name string) error {
	qdisc := newMessage(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, tcBody(ifindex, clsactHandle, clsact, 0)).
		text(tcaKind, "clsact")
	if err := k.do(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to link %d: %w", ifindex, err)
	}
	filter := newMessage(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE, filterBody(ifindex, egress)).
		text(tcaKind, "bpf").
		nest(tcaOptions, func(m *message) {
			m.u32(tcaBPFFD, uint32(progFD)).text(tcaBPFName, name).u32(tcaBPFFlags, directAction)
		})
	if err := k.do(filter); err != nil {
		return fmt.Errorf("attach %s to link %d: %w", name, ifindex, err)
	}
	return nil
}

// DetachTC takes Polder's program off a link's hook. It is no error when there is none. The qdisc stays: others may
// use it.
func (k *Kernel) DetachTC(ifindex int, egress bool) error {
	err := k.do(newMessage(unix.RTM_DELTFILTER, 0, filterBody(ifindex, egress)).text(tcaKind, "bpf"))
	if err != nil && !gone(err) && !errors.Is(err, unix.EINVAL) { // EINVAL: there is not even a qdisc
		return fmt.Errorf("detach program from link %d: %w", ifindex, err)
	}
	return nil
}

// ListTC returns what each hook has of Polder's, the zero program for nothing; beside an error, without the hooks that
// it is about. It asks for the one filter that can be Polder's: a dump would be a system call a hook, and list those of
// others.
func (k *Kernel) ListTC(hooks []TCHook) (map[TCHook]TCProgram, error) {
	messages := make([]*message, len(hooks))
	for i, h := range hooks {
		messages[i] = newMessage(unix.RTM_GETTFILTER, 0, filterBody(h.Link, h.Egress)).text(tcaKind, "bpf")
	}
	replies, err := k.batch(messages...)
	if err != nil {
		return nil, fmt.Errorf("list programs: %w", err)
	}
	have := make(map[TCHook]TCProgram, len(hooks))
	var errs errorList
	for i, r := range replies {
		if r.err != nil && !gone(r.err) && !errors.Is(r.err, unix.EINVAL) { // EINVAL: there is not even a qdisc
			errs.add(fmt.Errorf("list programs of link %d: %w", hooks[i].Link, r.err))
			continue
		}
		have[hooks[i]] = TCProgram{}
		for _, b := range r.data {
			if p, ok := parseFilter(b); ok {
				have[hooks[i]] = p
			}
		}
	}
	return have, errs.err()
}

// tcBody is struct tcmsg.
func tcBody(ifindex int, handle, parent, info uint32) []byte {
	b := make([]byte, 4, 128)
	b = binary.NativeEndian.AppendUint32(b, uint32(ifindex))
	b = binary.NativeEndian.AppendUint32(b, handle)
	b = binary.NativeEndian.AppendUint32(b, parent)
	return binary.NativeEndian.AppendUint32(b, info)
}

func tcParent(egress bool) uint32 {
	if egress {
		return clsactHandle | minEgress
	}
	return clsactHandle | minIngress
}

func filterBody(ifindex int, egress bool) []byte {
	var proto [2]byte
	binary.BigEndian.PutUint16(proto[:], unix.ETH_P_ALL)
	info := uint32(tcPriority)<<16 | uint32(binary.NativeEndian.Uint16(proto[:]))
	return tcBody(ifindex, tcHandle, tcParent(egress), info)
}

// parseFilter reads a filter, if it is at the place of Polder's.
func parseFilter(b []byte) (TCProgram, bool) {
	const size = 20
	if len(b) < size || binary.NativeEndian.Uint32(b[8:]) != tcHandle || binary.NativeEndian.Uint32(b[16:])>>16 != tcPriority {
		return TCProgram{}, false
	}
	var p TCProgram
	for typ, v := range attributes(b[size:]) {
		if typ != tcaOptions {
			continue
		}
		for typ, v := range attributes(v) {
			switch typ {
			case tcaBPFName:
				p.Name = text(v)
			case tcaBPFID:
				p.ID = num(v)
			}
		}
	}
	return p, p.ID != 0
}
