package main

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

func TestACourtJudgesByPolicies(t *testing.T) {
	testnet.RequireRoot(t)
	b := &bench{options: options{state: t.TempDir(), rounds: 2}}
	c, err := b.newCourt("test")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
	}()
	if _, _, err := c.decide(peerPods(100, 10), peerPolicies(10)); err != nil {
		t.Fatal(err)
	}
	for _, flags := range []byte{syn, ack} {
		if err := c.asking(isolated, 100, flags).pass(); err != nil {
			t.Error(err)
		}
		if err := c.answering(isolated, 100, ack).pass(); err != nil {
			t.Error(err)
		}
	}
	if err := c.asking(isolated, 200, syn).pass(); err == nil {
		t.Error("those pass that no policy lets in")
	}
	if err := c.asking(free, 200, syn).pass(); err != nil {
		t.Error(err)
	}
	known := c.asking(isolated, 1, ack)
	if err := b.measurePassages(context.Background(), "test", known); err != nil {
		t.Fatal(err)
	}
	if len(known.samples) != 2 || known.samples[0] <= 0 || known.samples[0] > float64(time.Millisecond) {
		t.Errorf("samples %v", known.samples)
	}
}

func TestFirstPacketsAreAllOfOtherFlows(t *testing.T) {
	c := &court{}
	for i := range c.pods {
		c.pods[i] = courtPod{addr: peerAddr(1 << 20), mac: make(net.HardwareAddr, 6)}
	}
	for _, p := range []*passage{c.comingIn(isolated, syn), c.goingOut(isolated, syn)} {
		seen := map[string]bool{}
		for round := range 15 {
			for i := range p.count {
				frame := string(p.frame(round, i))
				if seen[frame] {
					t.Fatalf("%s: frame %d of measurement %d has been there", p.program, i, round)
				}
				seen[frame] = true
			}
		}
	}
}
