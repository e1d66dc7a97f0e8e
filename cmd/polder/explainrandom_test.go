package main

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/oracle/cases"
)

// What a folder of manifests says, with all defaults filled in, is judged as the objects that it was written from.
func TestAFolderIsExplainedAsTheObjectsThatItWasWrittenFrom(t *testing.T) {
	seed := rand.Uint64()
	dice := cases.NewDice(seed)
	dir := t.TempDir()
	asked, denied := 0, 0
	for range 200 {
		o := dice.Cluster()
		if err := os.WriteFile(filepath.Join(dir, "cluster.json"), cases.Manifests(o), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := readFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			p := dice.Packet(o)
			want := o.Judge(p)
			got := c.Judge(p.Src, netip.AddrPortFrom(p.Dst, p.Port), cluster.Protocol(p.Protocol))
			if got.Allowed != want.Allowed || len(got.Because()) == 0 {
				t.Fatalf("seed %d: %+v: %v, %q, want %s", seed, p, got.Allowed, got.Because(), want)
			}
			asked++
			if !got.Allowed {
				denied++
			}
		}
	}
	t.Logf("seed %d: %d packets, %d of them denied", seed, asked, denied)
	if denied == 0 || denied == asked {
		t.Errorf("all packets fare alike")
	}
}
