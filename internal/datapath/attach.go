package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/polder-net/polder/internal/desired"
)

// attached is a tcx link of ours, open.
type attached struct {
	link    link.Link
	ifindex int
	current bool // it runs the program that this process loaded
}

// Attach makes every hook of want run this agent's program, and detaches the others. A program is replaced under a
// running link in one step; nothing is ever detached in order to be attached again. Maps must be complete before an earlier
// agent's programs are replaced, which may have others.
func (d *Datapath) Attach(want map[desired.Hook]int, replace bool) ([]Change, error) {
	var changes []Change
	var errs []error
	for hook, ifindex := range want {
		change, err := d.attach(hook, ifindex, replace)
		if err != nil {
			errs = append(errs, fmt.Errorf("attach %s to %s: %w", hook.Program, hook.Link, err))
			continue
		}
		if change != "" {
			changes = append(changes, Change{"programs", hook.Link + " " + string(hook.Program), change})
		}
	}
	for hook, a := range d.links {
		if ifindex, ok := want[hook]; !ok || ifindex != a.ifindex {
			d.drop(hook)
		}
	}
	if len(errs) == 0 {
		errs = append(errs, d.removeStalePins(want))
	}
	return changes, errors.Join(errs...)
}

// AttachOne is Attach for one hook, for a pod that comes.
func (d *Datapath) AttachOne(hook desired.Hook, ifindex int) error {
	if _, err := d.attach(hook, ifindex, true); err != nil {
		return fmt.Errorf("attach %s to %s: %w", hook.Program, hook.Link, err)
	}
	return nil
}

// Detach forgets a hook whose link is going, and its pin.
func (d *Datapath) Detach(hook desired.Hook) { d.drop(hook) }

// Attached says whether the hook runs a program of ours right now, as the kernel sees it.
func (d *Datapath) Attached(hook desired.Hook) bool {
	a, ok := d.links[hook]
	return ok && a.alive()
}

// attach returns what it did: "", "add" or "update".
func (d *Datapath) attach(hook desired.Hook, ifindex int, replace bool) (string, error) {
	prog, ok := d.programs[hook.Program]
	if !ok {
		return "", errors.New("no such program")
	}
	a, ok := d.links[hook]
	if ok && (a.ifindex != ifindex || !a.alive() || !a.pinned(d.pin(hook.Program, ifindex))) {
		d.drop(hook)
		ok = false
	}
	if !ok {
		a, ok = d.openPinned(hook, ifindex)
	}
	if ok && (a.current || !replace) {
		d.links[hook] = a
		return "", nil
	}
	if ok {
		if err := a.link.Update(prog); err == nil {
			a.current = true
			d.links[hook] = a
			return "update", nil
		}
		d.links[hook] = a
		d.drop(hook) // its device went away
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: direction(hook.Program), Anchor: link.Tail()})
	if err != nil {
		return "", err
	}
	if err := l.Pin(d.pin(hook.Program, ifindex)); err != nil {
		l.Close()
		return "", fmt.Errorf("pin link: %w", err)
	}
	d.links[hook] = attached{l, ifindex, true}
	return "add", nil
}

// openPinned opens the link that an earlier agent left, if it is still attached to that device.
func (d *Datapath) openPinned(hook desired.Hook, ifindex int) (attached, bool) {
	pin := d.pin(hook.Program, ifindex)
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return attached{}, false
	}
	a := attached{link: l, ifindex: ifindex}
	if !a.alive() {
		l.Close()
		os.Remove(pin)
		return attached{}, false
	}
	return a, true
}

// A link whose device is gone, or that was detached by force, reports device 0.
func (a attached) alive() bool {
	info, err := a.link.Info()
	if err != nil {
		return false
	}
	tcx := info.TCX()
	return tcx != nil && int(tcx.Ifindex) == a.ifindex
}

func (a attached) pinned(pin string) bool {
	_, err := os.Lstat(pin)
	return err == nil
}

func (d *Datapath) drop(hook desired.Hook) {
	a, ok := d.links[hook]
	if !ok {
		return
	}
	delete(d.links, hook)
	os.Remove(d.pin(hook.Program, a.ifindex))
	a.link.Close()
}

// removeStalePins removes what earlier agents attached and nobody wants any more.
func (d *Datapath) removeStalePins(want map[desired.Hook]int) error {
	keep := map[string]bool{}
	for hook, ifindex := range want {
		keep[d.pin(hook.Program, ifindex)] = true
	}
	dir := filepath.Join(d.dir, "links")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list pinned links: %w", err)
	}
	for _, e := range entries {
		pin := filepath.Join(dir, e.Name())
		if keep[pin] || strings.HasSuffix(pin, socketPin) {
			continue
		}
		if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("unpin link: %w", err)
		}
	}
	return nil
}

// Device names may hold dots, which bpffs refuses; the index never lies about which device is meant.
func (d *Datapath) pin(p desired.Program, ifindex int) string {
	return filepath.Join(d.dir, "links", string(p)+":"+strconv.Itoa(ifindex))
}

func direction(p desired.Program) ebpf.AttachType {
	if IsEgress(p) {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// IsEgress says on which side of a link a program runs: "from" programs see what comes in, "to" programs what goes out.
// What the node itself sends to a Service leaves by the loopback device.
func IsEgress(p desired.Program) bool {
	return strings.HasPrefix(string(p), "to_") || p == desired.FromHost
}
