package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/service"
	"github.com/polder-net/polder/internal/testnet"
)

// handoverRig is a client, the node that it asks, the node that the backend is on, and the backend: BPF_PROG_RUN has no
// tunnels.
type handoverRig struct {
	client, first, second, pod *testnet.NS
	dirs                       [2]*Datapath // of first and second
}

// ip runs the command of that name in a namespace, line by line.
func ip(t *testing.T, ns *testnet.NS, lines string) {
	t.Helper()
	ns.Do(func() {
		for line := range strings.Lines(lines) {
			if words := strings.Fields(line); len(words) > 0 {
				if out, err := exec.Command("ip", words...).CombinedOutput(); err != nil {
					t.Fatalf("ip %s: %v: %s", line, err, out)
				}
			}
		}
	})
}

func forward(t *testing.T, ns *testnet.NS) {
	t.Helper()
	ns.Do(func() {
		for name, value := range map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0"} {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
				t.Fatal(err)
			}
		}
	})
}

const vxlanDevice = `
link add vx type vxlan external dstport 4789
link set vx address 02:70:6f:6c:64:72 up
`

func newHandoverRig(t *testing.T) handoverRig {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs the command ip (iproute2)")
	}
	r := handoverRig{testnet.New(t), testnet.New(t), testnet.New(t), testnet.New(t), [2]*Datapath{openTCX(t), openTest(t)}}
	forward(t, r.first)
	forward(t, r.second)
	testnet.Pair(t, r.client, "up", r.first, "client")
	testnet.Pair(t, r.first, "fabric", r.second, "fabric")
	testnet.Pair(t, r.second, "pod", r.pod, "eth0")
	ip(t, r.client, "addr add 198.51.100.7/24 dev up\naddr add 2001:db8:ff::7/64 dev up nodad\nroute add default via 198.51.100.1\nroute add default via 2001:db8:ff::1")
	ip(t, r.first, "addr add 198.51.100.1/24 dev client\naddr add 2001:db8:ff::1/64 dev client nodad\naddr add 192.0.2.1/24 dev fabric"+vxlanDevice)
	ip(t, r.second, "addr add 192.0.2.3/24 dev fabric"+vxlanDevice)
	ip(t, r.pod, "addr add 10.0.1.3/24 dev eth0\naddr add fd00:1::3/64 dev eth0 nodad\nroute add default via 10.0.1.1\nroute add default via fd00:1::1")
	host, eth0 := macIn(t, r.second, "pod"), macIn(t, r.pod, "eth0")
	mac := fmt.Sprintf("%x:%x:%x:%x:%x:%x", host[0], host[1], host[2], host[3], host[4], host[5])
	ip(t, r.pod, "neigh replace 10.0.1.1 lladdr "+mac+" dev eth0\nneigh replace fd00:1::1 lladdr "+mac+" dev eth0")
	r.load(t, 0, nil, map[string]route.Remote{
		"10.0.1.0/24": {Kind: route.Tunnel}, "fd00:1::/64": {Kind: route.Tunnel}, "192.0.2.3/32": {Kind: route.Tunnel, Host: true}},
		map[string]desired.Program{"client": desired.FromNetwork, "fabric": desired.FromNetwork})
	var link int
	r.second.Do(func() { link = index(t, "pod") })
	pod := route.Endpoint{Index: link, PodMAC: eth0, HostMAC: host}
	r.load(t, 1, &pod, map[string]route.Remote{"192.0.2.1/32": {Kind: route.Tunnel, Host: true}},
		map[string]desired.Program{"pod": desired.FromPod, "fabric": desired.FromNetwork})
	return r
}

func macIn(t *testing.T, ns *testnet.NS, link string) (mac [6]byte) {
	t.Helper()
	ns.Do(func() {
		l, err := net.InterfaceByName(link)
		if err != nil {
			t.Fatal(err)
		}
		mac = [6]byte(l.HardwareAddr)
	})
	return mac
}

