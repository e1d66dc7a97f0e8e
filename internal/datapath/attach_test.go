package datapath

import (
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// openTCX is openTest for a test of tcx links. Only a kernel that is too old to have them may skip it.
func openTCX(t *testing.T) *Datapath {
	t.Helper()
	d := openTest(t)
	if d.UsesTCX() {
		return d
	}
	major, minor, err := kernelVersion()
	if err != nil || major > 6 || major == 6 && minor >= 6 {
		t.Fatalf("Linux %d.%d has no tcx links, but should (%v)", major, minor, err)
	}
	t.Skip("needs tcx links (Linux 6.6); the clsact filters of older kernels are netdev's")
	return nil
}

// inNode runs a test in a namespace with two links, "left" and "right".
func inNode(t *testing.T, test func(left, right int)) {
	ns, far := testnet.New(t), testnet.New(t)
	testnet.Pair(t, ns, "left", far, "left")
	testnet.Pair(t, ns, "right", far, "right")
	ns.Do(func() { test(index(t, "left"), index(t, "right")) })
}

func index(t *testing.T, name string) int {
	t.Helper()
	i, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return i.Index
}

// attachedTo asks the kernel which of our programs a link runs.
func attachedTo(t *testing.T, ifindex int) []ebpf.ProgramID {
	t.Helper()
	var ids []ebpf.ProgramID
	for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		q, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: at})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range q.Programs {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

func attachAll(t *testing.T, d *Datapath, want map[desired.Hook]int) []Change {
	t.Helper()
	changes, err := d.Attach(want, true)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

func TestAttachFollowsWhatIsWanted(t *testing.T) {
	d := openTCX(t)
	inNode(t, func(left, right int) {
		l, r := desired.Hook{Link: "left", Program: desired.FromPod}, desired.Hook{Link: "right", Program: desired.ToTunnel}
		attachAll(t, d, map[desired.Hook]int{l: left, r: right})
		if !d.Attached(l) || !d.Attached(r) || len(attachedTo(t, left)) != 1 || len(attachedTo(t, right)) != 1 {
			t.Fatal("not attached")
		}
		if changes := attachAll(t, d, map[desired.Hook]int{l: left, r: right}); len(changes) > 0 {
			t.Fatalf("not at rest: %v", changes)
		}
		attachAll(t, d, map[desired.Hook]int{l: left})
		if len(attachedTo(t, right)) != 0 {
			t.Fatal("still attached to a link that nobody wants")
		}
		attachAll(t, d, nil)
		if pins, _ := os.ReadDir(filepath.Join(d.dir, "links")); len(pins) > 0 {
			t.Fatalf("pins are left: %v", pins)
		}
	})
}

// Between two agents a link always runs one program of ours: the old one's, then the new one's.
func TestTheNextAgentTakesOverWithoutDetaching(t *testing.T) {
	d := openTCX(t)
	inNode(t, func(left, _ int) {
		want := map[desired.Hook]int{{Link: "left", Program: desired.FromPod}: left}
		attachAll(t, d, want)
		before := attachedTo(t, left)
		d.Close()
		if now := attachedTo(t, left); !reflect.DeepEqual(now, before) {
			t.Fatalf("programs %v became %v when the agent ended", before, now)
		}
		next := reopen(t, d.dir)
		if changes, err := next.Attach(want, false); err != nil || len(changes) > 0 || !reflect.DeepEqual(attachedTo(t, left), before) {
			t.Fatalf("before its maps are complete: %v, %v", changes, err)
		}
		changes := attachAll(t, next, want)
		if len(changes) != 1 || changes[0].Verb != "update" {
			t.Fatalf("%v", changes)
		}
		if now := attachedTo(t, left); len(now) != 1 || now[0] == before[0] {
			t.Fatalf("programs %v became %v", before, now)
		}
	})
}

func TestAProgramThatSomebodyDetachedComesBack(t *testing.T) {
	d := openTCX(t)
	inNode(t, func(left, _ int) {
		hook := desired.Hook{Link: "left", Program: desired.FromPod}
		attachAll(t, d, map[desired.Hook]int{hook: left})
		l, err := link.LoadPinnedLink(d.pin(hook.Program, left), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Detach(); err != nil {
			t.Fatal(err)
		}
		if d.Attached(hook) {
			t.Fatal("a detached program counts as attached")
		}
		if changes := attachAll(t, d, map[desired.Hook]int{hook: left}); len(changes) != 1 || len(attachedTo(t, left)) != 1 {
			t.Fatalf("%v", changes)
		}
	})
}

func TestALinkPinThatSomebodyRemovedComesBack(t *testing.T) {
	d := openTCX(t)
	inNode(t, func(left, _ int) {
		hook := desired.Hook{Link: "left", Program: desired.FromPod}
		attachAll(t, d, map[desired.Hook]int{hook: left})
		if err := os.Remove(d.pin(hook.Program, left)); err != nil {
			t.Fatal(err)
		}
		attachAll(t, d, map[desired.Hook]int{hook: left})
		if _, err := os.Lstat(d.pin(hook.Program, left)); err != nil || len(attachedTo(t, left)) != 1 {
			t.Fatal(err, attachedTo(t, left))
		}
	})
}

func TestAPinOfALinkThatIsGoneIsRemoved(t *testing.T) {
	d := openTCX(t)
	ns, far := testnet.New(t), testnet.New(t)
	testnet.Pair(t, ns, "left", far, "left")
	ns.Do(func() {
		hook := desired.Hook{Link: "left", Program: desired.FromPod}
		left := index(t, "left")
		attachAll(t, d, map[desired.Hook]int{hook: left})
		far.Close() // its end goes, and with it ours
		for d.Attached(hook) {
		}
		attachAll(t, d, nil)
		if pins, _ := os.ReadDir(filepath.Join(d.dir, "links")); len(pins) > 0 {
			t.Fatalf("pins are left: %v", pins)
		}
	})
}
