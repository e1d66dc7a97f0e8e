package load

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/internal/testnet"
)

// The test's own program is what generates load.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Program {
		if err := Main(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testnet.Main(m)
}

func TestEveryLoadArrivesInEveryWorld(t *testing.T) {
	testnet.RequireRoot(t)
	for _, world := range []struct {
		name  string
		build func() (*rig.World, error)
	}{
		{"direct", rig.Direct},
		{"one node", func() (*rig.World, error) { return rig.Routed(rig.Options{Nodes: 1}) }},
		{"two nodes", func() (*rig.World, error) { return rig.Routed(rig.Options{Nodes: 2}) }},
		{"two nodes, vxlan", func() (*rig.World, error) { return rig.Routed(rig.Options{Nodes: 2, VXLAN: true}) }},
	} {
		t.Run(world.name, func(t *testing.T) {
			w, err := world.build()
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			for _, kind := range []Kind{RR, CRR, Stream, UDP, Connect, Beside} {
				r, err := Run(context.Background(), Spec{Kind: kind, From: w.Pods[0], To: w.Pods[1], Flows: 3, Time: 50 * time.Millisecond})
				if err != nil {
					t.Errorf("%s: %v", kind, err)
					continue
				}
				if r.Seconds <= 0 || r.CPU <= 0 || r.PerCPU() <= 0 || (kind == Stream) != (r.Bytes > 0) || (kind == UDP) != (r.Sent > 0) {
					t.Errorf("%s: %+v", kind, r)
				}
			}
		})
	}
}

func TestALoadToNobodyIsAnError(t *testing.T) {
	testnet.RequireRoot(t)
	w, err := rig.Direct()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	to := w.Pods[1]
	to.Addr = to.Addr.Next() // the server cannot take it
	if r, err := Run(context.Background(), Spec{Kind: RR, From: w.Pods[0], To: to, Time: time.Millisecond}); err == nil {
		t.Errorf("no error, but %+v", r)
	}
}

func TestGeneratorsRefuseWhatTheyDoNotKnow(t *testing.T) {
	for _, args := range [][]string{
		nil,
		{"client", "rr", "10.0.0.1:1", "10.0.0.2", "1", "1s"},
		{"client", "rr", "10.0.0.1", "10.0.0.2", "1", "1s", "-"},
		{"client", "rr", "10.0.0.1:1", "10.0.0.2", "one", "1s", "-"},
		{"client", "rr", "10.0.0.1:1", "10.0.0.2", "1", "soon", "-"},
		{"client", "rr", "10.0.0.1:1", "10.0.0.2", "1", "1s", "10.0.0.3*2"},
	} {
		if _, _, err := parseArgs(args); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
}