// load fills the maps of a node and attaches its programs.
func (r handoverRig) load(t *testing.T, node int, pod *route.Endpoint, remotes map[string]route.Remote, programs map[string]desired.Program) {
	t.Helper()
	ns, d, addr := []*testnet.NS{r.first, r.second}[node], r.dirs[node], []string{"192.0.2.1", "192.0.2.3"}
	w := servedWorld()
	w.Endpoints = map[netip.Addr]route.Endpoint{netip.MustParseAddr(addr[node]): {}}
	if pod != nil {
		w.Endpoints[netip.MustParseAddr("10.0.1.3")], w.Endpoints[netip.MustParseAddr("fd00:1::3")] = *pod, *pod
	} else {
		w.Config.PodCIDR4, w.Config.PodCIDR6 = netip.MustParsePrefix("10.0.9.0/24"), netip.MustParsePrefix("fd00:9::/64")
	}
	w.Remotes = map[netip.Prefix]route.Remote{}
	for p, row := range remotes {
		row.Node = netip.MustParseAddr(addr[1-node])
		w.Remotes[netip.MustParsePrefix(p)] = row
	}
	hooks := map[desired.Hook]int{}
	ns.Do(func() {
		w.Config.Tunnel = index(t, "vx")
		for link, p := range programs {
			hooks[desired.Hook{Link: link, Program: p}] = index(t, link)
		}
		hooks[desired.Hook{Link: "vx", Program: desired.FromTunnel}] = index(t, "vx")
		hooks[desired.Hook{Link: "vx", Program: desired.ToTunnel}] = index(t, "vx")
		if _, err := d.SyncMaps(w); err != nil {
			t.Fatal(err)
		}
		all := portMap{}
		for _, f := range families() {
			p, closed := f.port("far", "203.0.113.6:80", service.LoadBalancer, "10.0.1.3:8080"), f.port("closed", "203.0.113.6:81", service.LoadBalancer, "10.0.1.3:8081")
			all[p.Name], all[closed.Name] = p, closed
		}
		resync(t, d, all, time.Now())
		attachAll(t, d, hooks)
	})
}

func (r handoverRig) counters(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for i, d := range r.dirs {
		counters, err := d.Counters()
		if err != nil {
			t.Fatal(err)
		}
		for name, n := range counters {
			if n > 0 {
				fmt.Fprintf(&text, "node %d: %s: %d\n", i+1, name, n)
			}
		}
	}
	return text.String()
}

// The backend sees the client's own address, and the client hears from whom it asked; both ways through the tunnel.
func TestABackendOnAnotherNodeServesAClientOutside(t *testing.T) {
	r := newHandoverRig(t)
	for _, f := range families() {
		t.Run(f.String(), func(t *testing.T) {
			k := socketKind{f, false}
			var server, client int
			r.pod.Do(func() { server = k.listen(t, "10.0.1.3:8080") })
			r.client.Do(func() { client = k.socket(t) })
			for i := range 3 {
				if f.protocol == cluster.UDP {
					if err := unix.Sendto(client, []byte("hello"), 0, k.sockaddr(k.at("203.0.113.6:80"))); err != nil {
						t.Fatal(err)
					}
					b := make([]byte, 10)
					n, from, err := unix.Recvfrom(server, b, 0)
					if err != nil {
						t.Fatalf("backend: %v\n%s", err, r.counters(t))
					}
					if fromSockaddr(from).Addr() != f.addr("198.51.100.7") {
						t.Fatalf("the backend sees %v", fromSockaddr(from))
					}
					if err := unix.Sendto(server, b[:n], 0, from); err != nil {
						t.Fatal(err)
					}
					b = make([]byte, 10)
					if n, from, err = unix.Recvfrom(client, b, 0); err != nil || string(b[:n]) != "hello" || fromSockaddr(from) != f.at("203.0.113.6:80") {
						t.Fatalf("%q from %v, %v\n%s", b[:n], fromSockaddr(from), err, r.counters(t))
					}
					continue
				}
				if i > 0 {
					break
				}
				if err := unix.Connect(client, k.sockaddr(k.at("203.0.113.6:80"))); err != nil {
					t.Fatalf("%v\n%s", err, r.counters(t))
				}
				conn, from, err := unix.Accept(server)
				if err != nil || fromSockaddr(from).Addr() != f.addr("198.51.100.7") {
					t.Fatalf("the backend sees %v (%v)", fromSockaddr(from), err)
				}
				defer unix.Close(conn)
				transfer(t, client, conn)
				transfer(t, conn, client)
			}
			for i, d := range r.dirs {
				if n := len(entries(t, d.maps[bpfMapFlows])); n == 0 {
					t.Fatalf("node %d has settled no flow", i+1)
				}
			}
		})
	}
}

