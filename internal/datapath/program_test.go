package datapath

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/testnet"
)

var (
	podMAC  = [6]byte{2, 0, 0, 0, 0, 1}
	hostMAC = [6]byte{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}
	peerMAC = [6]byte{2, 0, 0, 0, 0, 2}
	strange = [6]byte{2, 0, 0, 0, 0, 9}
)

// The loopback device stands for the links: a packet that a program is run on comes in by it.
const lo = 1

// openTest loads the datapath onto a bpf file system of the test's own.
func openTest(t testing.TB) *Datapath {
	t.Helper()
	testnet.RequireRoot(t)
	bpffs := t.TempDir()
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(bpffs, unix.MNT_DETACH) })
	return reopen(t, filepath.Join(bpffs, "polder"))
}

func reopen(t testing.TB, dir string) *Datapath {
	t.Helper()
	d, err := Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// world is one node of three: pods a and b here, node-2 on-link, node-3 behind the tunnel, a fabric elsewhere.
func world() desired.Tables {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	pod := route.Endpoint{Index: lo, PodMAC: podMAC, HostMAC: hostMAC}
	peer := route.Endpoint{Index: lo + 1, PodMAC: peerMAC, HostMAC: hostMAC}
	shaped := route.Endpoint{Index: lo + 2, PodMAC: peerMAC, HostMAC: hostMAC, Shaped: true}
	node2, node3, node4 := addr("192.0.2.2"), addr("192.0.2.3"), addr("192.0.2.4")
	native := route.Remote{Kind: route.Native, Node: node2, Via: node2, Index: lo}
	tunnel := route.Remote{Kind: route.Tunnel, Node: node3}
	host := func(r route.Remote) route.Remote { r.Host = true; return r }
	return desired.Tables{
		Config: desired.Config{HostCookie: 1, Tunnel: lo, PodCIDR4: prefix("10.0.1.0/24"), PodCIDR6: prefix("fd00:1::/64")},
		Endpoints: map[netip.Addr]route.Endpoint{
			addr("10.0.1.2"): pod, addr("fd00:1::2"): pod,
			addr("10.0.1.3"): peer, addr("fd00:1::3"): peer,
			addr("10.0.1.4"):  shaped,
			addr("192.0.2.1"): {}, addr("2001:db8::1"): {},
		},
		Remotes: map[netip.Prefix]route.Remote{
			prefix("10.0.2.0/24"): native, prefix("192.0.2.2/32"): host(native),
			prefix("fd00:2::/64"): {Kind: route.Native, Node: node2, Via: addr("2001:db8::2"), Index: lo},
			prefix("10.0.3.0/24"): tunnel, prefix("fd00:3::/64"): tunnel, prefix("192.0.2.3/32"): host(tunnel),
			prefix("10.0.4.0/24"): {Kind: route.Fabric, Node: node4},
		},
	}
}

func worldOf(t testing.TB) *Datapath {
	t.Helper()
	d := openTest(t)
	if _, err := d.SyncMaps(world()); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestWhatBecomesOfAPodsPacket(t *testing.T) {
	d := worldOf(t)
	ok4 := frame{from: podMAC, to: hostMAC, src: "10.0.1.2", dst: "10.0.1.3"}
	ok6 := frame{from: podMAC, to: hostMAC, src: "fd00:1::2", dst: "fd00:1::3"}
	with := func(f frame, change func(*frame)) frame { change(&f); return f }
	to := func(f frame, dst string) frame { f.dst = dst; return f }
	from := func(f frame, src string) frame { f.src = src; return f }
	ra := with(ok6, func(f *frame) { f.proto, f.l4, f.src, f.dst = protoICMP6, icmp(134), "fe80::2", "ff02::1" })
	for _, c := range []struct {
		name  string
		frame frame
		want  string
	}{
		{"to a pod of this node", ok4, "to pod"},
		{"to a pod of this node, IPv6", ok6, "to pod"},
		{"to a pod of a node on-link", to(ok4, "10.0.2.7"), "to native"},
		{"to a pod of a node on-link, IPv6", to(ok6, "fd00:2::7"), "to native"},
		{"to a node on-link", to(ok4, "192.0.2.2"), "to native"},
		{"to a pod behind the tunnel", to(ok4, "10.0.3.7"), "to tunnel"},
		{"to a pod behind the tunnel, IPv6 over IPv4", to(ok6, "fd00:3::7"), "to tunnel"},
		{"to a node behind the tunnel", to(ok4, "192.0.2.3"), "to tunnel"},
		{"to a pod in a fabric without a route here", to(ok4, "10.0.4.7"), "to stack"},
		{"to its own node", to(ok4, "192.0.2.1"), "to stack"},
		{"to its own node, IPv6", to(ok6, "2001:db8::1"), "to stack"},
		{"to the world", to(ok4, "198.51.100.1"), "to stack"},
		{"to a pod of this node that is gone", to(ok4, "10.0.1.99"), "to stack"},
		{"to a cloud's metadata service", to(ok4, "169.254.169.254"), "to stack"},
		{"about to expire", with(ok4, func(f *frame) { f.ttl = 1 }), "to stack"},
		{"about to expire, IPv6", with(ok6, func(f *frame) { f.ttl = 1 }), "to stack"},
		{"first fragment", with(ok4, func(f *frame) { f.fragment = 0x2000 }), "to stack"},
		{"later fragment", with(ok4, func(f *frame) { f.fragment = 100 }), "to stack"},
		{"do not fragment is no fragment", with(ok4, func(f *frame) { f.fragment = 0x4000 }), "to pod"},
		{"fragment, IPv6", with(ok6, func(f *frame) { f.extension, f.firstNext = extension(protoUDP), 44 }), "to stack"},
		{"options", with(ok4, func(f *frame) { f.options = true }), "to stack"},
		{"extension header", with(ok6, func(f *frame) { f.extension, f.firstNext = extension(protoUDP), 60 }), "to stack"},
		{"SCTP", with(ok4, func(f *frame) { f.proto = protoSCTP }), "to stack"},
		{"an unknown protocol", with(ok4, func(f *frame) { f.proto = 253 }), "to pod"},
		{"ping", with(ok4, func(f *frame) { f.proto, f.l4 = protoICMP, icmp(8) }), "to pod"},
		{"an error about a flow nobody translates", with(ok4, func(f *frame) { f.proto, f.l4 = protoICMP, icmp(3) }), "to pod"},
		{"to a pod with shaped bandwidth", to(ok4, "10.0.1.4"), "to stack"},

		{"from another pod's address", from(ok4, "10.0.1.3"), "drop spoofed source"},
		{"from another pod's address, IPv6", from(ok6, "fd00:1::3"), "drop spoofed source"},
		{"from the node's address", from(ok4, "192.0.2.1"), "drop spoofed source"},
		{"from an outside address", from(ok4, "198.51.100.1"), "drop spoofed source"},
		{"from loopback", from(ok4, "127.0.0.1"), "drop spoofed source"},
		{"from nobody", from(ok4, "0.0.0.0"), "drop spoofed source"},
		{"from nobody, IPv6", from(ok6, "::"), "drop spoofed source"},
		{"from a group", from(ok4, "224.0.0.1"), "drop spoofed source"},
		{"from a link-local address", from(ok6, "fe80::2"), "drop spoofed source"},
		{"from another MAC address", with(ok4, func(f *frame) { f.from = strange }), "drop spoofed mac"},
		{"from another MAC address, IPv6", with(ok6, func(f *frame) { f.from = strange }), "drop spoofed mac"},
		{"to a group", to(ok4, "224.0.0.251"), "drop multicast"},
		{"to everybody", to(ok4, "255.255.255.255"), "drop multicast"},
		{"to a group, IPv6", to(ok6, "ff02::fb"), "drop multicast"},
		{"a multicast report", from(to(ok6, "ff02::16"), "fe80::2"), "drop multicast"},
		{"to loopback", to(ok4, "127.0.0.1"), "drop bad destination"},
		{"to loopback, IPv6", to(ok6, "::1"), "drop bad destination"},
		{"to a link-local address", to(ok6, "fe80::9"), "drop bad destination"},
		{"into the tunnel, by its own node", with(to(ok4, "192.0.2.1"), func(f *frame) { f.l4 = ports(5, 4789) }), "drop tunnel injection"},
		{"into the tunnel, by another node", with(to(ok4, "192.0.2.2"), func(f *frame) { f.l4 = ports(5, 4789) }), "drop tunnel injection"},
		{"the tunnel's port of a pod", with(ok4, func(f *frame) { f.l4 = ports(5, 4789) }), "to pod"},
		{"an IPv4-mapped address on the wire", from(ok6, "::ffff:10.0.1.2"), "drop malformed"},

		{"ARP for its gateway", frame{from: podMAC, to: hostMAC, ethertype: 0x806, l4: arp(1, podMAC, "10.0.1.2", "169.254.1.1")}, "to sender"},
		{"ARP for another's address", frame{from: podMAC, to: hostMAC, ethertype: 0x806, l4: arp(1, podMAC, "10.0.1.2", "10.0.1.3")}, "to sender"},
		{"ARP answer about itself", frame{from: podMAC, to: hostMAC, ethertype: 0x806, l4: arp(2, podMAC, "10.0.1.2", "192.0.2.1")}, "to stack"},
		{"gratuitous ARP", frame{from: podMAC, to: hostMAC, ethertype: 0x806, l4: arp(1, podMAC, "10.0.1.2", "10.0.1.2")}, "drop spoofed neighbour"},
		{"ARP answer about another", frame{from: podMAC, to: hostMAC, ethertype: 0x806, l4: arp(2, podMAC, "10.0.1.3", "192.0.2.1")}, "drop spoofed neighbour"},
		{"ARP with another MAC address in it", frame{from: podMAC, to: hostMAC, ethertype: 0x806, l4: arp(1, strange, "10.0.1.2", "169.254.1.1")}, "drop spoofed neighbour"},
		{"truncated ARP", frame{from: podMAC, to: hostMAC, ethertype: 0x806, l4: make([]byte, 9)}, "drop malformed"},
		{"neither IP nor ARP", frame{from: podMAC, to: hostMAC, ethertype: 0x88cc, l4: make([]byte, 50)}, "drop not ip"},

		{"router advertisement", ra, "drop router advertisement"},
		{"router advertisement from its own address", from(ra, "fd00:1::2"), "drop router advertisement"},
		{"router advertisement behind extension headers", with(ra, func(f *frame) {
			f.extension, f.firstNext = slices.Concat(extension(60), extension(protoICMP6)), 0
		}), "drop router advertisement"},
		{"redirect", with(ra, func(f *frame) { f.l4 = icmp(137) }), "drop router advertisement"},
		{"router solicitation", with(ra, func(f *frame) { f.l4 = icmp(133) }), "drop multicast"},
		{"solicitation of its gateway", with(ra, func(f *frame) { f.l4, f.dst = nd(135, "fe80::1"), "ff02::1:ff00:1" }), "to stack"},
		{"solicitation of its own address", with(ra, func(f *frame) { f.l4, f.src = nd(135, "fe80::2"), "::" }), "to stack"},
		{"solicitation from another's address", with(ra, func(f *frame) { f.l4, f.src = nd(135, "fe80::1"), "fd00:1::3" }), "drop spoofed source"},
		{"advertisement of itself", with(ra, func(f *frame) { f.l4, f.src = nd(136, "fd00:1::2"), "fd00:1::2" }), "to stack"},
		{"advertisement of its link-local address", with(ra, func(f *frame) { f.l4 = nd(136, "fe80::2") }), "to stack"},
		{"advertisement of another pod", with(ra, func(f *frame) { f.l4, f.src = nd(136, "fd00:1::3"), "fd00:1::2" }), "drop spoofed neighbour"},
		{"advertisement of the gateway", with(ra, func(f *frame) { f.l4, f.src = nd(136, "fe80::1"), "fe80::1" }), "drop spoofed neighbour"},
		{"advertisement of a node", with(ra, func(f *frame) { f.l4, f.src = nd(136, "2001:db8::1"), "fd00:1::2" }), "drop spoofed neighbour"},
		{"more extension headers than anybody needs", with(ok6, func(f *frame) {
			f.extension, f.firstNext = bytes.Repeat(extension(60), 9), 60
		}), "drop malformed"},
	} {
		t.Run(c.name, func(t *testing.T) { expect(t, d, desired.FromPod, c.frame, c.want) })
	}
}

func TestWhatBecomesOfAPacketFromTheNetwork(t *testing.T) {
	d := worldOf(t)
	node := frame{from: strange, to: hostMAC, src: "10.0.2.7", dst: "10.0.1.2"}
	for _, c := range []struct {
		name, src, dst, want string
	}{
		{"from a pod of another node", "10.0.2.7", "10.0.1.2", "to pod"},
		{"from another node", "192.0.2.2", "10.0.1.2", "to pod"},
		{"from a pod of another node, IPv6", "fd00:2::7", "fd00:1::2", "to pod"},
		{"from outside the cluster", "198.51.100.1", "10.0.1.2", "to stack"},
		{"to the node itself", "10.0.2.7", "192.0.2.1", "to stack"},
		{"to a pod that is gone", "10.0.2.7", "10.0.1.99", "to stack"},
		{"to a pod with shaped bandwidth", "10.0.2.7", "10.0.1.4", "to stack"},
		{"pretending to be a pod of this node", "10.0.1.3", "10.0.1.2", "drop spoofed source"},
		{"pretending to be a pod of this node, IPv6", "fd00:1::3", "fd00:1::2", "drop spoofed source"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := node
			f.src, f.dst = c.src, c.dst
			expect(t, d, desired.FromNetwork, f, c.want)
		})
	}
}

func TestAFrameInTheTunnelNeedsAnOuterPacketFromANode(t *testing.T) {
	d := worldOf(t)
	expect(t, d, desired.FromTunnel, frame{from: strange, to: hostMAC, src: "10.0.3.7", dst: "10.0.1.2"}, "drop unknown tunnel peer")
}

func TestRoutingTakesOneHopAndKeepsTheChecksum(t *testing.T) {
	d := worldOf(t)
	for ttl := 2; ttl < 256; ttl++ {
		v := expect(t, d, desired.FromPod, frame{from: podMAC, to: hostMAC, src: "10.0.1.2", dst: "10.0.1.3", ttl: byte(ttl)}, "to pod")
		if got := v.Packet[14+8]; got != byte(ttl-1) {
			t.Fatalf("TTL %d became %d", ttl, got)
		}
		if sum := checksum(v.Packet[14:34]); sum != 0 {
			t.Fatalf("TTL %d: header checksum is wrong by %#x", ttl, sum)
		}
		if !bytes.Equal(v.Packet[:6], peerMAC[:]) || !bytes.Equal(v.Packet[6:12], hostMAC[:]) {
			t.Fatalf("MAC addresses are % x", v.Packet[:12])
		}
	}
	v := expect(t, d, desired.FromPod, frame{from: podMAC, to: hostMAC, src: "fd00:1::2", dst: "fd00:1::3", ttl: 9}, "to pod")
	if got := v.Packet[14+7]; got != 8 {
		t.Fatalf("hop limit 9 became %d", got)
	}
}

func TestAnARPAnswerNamesTheHostsEnd(t *testing.T) {
	d := worldOf(t)
	v := expect(t, d, desired.FromPod, frame{from: podMAC, to: hostMAC, ethertype: 0x806, l4: arp(1, podMAC, "10.0.1.2", "169.254.1.1")}, "to sender")
	want := frame{from: hostMAC, to: podMAC, ethertype: 0x806, l4: arp(2, hostMAC, "169.254.1.1", "10.0.1.2")}.bytes()
	copy(want[32:38], podMAC[:]) // target
	if !bytes.Equal(v.Packet, want) {
		t.Fatalf("got  % x\nwant % x", v.Packet, want)
	}
}

// No prefix of a packet may be taken for a whole one of somebody else's.
func TestATruncatedPacketNeverPassesTheGuard(t *testing.T) {
	d := worldOf(t)
	spoofed := frame{from: podMAC, to: hostMAC, src: "10.0.1.3", dst: "10.0.2.7"}.bytes()
	spoofed6 := frame{from: podMAC, to: hostMAC, src: "fd00:1::3", dst: "fd00:2::7"}.bytes()
	for _, whole := range [][]byte{spoofed, spoofed6} {
		for n := 14; n < len(whole); n++ {
			v, err := d.Run(desired.FromPod, lo, whole[:n])
			if err != nil {
				continue // the kernel refuses to run so short a frame
			}
			if !strings.HasPrefix(v.Outcome, "drop") {
				t.Fatalf("%d bytes: %s", n, v.Outcome)
			}
		}
	}
}

// Random frames are compared with the rule in words: what passes has the pod's own source and MAC address.
func TestNoRandomFrameFromAPodPassesWithAnotherSource(t *testing.T) {
	d := worldOf(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	addrs := []string{"10.0.1.2", "10.0.1.3", "10.0.2.7", "10.0.3.7", "192.0.2.1", "192.0.2.2", "127.0.0.1", "224.0.0.1", "198.51.100.1"}
	for range 4000 {
		f := frame{from: podMAC, to: hostMAC, src: addrs[r.IntN(len(addrs))], dst: addrs[r.IntN(len(addrs))],
			proto: byte(r.IntN(256)), ttl: byte(1 + r.IntN(255)), fragment: uint16(r.IntN(3)) << 12, options: r.IntN(4) == 0}
		if r.IntN(8) == 0 {
			f.from = strange
		}
		b := f.bytes()
		for range r.IntN(3) {
			b[34+r.IntN(len(b)-34)] ^= byte(r.IntN(256))
		}
		v, err := d.Run(desired.FromPod, lo, b)
		if err != nil {
			t.Fatal(err)
		}
		honest := f.src == "10.0.1.2" && f.from == podMAC
		if !honest && !strings.HasPrefix(v.Outcome, "drop") {
			t.Fatalf("%+v: %s", f, v.Outcome)
		}
	}
}

func expect(t *testing.T, d *Datapath, p desired.Program, f frame, want string) Verdict {
	t.Helper()
	v, err := d.Run(p, lo, f.bytes())
	if err != nil {
		t.Fatal(err)
	}
	if v.Outcome != want {
		t.Errorf("%s, want %s", v.Outcome, want)
	}
	return v
}
