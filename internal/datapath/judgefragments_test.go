package datapath

import (
	"testing"

	"github.com/polder-net/polder/internal/desired"
)

func TestFragmentsAreJudgedByThePortsOfTheFirst(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		c.isolate("10.0.1.3", 100, 0)
		c.row(100, 0, 0, only(80)...)
		send := func(to, want string, parts ...frame) {
			t.Helper()
			for _, p := range parts {
				c.expect(desired.FromPod, c.a, 0, p, want)
			}
		}
		send("", "drop fragment", c.f.parts("10.0.1.2:5", "10.0.1.3:80", 1)[1])
		send("", "to stack", c.f.parts("10.0.1.2:5", "10.0.1.3:80", 1)...)
		send("", toIngress, c.f.parts("10.0.1.2:5", "10.0.1.3:81", 2)...)
		send("", "to stack", c.f.parts("10.0.1.2:5", "10.0.1.4:81", 3)[1]) // nobody is isolated
	})
}

// A fragment header may come before other extension headers (RFC 8200, 4.1), which must not hide a port from a rule.
func TestAFragmentHidesNoPortBehindExtensionHeaders(t *testing.T) {
	c := newCourt(t, openTest(t))
	c.f = families()[2]
	c.reset()
	c.isolate("10.0.1.2", 0, 100)
	c.row(100, 0, 0, all(letPass))
	c.row(100, 0, protoTCP, span(0, 21, letPass), span(22, 22, 0), span(23, 65535, letPass))
	for _, next := range []byte{0, 43, 44, 60} {
		p := c.f.packet("10.0.1.2:5", "10.0.1.3:22")
		p.extension, p.firstNext = append([]byte{next, 0, 0, 0, 0, 0, 0, next}, extension(protoTCP)...), 44
		c.expect(desired.FromPod, c.a, 0, p, "drop fragment")
	}
}

// What is in fragments of protocols without ports is not taken for some.
func TestFragmentsOfProtocolsWithoutPortsAreOfTheFlowOfWholePackets(t *testing.T) {
	inCourt(t, func(t *testing.T, c court) {
		const gre = 47
		c.isolate("10.0.1.2", 100, 101)
		c.row(101, 0, gre, all(letPass))
		asGRE := func(f *frame) { f.proto = gre }
		c.expect(desired.FromPod, c.a, 0, c.f.packet("10.0.1.2:5", "10.0.1.3:6", asGRE), "to pod")
		for i, p := range c.f.parts("10.0.1.3:6", "10.0.1.2:5", 7) {
			if p.proto = gre; !c.f.ipv4 {
				p.extension[0] = gre
			}
			if c.expect(desired.FromPod, c.b, 0, p, "to stack"); t.Failed() {
				t.Fatalf("fragment %d", i)
			}
		}
	})
}