// transfer sends more than a packet may hold.
func transfer(t *testing.T, from, to int) {
	t.Helper()
	sent := []byte(strings.Repeat("0123456789", 5000))
	if n, err := unix.Write(from, sent); err != nil || n != len(sent) {
		t.Fatal(n, err)
	}
	b := make([]byte, len(sent))
	for n := 0; n < len(b); {
		got, err := unix.Read(to, b[n:])
		if err != nil || got == 0 {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		n += got
	}
	if string(b) != string(sent) {
		t.Fatal("what came is not what was sent")
	}
}

// A port that the backend has not: its ICMP error comes back to the client, through both nodes.
func TestABackendsErrorComesBackToAClientOutside(t *testing.T) {
	r := newHandoverRig(t)
	for _, f := range families() {
		t.Run(f.String(), func(t *testing.T) {
			k := socketKind{f, false}
			var client int
			r.client.Do(func() { client = k.socket(t) })
			err := unix.Connect(client, k.sockaddr(k.at("203.0.113.6:81")))
			if f.protocol == cluster.UDP && err == nil {
				if _, err = unix.Write(client, []byte("x")); err == nil {
					_, err = unix.Read(client, make([]byte, 10))
				}
			}
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatalf("%v\n%s", err, r.counters(t))
			}
		})
	}
}

// A frame with the tunnel's marks that no node sent is nobody's.
func TestNobodyButTheOtherNodeGivesBack(t *testing.T) {
	d := servedOf(t)
	f := family{true, cluster.TCP}
	for _, kind := range []byte{'h', 'b', 0} {
		p := f.packet("198.51.100.7:5", "203.0.113.6:80")
		p.from, p.to = [6]byte{6, kind}, [6]byte{2, 'p', 'o', 'l', 'd', 'r'}
		pass(t, d, desired.FromTunnel, p, "drop unknown tunnel peer")
	}
}

// notReady (TP_STATUS_CSUMNOTREADY) marks a frame whose checksum somebody has yet to write into it.
const notReady = 1 << 3

// A sender leaves a datagram's checksum to the hardware. In an ICMP error made out of it, it would go into the quote.
func TestARefusalLeavesNoChecksumToTheHardware(t *testing.T) {
	r := newHandoverRig(t)
	for _, ipv4 := range []bool{true, false} {
		f := family{ipv4, cluster.UDP}
		if err := r.dirs[0].SyncServices(portsOf(f.port("none", "203.0.113.6:82", service.LoadBalancer)), now()); err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{1, 10, 1000} {
			t.Run(fmt.Sprint(f, size), func(t *testing.T) {
				r.client.Do(func() {
					wire, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(encodePort(unix.ETH_P_ALL)))
					if err != nil {
						t.Fatal(err)
					}
					defer unix.Close(wire)
					tv := unix.NsecToTimeval((2 * time.Second).Nanoseconds())
					err = errors.Join(unix.SetsockoptInt(wire, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
						unix.SetsockoptTimeval(wire, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
					k := socketKind{f, false}
					client := k.socket(t)
					if err = errors.Join(err, unix.Connect(client, k.sockaddr(k.at("203.0.113.6:82")))); err != nil {
						t.Fatal(err)
					}
					if _, err := unix.Write(client, make([]byte, size)); err != nil {
						t.Fatal(err)
					}
					expectError(t, wire, f)
					if _, err := unix.Read(client, make([]byte, 10)); !errors.Is(err, unix.ECONNREFUSED) {
						t.Fatal(err)
					}
				})
			})
		}
	}
}

// expectError waits for the ICMP error on the wire.
func expectError(t *testing.T, wire int, f family) {
	t.Helper()
	for {
		b, oob := make([]byte, 2000), make([]byte, 200)
		n, oobn, _, _, err := unix.Recvmsg(wire, b, oob, 0)
		if err != nil {
			t.Fatal(err)
		}
		s, err := read(b[:n])
		if (s.proto != protoICMP && s.proto != protoICMP6) || s.src.Addr() != f.addr("203.0.113.6") {
			continue
		}
		messages, parsed := unix.ParseSocketControlMessage(oob[:oobn])
		if parsed != nil || len(messages) == 0 {
			t.Fatal(parsed)
		}
		if status := binary.NativeEndian.Uint32(messages[0].Data); err != nil || status&notReady != 0 {
			t.Fatalf("status %#x, %v", status, err)
		}
		return
	}
}
