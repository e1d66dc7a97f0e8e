package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/testnet"
)

// freeze makes every write to one of the node's maps fail from now on.
func (n *node) freeze(name string) {
	n.t.Helper()
	pins, err := filepath.Glob(filepath.Join(n.cfg.Pins, "maps", name+"_*"))
	if err != nil || len(pins) != 1 {
		n.t.Fatalf("%v, %v", pins, err)
	}
	m, err := ebpf.LoadPinnedMap(pins[0], nil)
	if err != nil {
		n.t.Fatal(err)
	}
	defer m.Close()
	if err := m.Freeze(); err != nil {
		n.t.Fatal(err)
	}
}

func TestAddThatCannotWriteItsMapEntriesLeavesNothing(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28", "fd00:1::/64"))
	pod := testnet.New(t)
	n.freeze("endpoints")
	for range 3 {
		n.refused(api.CodeIO, api.Request{Verb: api.Add, Attachment: at("a")}, pod.File())
		if c := n.counts(); len(podLinks(t)) > 0 || c.Used != 0 || c.Free != 13 {
			t.Fatalf("there are %v, %+v", podLinks(t), c)
		}
	}
	n.del("a")
	n.empty(13)
}

func TestDelThatCannotWriteItsMapEntriesFreesTheAddressAllTheSame(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28", "fd00:1::/64"))
	pod := testnet.New(t)
	n.add("a", pod.File())
	n.freeze("endpoints")
	n.refused(api.CodeIO, api.Request{Verb: api.Del, Attachment: at("a")}, nil)
	n.del("a") // the runtime asks again
	n.empty(13)
}

// An address that cannot be written down as freed or held is neither: it would be another's after a restart.
func TestNoAddressIsFreedOrGivenThatCannotBeWrittenDown(t *testing.T) {
	n := newNode(t, oneNode("10.0.1.0/28", "fd00:1::/64"))
	pod := testnet.New(t)
	given := n.add("a", pod.File())
	n.freeze("reserved")
	n.refused(api.CodeIO, api.Request{Verb: api.Reserve, Attachment: at("r")}, nil)
	n.refused(api.CodeIO, api.Request{Verb: api.Del, Attachment: at("a")}, nil)
	if c := n.counts(); len(podLinks(t)) != 1 || c.Used != 1 || c.Free != 12 {
		t.Errorf("there are %v, %+v", podLinks(t), c)
	}
	n.must(api.Request{Verb: api.Check, Attachment: at("a"), Addresses: given.Addresses}, pod.File())
	n.stop()
	if err := os.RemoveAll(n.cfg.Pins); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.del("a")
	n.empty(13)
}
