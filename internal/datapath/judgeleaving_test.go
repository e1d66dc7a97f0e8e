package datapath

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/desired"
)

func askConntrack(w *desired.Tables) { w.Config.AskConntrack = true }

// track enters a flow into the kernel's table: who asks whom, and whom that came to and as whose.
func (c court) track(from, to, backend, as string) {
	c.t.Helper()
	if _, err := exec.LookPath("conntrack"); err != nil {
		c.t.Skip("needs the command conntrack (conntrack-tools)")
	}
	args := []string{"-I", "-p", strings.ToLower(c.f.protocol.String()), "-t", "600"}
	if c.f.protocol == protoTCP {
		args = append(args, "--state", "ESTABLISHED")
	}
	for name, at := range map[string]string{"--orig-src --orig-port-src": from, "--orig-dst --orig-port-dst": to,
		"--reply-src --reply-port-src": backend, "--reply-dst --reply-port-dst": as} {
		names, a := strings.Fields(name), c.f.at(at)
		args = append(args, names[0], a.Addr().String(), names[1], strings.TrimPrefix(a.String()[strings.LastIndex(a.String(), ":"):], ":"))
	}
	c.ns.Do(func() {
		if out, err := exec.Command("conntrack", args...).CombinedOutput(); err != nil {
			c.t.Fatalf("conntrack %s: %v: %s", strings.Join(args, " "), err, out)
		}
	})
}

// out sends a packet out by the uplink that has come in by a link.
func (c court) out(ingress int, from, to, want string, change ...func(*frame)) {
	c.t.Helper()
	c.expect(desired.ToNetwork, lo, ingress, c.f.packet(from, to, change...), want)
}

// Another proxy answers for the cluster IP: the rules are about the backend.
func TestAPodIsJudgedByTheBackendThatOthersChoose(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.2", closed, 200)
		c.row(200, 0, 0, all(7))
		c.row(200, 11, 0, only(8080)...)
		c.class("10.0.2.7", 11)
		c.pod("10.0.1.2:5", "10.96.0.1:80", "to stack")
		c.remembered(0, 0)
		c.out(c.a, "10.0.1.2:5", "10.96.0.1:80", toEgress) // untranslated, and no allowed peer's address

		c.track("10.0.1.2:5", "10.96.0.1:80", "10.0.2.7:8080", "10.0.1.2:5")
		c.out(c.a, "10.0.1.2:5", "10.0.2.7:8080", "")
		c.remembered(0, 1)
		c.net("10.0.2.7:8080", "10.0.1.2:5", "to pod", flags(tcpSYN|tcpACK))
		c.leave(lo, "10.96.0.1:80", "10.0.1.2:5", "", flags(tcpSYN|tcpACK))
		c.out(c.a, "10.0.1.2:5", "10.0.2.7:8080", "", flags(tcpACK))
		c.remembered(1, 0)
		c.out(c.a, "10.0.1.2:6", "10.0.2.8:8080", toEgress)

		c.row(200, 11, 0, all(1))
		c.out(c.a, "10.0.1.2:5", "10.0.2.7:8080", toEgress, flags(tcpACK))
		c.leave(lo, "10.96.0.1:80", "10.0.1.2:5", toEgress, flags(tcpACK))
	}, askConntrack)
}

func TestAMasqueradedPodIsJudgedByItsOwnAddress(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.2", closed, 200)
		c.row(200, 0, 0, only(80)...)
		for _, port := range []string{":80", ":81"} {
			want := map[bool]string{true: "", false: toEgress}[port == ":80"]
			c.pod("10.0.1.2:5", "198.51.100.7"+port, "to stack")
			c.track("10.0.1.2:5", "198.51.100.7"+port, "198.51.100.7"+port, "192.0.2.1:6")
			c.out(c.a, "192.0.2.1:6", "198.51.100.7"+port, want)
			c.leave(lo, "198.51.100.7"+port, "10.0.1.2:5", want, flags(tcpSYN|tcpACK))
		}
		c.leave(lo, "198.51.100.8:80", "10.0.1.2:5", toIngress, flags(tcpSYN|tcpACK))
		c.out(0, "192.0.2.1:7", "198.51.100.7:81", "") // the node's own
		c.out(lo+1, "10.0.2.7:7", "198.51.100.7:81", "")
		c.pod("10.0.1.3:5", "198.51.100.7:81", "to stack") // a pod that nobody isolates
		c.out(c.b, "10.0.1.3:5", "198.51.100.7:81", "")
	}, askConntrack)
}

