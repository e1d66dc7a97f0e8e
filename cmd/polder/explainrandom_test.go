package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/explain"
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

// What is told of a difference in few words is all of it, and nothing else.
func TestGroupsOfChangesAreTheChanges(t *testing.T) {
	seed := rand.Uint64()
	dice := cases.NewDice(seed)
	grouped := 0
	for range 50 {
		old := dice.Cluster()
		now := *old
		now.NetworkPolicies, now.ClusterPolicies = dice.Cluster().NetworkPolicies, nil
		d := explain.Diff(explain.New(*old, nil, nil, nil), explain.New(now, nil, nil, nil))
		want, got := map[string]bool{}, map[string]bool{}
		for _, c := range d.Changes {
			want[fmt.Sprint(c.From.Name, c.To.Name, c.IPv4, c.Now.Allowed, c.Reason)] = true
		}
		groups := groupChanges(d)
		for _, g := range groups {
			for _, pair := range expand(d, g) {
				var keys []string
				for _, ipv4 := range []bool{true, false} {
					key := fmt.Sprint(pair[0].Name, pair[1].Name, ipv4, g.sample.Now.Allowed, g.sample.Reason)
					if g.family == familyName(ipv4) || g.family == "" && want[key] { // "" is of those families that there are
						keys = append(keys, key)
					}
				}
				if len(keys) == 0 {
					t.Errorf("seed %d: %s to %s is said to change, %s", seed, pair[0].Name, pair[1].Name, g.ports)
				}
				for _, key := range keys {
					got[key] = true
				}
			}
		}
		if !maps.Equal(got, want) {
			t.Fatalf("seed %d: groups say %v\nwant %v", seed, got, want)
		}
		if len(groups) < len(d.Changes) {
			grouped++
		}
	}
	if grouped == 0 {
		t.Error("nothing was ever grouped")
	}
}

// expand lists the pairs that a group is about.
func expand(d *explain.Difference, g changeGroup) (pairs [][2]explain.Place) {
	nodes := func(p, other explain.Place) []explain.Place {
		if others, all := d.OtherNodes(other); p == all {
			return others
		}
		return []explain.Place{p}
	}
	for _, from := range g.from {
		for _, to := range g.to {
			if from == to {
				continue
			}
			for _, a := range nodes(from, to) {
				for _, b := range nodes(to, from) {
					pairs = append(pairs, [2]explain.Place{a, b})
				}
			}
		}
	}
	return pairs
}
