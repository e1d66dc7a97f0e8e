package datapath

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/desired"
)

// The same packet at once needs no look-ups: rules that went without a word are not missed before the next moment. What
// was remembered is one processor's.
func TestAVerdictOfAMomentAgoIsKept(t *testing.T) {
	c := newCourt(t, openTest(t))
	onOneProcessor(t)
	w := ways()[0]
	for range 5 {
		c.reset()
		c.opened(w)
		w.there(c, w.client, w.server, w.out)
		w.back(c, w.server, w.client, w.in, flags(tcpSYN|tcpACK))
		w.there(c, w.client, w.server, w.out, flags(tcpACK))
		w.back(c, w.server, w.client, w.in, flags(tcpACK))
		empty(t, c.maps[bpfMapRules])
		p := c.f.packet(w.client, w.server, flags(tcpACK)).bytes()
		there := c.runIn(desired.FromPod, c.a, 0, p)
		back := c.runIn(desired.FromPod, c.b, 0, c.f.packet(w.server, w.client, flags(tcpACK)).bytes())
		last := c.runIn(desired.FromPod, c.a, 0, c.f.packet(w.client, w.server, flags(tcpFIN|tcpACK)).bytes())
		if last != toEgress {
			t.Fatalf("the last: %s", last)
		}
		if there == "to pod" && back == "to pod" {
			return
		}
	}
	t.Fatal("five times it was forgotten at once")
}

// onOneProcessor keeps the test from moving to another.
func onOneProcessor(t *testing.T) {
	var before, one unix.CPUSet
	runtime.LockOSThread()
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	for i := 0; one.Count() == 0; i++ {
		if before.IsSet(i) {
			one.Set(i)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
}
