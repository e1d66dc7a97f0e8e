package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/polder-net/polder/bench/load"
	"github.com/polder-net/polder/bench/objects"
	"github.com/polder-net/polder/bench/report"
	"github.com/polder-net/polder/bench/rig"
	"github.com/polder-net/polder/internal/desired"
)

// How many clients S9 has: at once, and for each of two looks at their end.
const (
	stickyClients  = 1 << 16
	expiryClients  = 1000
	expiryAffinity = 5 // seconds
)

// affinity measures S9 by running the program on clients' packets from outside: whether each of them stays with its
// backend, and until when.
func (b *bench) affinity(ctx context.Context, w *worlds) error {
	s, err := w.served(ctx, false)
	if err != nil {
		return err
	}
	uplink, err := linkIn(s.nodes[0], "eth0")
	if err != nil {
		return err
	}
	return rig.In(s.nodes[0].NS, func() error {
		a := asker{served: s, ifindex: uplink.Index, mac: uplink.HardwareAddr}
		if err := b.stick(&a); err != nil {
			return fmt.Errorf("S9: %w", err)
		}
		if err := b.expire(&a); err != nil {
			return fmt.Errorf("S9: %w", err)
		}
		return nil
	})
}

// asker sends packets of clients into the datapath.
type asker struct {
	*served
	ifindex int
	mac     net.HardwareAddr
	to      netip.Addr // a Service
	port    uint16     // of the clients' next connections
}

// serveSticky makes the node serve one Service with affinity.
func (a *asker) serveSticky(seconds int) error {
	c := a.live(objects.Size{Services: 1, Endpoints: load.Ports})
	c.Affinity = seconds
	a.to = c.ClusterIP(0)
	if _, err := a.serve(nil); err != nil { // it begins without what clients had before
		return err
	}
	_, err := a.serve(c.Services())
	return err
}

// ask begins a connection for each of some clients, and says which backends they got.
func (a *asker) ask(first, count int) ([]netip.AddrPort, error) {
	got := make([]netip.AddrPort, count)
	a.port++
	for i := range got {
		n := first + i
		client := netip.AddrFrom4([4]byte{198, 18 + byte(n>>16), byte(n >> 8), byte(n)})
		f := frame(a.mac, client, a.to, 20000+a.port)
		f[14+20+13] = 0x02 // SYN
		binary.BigEndian.PutUint16(f[14+20+2:], objects.ServicePort)
		v, err := a.datapath.Run(desired.FromNetwork, a.ifindex, f)
		if err != nil {
			return nil, err
		}
		to, _ := netip.AddrFromSlice(v.Packet[14+16 : 14+20])
		got[i] = netip.AddrPortFrom(to, binary.BigEndian.Uint16(v.Packet[14+20+2:]))
		if to != a.near.Addr {
			return nil, fmt.Errorf("the packet of client %s went to %s (%s)", client, got[i], v.Outcome)
		}
	}
	return got, nil
}

// same is the share of clients with the same backend.
func same(a, b []netip.AddrPort) float64 {
	var n float64
	for i := range a {
		if a[i] == b[i] {
			n++
		}
	}
	return 100 * n / float64(len(a))
}

func (b *bench) stick(a *asker) error {
	if err := a.serveSticky(3600); err != nil {
		return err
	}
	before, err := a.ask(0, stickyClients)
	if err != nil {
		return err
	}
	after, err := a.ask(0, stickyClients)
	if err != nil {
		return err
	}
	used := map[netip.AddrPort]int{}
	for _, p := range before {
		used[p]++
	}
	b.add(report.Row{ID: "S9", What: fmt.Sprintf("session affinity: of %d clients, those that stay with their backend", stickyClients),
		Unit: report.Percent, Value: report.Single(same(before, after)), Bar: 100, Seen: fmt.Sprintf("%d backends", len(used))})
	return nil
}

// expire looks at some clients a second before the end, and at others a second after it.
func (b *bench) expire(a *asker) error {
	if err := a.serveSticky(expiryAffinity); err != nil {
		return err
	}
	for _, look := range []struct {
		what  string
		after time.Duration
		row   report.Row
	}{
		{"a second before the end", (expiryAffinity - 1) * time.Second, report.Row{Bar: 100}},
		{"a second after it", (expiryAffinity + 1) * time.Second, report.Row{Bar: 15, Most: true}}, // one in ten by chance
	} {
		first := stickyClients * (1 + int(look.after.Seconds()))
		before, err := a.ask(first, expiryClients)
		if err != nil {
			return err
		}
		time.Sleep(look.after)
		after, err := a.ask(first, expiryClients)
		if err != nil {
			return err
		}
		row := look.row
		row.ID, row.What = "S9", "session affinity: clients with the same backend "+look.what
		row.Unit, row.Value, row.Seen = report.Percent, report.Single(same(before, after)), fmt.Sprintf("%d backends, %d s", load.Ports, expiryAffinity)
		b.add(row)
	}
	return nil
}
