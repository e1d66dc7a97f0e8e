package datapath

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
)

// inServedCourt is inCourt with Services.
func inServedCourt(t *testing.T, test func(*testing.T, court)) {
	inCourt(t, func(t *testing.T, c court) {
		resync(t, c.Datapath, c.f.ports(), now())
		for _, m := range []string{bpfMapFlows, bpfMapOpening} {
			empty(t, c.maps[m])
		}
		test(t, c)
	}, func(w *desired.Tables) { w.Config.Services = true })
}

func TestAClientOfAServiceIsJudgedByTheBackend(t *testing.T) {
	inServedCourt(t, func(t *testing.T, c court) {
		for _, x := range []struct {
			frontend, backend, there, back string
			in                             func(string, string, string, ...func(*frame))
		}{
			{"10.96.0.1:80", "10.0.1.3:8080", "to pod", "to pod", c.pod},
			{"10.96.0.2:80", "10.0.2.7:8080", "to native", "to pod", c.net},
			{"10.96.0.4:80", "198.51.100.9:8080", "to stack", "to pod", c.net},
		} {
			c.reset(func(w *desired.Tables) { w.Config.Services = true })
			c.isolate("10.0.1.2", closed, 200)
			c.isolate("10.0.1.3", 200, closed)
			c.row(200, 0, 0, only(8080)...)
			c.pod("10.0.1.2:5", x.frontend, x.there)
			c.remembered(0, 1)
			x.in(x.backend, "10.0.1.2:5", x.back, flags(tcpSYN|tcpACK))
			c.pod("10.0.1.2:5", x.frontend, x.there, flags(tcpACK))
			x.in(x.backend, "10.0.1.2:5", x.back, flags(tcpACK))
			c.remembered(1, 0)
			c.row(200, 0, 0, only(80)...) // the frontend's port is not the backend's
			c.pod("10.0.1.2:5", x.frontend, toEgress, flags(tcpACK))
			x.in(x.backend, "10.0.1.2:5", toEgress, flags(tcpACK))
		}
	})
}

func TestAClientOutsideIsJudgedByItsAddressAndTheBackendsPort(t *testing.T) {
	inServedCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.3", 100, closed)
		c.row(100, 0, 0, all(7))
		c.row(100, 11, 0, only(8080)...)
		c.block("198.51.100.0", 24, 64, 11)
		c.net("198.51.100.7:5", "203.0.113.1:80", "to pod")
		c.pod("10.0.1.3:8080", "198.51.100.7:5", "to stack", flags(tcpSYN|tcpACK))
		c.net("192.0.2.2:5", "203.0.113.1:80", toIngress)
		c.pod("10.0.1.3:8080", "192.0.2.2:5", toEgress, flags(tcpSYN|tcpACK))
	})
}

func TestAPodThatIsItsOwnBackendIsServed(t *testing.T) {
	inServedCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.2", closed, closed)
		c.pod("10.0.1.2:5", "10.96.0.5:80", "to pod")
		c.pod("10.0.1.2:8080", "10.96.0.5:5", "to pod", flags(tcpSYN|tcpACK))
	})
}

func TestAnAnswerThroughTheStackIsJudgedBeforeItIsTranslated(t *testing.T) {
	inServedCourt(t, func(t *testing.T, c court) {
		last := func(fr *frame) { fr.ttl = 1 }
		c.isolate("10.0.1.2", closed, 200)
		c.isolate("10.0.1.3", 200, closed)
		c.row(200, 0, 0, only(8080)...)
		c.pod("10.0.1.2:5", "10.96.0.1:80", "to stack", last)
		c.leave(c.a, "10.0.1.2:5", "10.0.1.3:8080", "")
		c.pod("10.0.1.3:8080", "10.0.1.2:5", "to stack", last, flags(tcpSYN|tcpACK))
		c.leave(c.b, "10.0.1.3:8080", "10.0.1.2:5", "", flags(tcpSYN|tcpACK))
		c.leave(c.b, "10.0.1.3:8080", "10.0.1.2:6", toEgress, flags(tcpACK))
	})
}

func TestAnErrorAboutAServicesFlowPasses(t *testing.T) {
	inServedCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.2", closed, 200)
		c.isolate("10.0.1.3", 200, closed)
		c.row(200, 0, 0, only(8080)...)
		c.pod("10.0.1.2:5", "10.96.0.1:80", "to pod")
		c.expect(desired.FromPod, c.b, 0, c.f.about("10.0.1.3", "10.0.1.2:5", "10.0.1.3:8080", 8), "to pod")
		c.expect(desired.FromPod, c.a, 0, c.f.about("10.0.1.2", "10.96.0.1:80", "10.0.1.2:5", 8), "to pod")
		c.expect(desired.FromNetwork, lo, 0, c.f.about("192.0.2.2", "10.0.1.2:5", "10.0.1.3:8080", 8), "to pod")
		empty(c.t, c.maps[bpfMapJudgedOpening]) // it was not let pass
		c.expect(desired.FromNetwork, lo, 0, c.f.about("192.0.2.2", "10.0.1.2:5", "10.0.1.3:8080", 8), toIngress)
	})
}

// A packet that another node hands over is judged by who sent it.
func TestABackendOnAnotherNodeIsJudgedThere(t *testing.T) {
	r := newHandoverRig(t)
	for _, ipv4 := range []bool{true, false} {
		f := family{ipv4, cluster.UDP}
		t.Run(f.String(), func(t *testing.T) {
			c, k := court{Datapath: r.dirs[1], t: t, f: f}, socketKind{f, false}
			var config bpfConfig
			if err := c.maps[bpfMapConfiguration].Lookup(uint32(0), &config); err != nil {
				t.Fatal(err)
			}
			config.Policies = 1
			c.put(bpfMapConfiguration, uint32(0), config)
			c.isolate("10.0.1.3", 100, closed)
			c.row(100, 0, 0, all(7))
			c.row(100, 11, 0, only(8080)...)
			var server, client int
			r.pod.Do(func() { server = k.listen(t, "10.0.1.3:8080") })
			r.client.Do(func() { client = k.socket(t) })
			send := func(text string) {
				t.Helper()
				if err := unix.Sendto(client, []byte(text), 0, k.sockaddr(k.at("203.0.113.6:80"))); err != nil {
					t.Fatal(err)
				}
			}
			before, _ := c.Counters()
			send("no")
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				if after, _ := c.Counters(); after[toIngress] > before[toIngress] {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("nobody denied it\n%s", r.counters(t))
				}
			}
			c.class("198.51.100.7", 11)
			send("yes")
			b := make([]byte, 10)
			n, from, err := unix.Recvfrom(server, b, 0)
			if err != nil || string(b[:n]) != "yes" {
				t.Fatalf("%q, %v\n%s", b[:n], err, r.counters(t))
			}
			if err := unix.Sendto(server, b[:n], 0, from); err != nil {
				t.Fatal(err)
			}
			if n, _, err = unix.Recvfrom(client, b, 0); err != nil || string(b[:n]) != "yes" {
				t.Fatalf("%q, %v\n%s", b[:n], err, r.counters(t))
			}
		})
	}
}
