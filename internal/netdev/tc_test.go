package netdev

import (
	"encoding/binary"
	"maps"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/testnet"
)

// program loads "return TC_ACT_UNSPEC" for the traffic control hooks.
func program(t testing.TB) int {
	t.Helper()
	var insns []byte
	for _, insn := range []struct {
		code uint8
		imm  int32
	}{{0xb7, -1}, {0x95, 0}} { // r0 = -1; exit
		insns = append(insns, insn.code, 0, 0, 0)
		insns = binary.NativeEndian.AppendUint32(insns, uint32(insn.imm))
	}
	license := append([]byte("MIT"), 0)
	attr := struct { // union bpf_attr of BPF_PROG_LOAD, its start
		progType, insnCount uint32
		insns, license      uint64
		_                   [104]byte
	}{progType: unix.BPF_PROG_TYPE_SCHED_CLS, insnCount: uint32(len(insns) / 8)}
	attr.insns, attr.license = uint64(uintptr(unsafe.Pointer(&insns[0]))), uint64(uintptr(unsafe.Pointer(&license[0])))
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(insns)
	runtime.KeepAlive(license)
	if errno != 0 {
		t.Fatalf("load program: %v", errno)
	}
	t.Cleanup(func() { unix.Close(int(fd)) })
	return int(fd)
}

func TestAProgramIsAttachedReplacedListedAndDetached(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	index := device(t, ns, "up0")
	hooks := []TCHook{{index, false}, {index, true}, {index + 1000, false}} // no such link
	nothing := map[TCHook]TCProgram{hooks[0]: {}, hooks[1]: {}, hooks[2]: {}}
	if list, err := k.ListTC(hooks); err != nil || !maps.Equal(list, nothing) {
		t.Fatalf("before: %v, %v", list, err)
	}
	for _, egress := range []bool{false, true} {
		if err := k.DetachTC(index, egress); err != nil {
			t.Errorf("detach what is not attached: %v", err)
		}
		for range 2 { // the second in the place of the first
			if err := k.AttachTC(index, egress, program(t), "polder_test"); err != nil {
				t.Fatal(err)
			}
		}
	}
	list, err := k.ListTC(hooks)
	ingress, egress := list[hooks[0]], list[hooks[1]]
	if err != nil || ingress.Name != "polder_test" || egress.Name != "polder_test" || ingress.ID == 0 || egress.ID == 0 || ingress.ID == egress.ID || list[hooks[2]].ID != 0 {
		t.Errorf("listed are %+v, %v", list, err)
	}
	in(t, ns, func() error {
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			filters, err := netlink.FilterList(linkOf(t, ns, "up0"), parent)
			if err != nil {
				return err
			}
			if len(filters) != 1 || !filters[0].(*netlink.BpfFilter).DirectAction || filters[0].Attrs().Protocol != unix.ETH_P_ALL {
				t.Errorf("filters are %v", filters)
			}
		}
		return nil
	})
	for _, egress := range []bool{false, true} {
		for range 2 {
			if err := k.DetachTC(index, egress); err != nil {
				t.Fatal(err)
			}
		}
	}
	if list, err := k.ListTC(hooks); err != nil || !maps.Equal(list, nothing) {
		t.Errorf("after: %v, %v", list, err)
	}
}

func TestProgramsOfOthersAreLeftAloneAndNotListed(t *testing.T) {
	ns := testnet.New(t)
	k := open(t, ns)
	index := device(t, ns, "up0")
	if err := k.AttachTC(index, false, program(t), "polder_test"); err != nil {
		t.Fatal(err)
	}
	in(t, ns, func() error {
		return netlink.FilterAdd(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS,
			Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL}, Fd: program(t), Name: "theirs", DirectAction: true})
	})
	hook := TCHook{Link: index}
	list, err := k.ListTC([]TCHook{hook})
	if err != nil || list[hook].Name != "polder_test" {
		t.Errorf("listed are %+v, %v", list, err)
	}
	if err := k.DetachTC(index, false); err != nil {
		t.Fatal(err)
	}
	if list, err := k.ListTC([]TCHook{hook}); err != nil || list[hook].ID != 0 {
		t.Errorf("without ours: listed are %+v, %v", list, err)
	}
	in(t, ns, func() error {
		filters, err := netlink.FilterList(linkOf(t, ns, "up0"), netlink.HANDLE_MIN_INGRESS)
		if !slices.ContainsFunc(filters, func(f netlink.Filter) bool { return f.(*netlink.BpfFilter).Name == "theirs" }) {
			t.Errorf("filters are %v", filters)
		}
		return err
	})
}
