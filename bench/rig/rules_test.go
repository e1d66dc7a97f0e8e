package rig

import (
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/testnet"
)

func TestTheRulesLetPodsTalkAtTheirPortsAlone(t *testing.T) {
	testnet.RequireRoot(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	for _, nodes := range []int{1, 2} {
		w, err := Routed(Options{Nodes: nodes, Rules: true})
		if err != nil {
			t.Fatal(err)
		}
		for port, want := range map[uint16]bool{FirstPort: true, FirstPort + Ports - 1: true, FirstPort + Ports: false} {
			if err := dial(w, port); (err == nil) != want {
				t.Errorf("%d nodes, port %d: %v", nodes, port, err)
			}
		}
		w.Close()
	}
}

// dial connects from the first pod to the second.
func dial(w *World, port uint16) error {
	at := netip.AddrPortFrom(w.Pods[1].Addr, port).String()
	var l net.Listener
	err := In(w.Pods[1].NS, func() (err error) {
		l, err = net.Listen("tcp4", at)
		return err
	})
	if err != nil {
		return err
	}
	defer l.Close()
	return In(w.Pods[0].NS, func() error {
		conn, err := net.DialTimeout("tcp4", at, time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	})
}
