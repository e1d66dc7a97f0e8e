package agent

import (
	"log/slog"
	"testing"

	"github.com/polder-net/polder/internal/netdev"
	"github.com/polder-net/polder/internal/testnet"
)

// What runs has whole maps. Programs whose maps could not be written wait.
func TestProgramsAreNotReplacedBeforeTheirMapsAreComplete(t *testing.T) {
	world := newTown("10.0.1.0/24").pod("web")
	n := newNode(t, world.Snapshot, judged)
	n.add("web", testnet.New(t).File())
	kernel, err := netdev.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	n.stop()
	var hook netdev.TCHook
	for _, p := range n.agent.pods {
		hook.Link = p.Index
	}
	program := func() int {
		t.Helper()
		list, err := kernel.ListTC([]netdev.TCHook{hook})
		if err != nil || list[hook].ID == 0 {
			t.Fatal(list, err)
		}
		return list[hook].ID
	}
	before := program()
	n.freeze("endpoints")
	n.source.say(world.isolate("web", "").Snapshot)
	n.start()
	if n.report(); program() != before {
		t.Error("the program was replaced")
	}
	n.upgrade(false)
	n.eventually("the program is replaced", func() bool { return program() != before })
}
