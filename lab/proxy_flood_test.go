package lab_test

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/traffic"
	"github.com/polder-net/polder/lab"
)

// flood is how many first packets of connections there are in a flood, of each family: together more than there is room
// for flows that have just begun.
const flood = 20_000

// TestAFloodOfFirstPacketsDisturbsNobodyWhoIsThere floods a node port with SYN packets of random sources, for backends of
// this node and of others.
func TestAFloodOfFirstPacketsDisturbsNobodyWhoIsThere(t *testing.T) {
	for _, name := range []string{"sockets", "packets alone"} {
		t.Run(name, func(t *testing.T) {
			w := worldOf(t, lab.Options{AgentEnv: ways()[name]})
			paths := w.servicePaths(t)
			run, err := traffic.Start(paths, traffic.Control(t), traffic.Load{Flows: 2, Every: 20 * time.Millisecond, Datagrams: 20})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { run.Stop() })
			time.Sleep(time.Second) // the flows are no beginners
			before := reportOf(t, w.near).Counters
			w.flood(t)
			time.Sleep(time.Second)
			report, err := run.Stop()
			if err != nil {
				t.Fatal(err)
			}
			t.Log(report)
			for i := range report.Paths { // one whose answer was under way may have had no place yet
				p := &report.Paths[i]
				p.LostDatagrams -= min(p.LostDatagrams, 1)
				p.LostAnswers -= min(p.LostAnswers, 1)
			}
			judge(t, report)
			for outcome, n := range reportOf(t, w.near).Counters {
				if n > before[outcome] {
					t.Logf("%s: %d", outcome, n-before[outcome])
				}
			}
			w.recovers(t, paths)
		})
	}
}

// flood sends from the switch that the first node is at.
func (w *world) flood(t *testing.T) {
	t.Helper()
	var ports []uint16 // of all backends
	services, err := w.Services()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range services {
		for _, p := range s.Ports {
			if p.Protocol == "TCP" && p.NodePort != 0 {
				ports = append(ports, p.NodePort)
			}
		}
	}
	out := openRaw(t, w.Fabric(), "rack-0")
	to := openRaw(t, w.near.Place, "eth0").mac()
	for i := range flood {
		for _, dst := range w.near.Cluster().Addresses {
			src := netip.AddrFrom4([4]byte{198, 18, byte(rand.Uint32()), byte(rand.Uint32())})
			if dst.Is6() {
				var a [16]byte
				copy(a[:], []byte{0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff})
				binary.BigEndian.PutUint64(a[8:], rand.Uint64())
				src = netip.AddrFrom16(a)
			}
			out.send(t, ipFrame(to, out.mac(), ip(src, dst, protoTCP, header{}, syn(src, dst, ports[i%len(ports)]))))
		}
	}
}

// syn is the first packet of a connection, from a random port.
func syn(src, dst netip.Addr, port uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, uint16(1024+rand.IntN(60000)))
	binary.BigEndian.PutUint16(b[2:], port)
	binary.BigEndian.PutUint32(b[4:], rand.Uint32())
	b[12], b[13] = 5<<4, 2
	binary.BigEndian.PutUint16(b[14:], 64240)
	binary.BigEndian.PutUint16(b[16:], ^sum(pseudo(src, dst, protoTCP, len(b)), b))
	return b
}

// recovers wants new connections to be made when the flood is over.
func (w *world) recovers(t *testing.T, paths []traffic.Path) {
	t.Helper()
	run, err := traffic.Start(paths, traffic.Control(t), traffic.Load{Connects: 5})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	report, err := run.Stop()
	if err != nil {
		t.Fatal(err)
	}
	judge(t, report)
}
