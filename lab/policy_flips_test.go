package lab_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/polder-net/polder/lab"
)

// The short run is part of every test run; docs/testing.md says how to do the full one.
var policyFlips = flag.Int("policy.flips", 100, "how often a policy is replaced under traffic, every 50 ms")

type object = map[string]any

// flipped is a policy that allows a sender some ports.
func flipped(ports ...int) object {
	var all []object
	for _, p := range ports {
		all = append(all, object{"protocol": "UDP", "port": p})
	}
	return object{
		"podSelector": object{"matchExpressions": []object{{"key": "app", "operator": "In", "values": []string{"near", "far"}}}},
		"policyTypes": []string{"Ingress"},
		"ingress":     []object{{"from": []object{{"podSelector": object{"matchLabels": object{"app": "sender"}}}}, "ports": all}},
	}
}

const (
	always    = 7001 // is allowed by both policies
	sometimes = 7000 // by one
)

// TestAPolicyTakesThePlaceOfAnotherInOneStep replaces a policy by another, and back, under traffic. What both allow is
// never lost. What one of them denies passes under the other; and once the change is in force for a pod, it stays in
// force: no packet is judged by what was before, or by nothing.
func TestAPolicyTakesThePlaceOfAnotherInOneStep(t *testing.T) {
	w := newAPIWorld(t, 2)
	sender := w.pod(t, "sender", "node-1")
	pods := []*lab.Pod{w.pod(t, "near", "node-1"), w.pod(t, "far", "node-2")}
	w.policy("flip", flipped(always))

	var streams []*stream
	for _, p := range pods {
		for _, port := range []uint16{always, sometimes} {
			streams = append(streams, openStream(t, p.Name, sender, p, port))
		}
	}
	eventually(t, time.Minute, "the first policy is in force", func() error { return judgesAs(streams, false) })
	for _, s := range streams {
		s.start()
	}
	allowed := false
	var flips []flip
	for range *policyFlips {
		allowed = !allowed
		flips = append(flips, mark(streams, allowed))
		if allowed {
			w.policy("flip", flipped(always, sometimes))
		} else {
			w.policy("flip", flipped(always))
		}
		<-after(50)
	}
	for _, s := range streams {
		s.stop()
		if s.port == always {
			if lost := s.sent.Load() - int64(s.count()); lost != 0 {
				t.Errorf("to %s: %d of %d packets that both policies allow were lost", s.name, lost, s.sent.Load())
			}
		} else {
			s.judge(t, flips)
		}
	}
}

// flip is a change of the policy: what each stream had sent then, and whether the new one allows.
type flip struct {
	at      map[*stream]int64
	allowed bool
}

func mark(streams []*stream, allowed bool) flip {
	f := flip{map[*stream]int64{}, allowed}
	for _, s := range streams {
		f.at[s] = s.sent.Load()
	}
	return f
}

// stream is numbered datagrams, one a millisecond.
type stream struct {
	name     string
	port     uint16
	from, to *net.UDPConn
	dst      netip.AddrPort
	sent     atomic.Int64
	done     chan struct{}
	running  sync.WaitGroup

	mu   sync.Mutex
	seen map[int64]bool
}

func openStream(t *testing.T, name string, from, to *lab.Pod, port uint16) *stream {
	t.Helper()
	s := &stream{name: fmt.Sprint(name, ":", port), port: port, dst: netip.AddrPortFrom(to.Addresses[0], port), seen: map[int64]bool{}, done: make(chan struct{})}
	listen := func(at lab.Place, a netip.AddrPort) (conn *net.UDPConn) {
		err := at.Do(func() (err error) {
			conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
			return err
		})
		if err == nil {
			err = conn.SetReadBuffer(8 << 20)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	s.to, s.from = listen(to.Place, s.dst), listen(from.Place, netip.AddrPortFrom(from.Addresses[0], 0))
	s.running.Go(func() {
		for buf := make([]byte, 64); ; {
			n, err := s.to.Read(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.seen[int64(binary.BigEndian.Uint64(buf[:n]))] = true
			s.mu.Unlock()
		}
	})
	return s
}

func (s *stream) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// one sends the next datagram, and says its number.
func (s *stream) one() int64 {
	n := s.sent.Load()
	s.from.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(nil, uint64(n)), s.dst)
	s.sent.Add(1)
	return n
}

func (s *stream) start() {
	s.running.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-s.done:
				return
			case <-tick.C:
				s.one()
			}
		}
	})
}

// stop ends it when all that is on its way has come.
func (s *stream) stop() {
	close(s.done)
	<-after(200)
	s.to.Close()
	s.running.Wait()
}

// judgesAs says whether all streams pass that should. Their numbers begin anew afterwards.
func judgesAs(streams []*stream, allowed bool) error {
	for _, s := range streams {
		s.one()
	}
	<-after(50)
	var err error
	for _, s := range streams {
		if got, want := s.count() > 0, allowed || s.port == always; got != want {
			err = fmt.Errorf("to %s: passes %t, want %t", s.name, got, want)
		}
		s.mu.Lock()
		s.seen = map[int64]bool{}
		s.sent.Store(0)
		s.mu.Unlock()
	}
	return err
}

// judge wants each flip to change the verdict once, if it comes into force before the next one. Where the one before it
// did not, what is in force when is anybody's guess.
func (s *stream) judge(t *testing.T, flips []flip) {
	unseen, late := 0, false
	for i, f := range flips {
		end := s.sent.Load()
		if i+1 < len(flips) {
			end = flips[i+1].at[s]
		}
		changed := false
		for n := f.at[s]; n < end; n++ {
			switch passed := s.seen[n]; {
			case passed == f.allowed:
				changed = true
			case changed && !late:
				t.Fatalf("to %s: flip %d to %t was in force, and then packet %d of %d to %d was judged otherwise", s.name, i, f.allowed, n, f.at[s], end)
			}
		}
		late = !changed
		if late && end > f.at[s] {
			unseen++
		}
	}
	t.Logf("to %s: of %d flips, %d were over before they came into force", s.name, len(flips), unseen)
	if unseen > len(flips)/2 {
		t.Errorf("to %s: %d of %d flips never came into force", s.name, unseen, len(flips))
	}
}