func TestAClientOfANodePortIsJudgedByItsOwnAddress(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.3", 100, closed)
		c.row(100, 0, 0, all(7))
		c.row(100, 11, 0, only(8080)...)
		c.class("198.51.100.7", 11)
		for i, client := range []string{"198.51.100.7:5", "198.51.100.8:5"} {
			want := []string{"", toIngress}[i]
			as := []string{"192.0.2.1:6", "192.0.2.1:7"}[i]
			c.track(client, "192.0.2.1:30080", "10.0.1.3:8080", as)
			c.leave(lo, as, "10.0.1.3:8080", want)
			c.pod("10.0.1.3:8080", as, "to stack", flags(tcpSYN|tcpACK)) // to its own node
			c.out(c.b, "192.0.2.1:30080", client, want, flags(tcpSYN|tcpACK))
		}
	}, askConntrack)
}

func TestBothEndsAreJudgedBehindAnotherProxy(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.row(100, 0, 0, only(8080)...)
		c.track("10.0.1.2:5", "10.96.0.1:80", "10.0.1.3:8080", "10.0.1.2:5")
		for _, x := range []struct {
			egress, ingress uint64
			want            string
		}{{100, 100, ""}, {closed, 0, toEgress}, {100, closed, toIngress}, {0, closed, toIngress}, {0, 100, ""}} {
			c.isolate("10.0.1.2", 0, x.egress)
			c.isolate("10.0.1.3", x.ingress, 0)
			c.pod("10.0.1.2:5", "10.96.0.1:80", "to stack")
			c.leave(c.a, "10.0.1.2:5", "10.0.1.3:8080", x.want)
			if x.want == "" {
				c.pod("10.0.1.3:8080", "10.0.1.2:5", "to pod", flags(tcpSYN|tcpACK))
				c.leave(c.b, "10.96.0.1:80", "10.0.1.2:5", "", flags(tcpSYN|tcpACK))
			}
		}
	}, askConntrack)
}

// The kernel's table cannot be asked about these.
func TestWhatHasNoPortsIsJudgedWhereItComesFrom(t *testing.T) {
	inFamilies(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.2", closed, closed)
		c.expect(desired.FromPod, c.a, 0, c.ping("10.0.1.2", "198.51.100.7", false, 9), toEgress)
		c.pod("10.0.1.2:5", "10.0.2.7:80", toEgress) // a pod's address is nobody's to translate
	}, askConntrack)
}

func TestWhatTheTunnelCarriesIsJudgedToo(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.2", closed, 200)
		c.row(200, 0, 0, only(80)...)
		send := func(ingress int, to, want string) {
			t.Helper()
			for range 2 {
				c.expect(desired.ToTunnel, lo, ingress, c.f.packet("10.0.1.2:5", to), want)
			}
		}
		send(c.a, "10.0.3.7:80", "")
		send(c.a, "10.0.3.7:81", toEgress)
		send(0, "10.0.3.7:81", "")
	}, askConntrack)
}

func TestBehindAnotherPluginEverythingGoesOnThroughTheStack(t *testing.T) {
	others := func(w *desired.Tables) { w.Config.OthersPods = true }
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.2", 0, 200)
		c.row(200, 0, 0, only(80)...)
		bridge := func(fr *frame) { fr.from = strange } // some other device's
		c.pod("10.0.1.2:5", "10.0.1.3:80", "to stack", bridge)
		c.pod("10.0.1.2:5", "10.0.1.3:81", toEgress, bridge)
		c.pod("10.0.1.2:5", "10.0.2.7:80", "to stack")
		c.pod("10.0.1.3:5", "10.0.3.7:80", "to stack")
		c.net("10.0.2.7:5", "10.0.1.3:80", "to stack")
		c.isolate("10.0.1.3", closed, 0)
		c.net("10.0.2.7:6", "10.0.1.3:80", toIngress)
		c.expect(desired.FromPod, c.a, 0, c.f.packet("10.0.1.3:5", "10.0.2.7:80"), "drop spoofed source")
		c.expect(desired.FromPod, c.a, 0, frame{from: strange, to: hostMAC, ethertype: 0x806, l4: arp(1, strange, "10.0.1.2", "10.0.1.3")}, "to stack")
		for _, dst := range []string{"ff02::fb", "fe80::1"} {
			c.expect(desired.FromPod, c.a, 0, frame{from: strange, to: hostMAC, src: "fe80::2", dst: dst, proto: protoICMP6, l4: nd(135, "fd00:1::3")}, "to stack")
		}
		c.expect(desired.FromPod, c.a, 0, frame{from: strange, to: hostMAC, src: "10.0.1.2", dst: "224.0.0.251"}, "to stack")
	}, others)
}
