package lab_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
	"github.com/polder-net/polder/lab/labtest"
)

// The short run is part of every test run; docs/testing.md says how to do the full one.
var policyStarts = flag.Int("policy.starts", 40, "how many pods are started under a policy that denies everything")

func after(ms int) <-chan time.Time { return time.After(time.Duration(ms) * time.Millisecond) }

const denyAll = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing, namespace: default}
spec:
  podSelector: {matchLabels: {role: new}}
  policyTypes: [Ingress, Egress]
`

// TestNothingLeavesOrReachesAPodBeforeItsPoliciesAreInForce starts pods that a policy isolates. They send to others on
// their node and elsewhere from the instant they are, before they have so much as an address, and all that time
// others send to every address that they could get. Nothing may arrive, but what their own node sends.
func TestNothingLeavesOrReachesAPodBeforeItsPoliciesAreInForce(t *testing.T) {
	c := labtest.Up(t, &programs, lab.Options{Nodes: 2})
	nodes := c.Nodes()
	apply(t, c, "policy", denyAll)
	const door = 7777
	var targets []*witness
	var to []netip.AddrPort
	var senders []traffic.End
	for _, n := range nodes {
		p := create(t, c, lab.PodOptions{Name: "target-" + n.Name, Node: n.Name})
		for _, a := range p.Addresses {
			end := traffic.End{Place: p.Place, Addr: a}
			w := watchDoor(t, end, door)
			t.Cleanup(w.close)
			targets, to = append(targets, w), append(to, netip.AddrPortFrom(a, door))
			senders = append(senders, end)
		}
	}
	awaitDenial(t, c, nodes[0], targets, to)
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, from := range senders {
		running.Go(func() { spray(from, nodes[0].Cluster().PodCIDRs, to, door, stop) })
	}
	var reached int64
	for i := range *policyStarts {
		reached += startEarly(t, c, nodes[0], fmt.Sprintf("new-%d", i), "new", to, door)
		if t.Failed() {
			break
		}
	}
	for i, w := range targets {
		if n := w.arrived.Load(); n > 0 {
			t.Errorf("%d packets of isolated pods reached %s", n, to[i])
		}
	}
	if reached > 0 {
		t.Errorf("%d packets reached isolated pods", reached)
	}
	// The same with a pod that nothing isolates, to see that there was something to hold back.
	if startEarly(t, c, nodes[0], "open", "open", to, door) == 0 {
		t.Error("nothing reaches a pod that no policy isolates")
	}
	close(stop)
	running.Wait()
	for i, w := range targets {
		if w.arrived.Load() == 0 {
			t.Errorf("nothing of a pod that no policy isolates reached %s", to[i])
		}
	}
}

// awaitDenial returns when the agent of a node knows the policy: until then, pods may start unprotected.
func awaitDenial(t *testing.T, c *lab.Cluster, n *lab.Node, targets []*witness, to []netip.AddrPort) {
	t.Helper()
	first := create(t, c, lab.PodOptions{Name: "first", Node: n.Name, Labels: map[string]string{"app": "first", "role": "new"}})
	arrived := func() (all int64) {
		for _, w := range targets {
			all += w.arrived.Load()
		}
		return all
	}
	eventually(t, time.Minute, "the policy is in force", func() error {
		before, stop := arrived(), make(chan struct{})
		time.AfterFunc(50*time.Millisecond, func() { close(stop) })
		sendEarly(first.Place, to, stop)
		<-after(50)
		if n := arrived() - before; n > 0 {
			return fmt.Errorf("%d packets came through", n)
		}
		return nil
	})
	for _, w := range targets {
		w.arrived.Store(0)
	}
}

// startEarly starts a pod, has it send and listen from its first instant, looks whether its own node reaches it, and
// takes it away. It returns how many packets reached it before that.
func startEarly(t *testing.T, c *lab.Cluster, n *lab.Node, name, role string, to []netip.AddrPort, door uint16) int64 {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stop, early := make(chan struct{}), sync.WaitGroup{}
	var listening *witness
	early.Go(func() {
		place, err := placeOf(ctx, c, name)
		if err != nil {
			t.Error(err)
			return
		}
		listening = watchAny(place, door)
		sendEarly(place, to, stop)
	})
	pod, err := c.CreatePod(ctx, lab.PodOptions{Name: name, Node: n.Name, Labels: map[string]string{"app": name, "role": role}})
	if err != nil {
		t.Errorf("create pod: %v", err)
		cancel()
	}
	<-after(20)
	close(stop)
	early.Wait()
	if listening == nil || pod == nil {
		return 0
	}
	defer listening.close()
	reached := listening.arrived.Load()
	for _, a := range pod.Addresses {
		if !reaches(n.Place, netip.AddrPortFrom(a, door), listening) {
			t.Errorf("its own node does not reach %s", a)
		}
	}
	if err := c.DeletePod(ctx, name); err != nil {
		t.Error(err)
	}
	return reached
}

// placeOf returns a pod's namespace as soon as there is one.
func placeOf(ctx context.Context, c *lab.Cluster, name string) (lab.Place, error) {
	for {
		p, err := c.Pod(name)
		if err == nil && p.Place.Do(func() error { return nil }) == nil {
			return p.Place, nil
		}
		select {
		case <-ctx.Done():
			return lab.Place{}, fmt.Errorf("find pod %s: %w", name, context.Cause(ctx))
		case <-after(1):
		}
	}
}

// watchAny counts the datagrams that come to any address of a place.
func watchAny(at lab.Place, port uint16) *witness {
	w := &witness{}
	err := at.Do(func() (err error) {
		w.packets, err = net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
		return err
	})
	if err != nil {
		return nil
	}
	w.running.Go(func() {
		for buf := make([]byte, 2048); ; {
			if _, _, err := w.packets.ReadFrom(buf); err != nil {
				return
			}
			w.arrived.Add(1)
		}
	})
	return w
}

// sendEarly sends as soon as the kernel lets it, and on until stop is closed.
func sendEarly(from lab.Place, to []netip.AddrPort, stop <-chan struct{}) {
	var conn *net.UDPConn
	err := from.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", nil)
		return err
	})
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		select {
		case <-stop:
			return
		default:
		}
		for _, a := range to {
			conn.WriteToUDPAddrPort([]byte("early"), a) // there may be no route yet
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// spray sends to the first addresses of prefixes but some, over and over.
func spray(from traffic.End, prefixes []netip.Prefix, but []netip.AddrPort, port uint16, stop <-chan struct{}) {
	var conn *net.UDPConn
	err := from.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from.Addr, 0)))
		return err
	})
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		for _, p := range prefixes {
			if p.Addr().Is4() != from.Addr.Is4() {
				continue
			}
			for i, a := 0, p.Addr(); i < 255; i, a = i+1, a.Next() { // a node has no more, and gives them all before one again
				if at := netip.AddrPortFrom(a, port); !slices.Contains(but, at) {
					conn.WriteToUDPAddrPort([]byte("spray"), at)
				}
			}
		}
		select {
		case <-stop:
			return
		case <-after(4):
		}
	}
}

// reaches says whether a datagram from a place arrives.
func reaches(from lab.Place, to netip.AddrPort, w *witness) bool {
	var conn net.Conn
	err := from.Do(func() (err error) {
		conn, err = net.Dial("udp", to.String())
		return err
	})
	if err != nil {
		return false
	}
	defer conn.Close()
	before := w.arrived.Load()
	for range 100 {
		conn.Write([]byte("probe"))
		<-after(5)
		if w.arrived.Load() > before {
			return true
		}
	}
	return false
}
