package datapath

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/service"
)

// sumUp (BPF_F_TEST_SKB_CHECKSUM_COMPLETE, Linux 6.17) runs a program on a packet that a network card has summed up, and
// fails when the sum is wrong afterwards.
const sumUp = 1 << 2

// family maps the addresses of the tests, which are IPv4, to those of the other family.
type family struct {
	ipv4     bool
	protocol cluster.Protocol
}

func families() []family {
	return []family{{true, cluster.TCP}, {true, cluster.UDP}, {false, cluster.TCP}, {false, cluster.UDP}}
}

func (f family) String() string {
	if f.ipv4 {
		return "IPv4 " + f.protocol.String()
	}
	return "IPv6 " + f.protocol.String()
}

func (f family) addr(ipv4 string) netip.Addr {
	if f.ipv4 {
		return netip.MustParseAddr(ipv4)
	}
	for from, to := range map[string]string{"10.96.0.": "fd00:96::", "10.96.1.": "fd00:96::1:", "10.0.1.": "fd00:1::", "10.0.2.": "fd00:2::", "10.0.3.": "fd00:3::",
		"203.0.113.": "2001:db8:f::", "192.0.2.": "2001:db8::", "198.51.100.": "2001:db8:ff::", "0.0.0.": "::"} {
		if rest, ok := strings.CutPrefix(ipv4, from); ok {
			if rest == "0" {
				rest = ""
			}
			return netip.MustParseAddr(to + rest)
		}
	}
	panic(ipv4)
}

func (f family) at(ipv4 string) netip.AddrPort {
	host, port, _ := strings.Cut(ipv4, ":")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		panic(err)
	}
	return netip.AddrPortFrom(f.addr(host), uint16(n))
}

// port is a port of a Service with one frontend.
func (f family) port(name, frontend string, kind service.Kind, backends ...string) *service.Port {
	at := f.at(frontend)
	p := &service.Port{Name: service.PortName{ServiceName: cluster.ServiceName{Namespace: "ns", Name: name}, Protocol: f.protocol, IPv4: f.ipv4},
		Frontends: map[service.Frontend]service.Kind{{Addr: at.Addr(), Port: at.Port(), Protocol: f.protocol}: kind}}
	for _, b := range backends {
		p.Cluster = append(p.Cluster, service.Backend{Addr: f.at(b).Addr(), Port: f.at(b).Port()})
	}
	return p
}

// ports are one Service for every sentence about packets.
func (f family) ports() map[service.PortName]*service.Port {
	all := map[service.PortName]*service.Port{}
	add := func(p *service.Port, change ...func(*service.Port)) {
		for _, c := range change {
			c(p)
		}
		all[p.Name] = p
	}
	internalLocal := func(p *service.Port) { p.InternalLocal = true }
	externalLocal := func(p *service.Port) { p.ExternalLocal = true }
	here := func(p *service.Port) { p.Local = p.Cluster }
	ranges := func(p *service.Port) {
		p.SourceRanges = []netip.Prefix{netip.PrefixFrom(f.addr("198.51.100.0"), f.addr("198.51.100.0").BitLen()-8)}
	}
	sticky := func(p *service.Port) { p.Affinity = 10800 }
	add(f.port("local", "10.96.0.1:80", service.ClusterIP, "10.0.1.3:8080"))
	add(f.port("native", "10.96.0.2:80", service.ClusterIP, "10.0.2.7:8080"))
	add(f.port("tunnel", "10.96.0.3:80", service.ClusterIP, "10.0.3.7:8080"))
	add(f.port("world", "10.96.0.4:80", service.ClusterIP, "198.51.100.9:8080"))
	add(f.port("hairpin", "10.96.0.5:80", service.ClusterIP, "10.0.1.2:8080"))
	add(f.port("none", "10.96.0.6:80", service.ClusterIP))
	add(f.port("inside-local", "10.96.0.7:80", service.ClusterIP, "10.0.2.7:8080"), internalLocal)
	add(f.port("inside-local-here", "10.96.0.8:80", service.ClusterIP, "10.0.1.3:8080"), internalLocal, here)
	add(f.port("sticky", "10.96.0.9:80", service.ClusterIP, many("10.0.2.%d:8080", 50)...), sticky)
	add(f.port("twin", "10.96.0.10:80", service.ClusterIP, "10.0.1.3:8080"))
	add(f.port("shaped", "10.96.0.11:80", service.ClusterIP, "10.0.1.4:8080"))
	add(f.port("many", "10.96.0.12:80", service.ClusterIP, many("10.0.2.%d:8080", 50)...))
	add(f.port("node", "0.0.0.0:30080", service.NodePort, "10.0.1.3:8080"))
	add(f.port("node-none", "0.0.0.0:30081", service.NodePort))
	add(f.port("node-local", "0.0.0.0:30082", service.NodePort, "10.0.2.7:8080"), externalLocal)
	add(f.port("node-local-here", "0.0.0.0:30083", service.NodePort, "10.0.1.3:8080"), externalLocal, here)
	add(f.port("lb", "203.0.113.1:80", service.LoadBalancer, "10.0.1.3:8080"))
	add(f.port("lb-local", "203.0.113.2:80", service.LoadBalancer, "10.0.2.7:8080"), externalLocal)
	add(f.port("lb-ranges", "203.0.113.3:80", service.LoadBalancer, "10.0.1.3:8080"), ranges)
	add(f.port("external", "203.0.113.4:80", service.ExternalIP, "10.0.1.3:8080"))
	add(f.port("lb-native", "203.0.113.5:80", service.LoadBalancer, "10.0.2.7:8080"))
	add(f.port("lb-tunnel", "203.0.113.6:80", service.LoadBalancer, "10.0.3.7:8080"))
	add(f.port("lb-world", "203.0.113.7:80", service.LoadBalancer, "198.51.100.9:8080"))
	add(f.port("lb-many", "203.0.113.8:80", service.LoadBalancer, many("10.0.3.%d:8080", 50)...))
	return all
}

func many(format string, n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf(format, i+10))
	}
	return list
}

// servedWorld is world with Services: all pods' links are the loopback device.
func servedWorld() desired.Tables {
	t := world()
	prefix := netip.MustParsePrefix
	t.Config.Services = true
	t.Config.SocketUDP = true
	t.Config.ServiceCIDR4, t.Config.ServiceCIDR6 = prefix("10.96.0.0/16"), prefix("fd00:96::/112")
	t.Config.Node4, t.Config.Node6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for a, e := range t.Endpoints {
		if e.Index != 0 {
			e.Index = lo
			t.Endpoints[a] = e
		}
	}
	t.Endpoints[netip.MustParseAddr("fd00:1::4")] = t.Endpoints[netip.MustParseAddr("10.0.1.4")]
	t.Remotes[prefix("2001:db8::2/128")] = t.Remotes[prefix("192.0.2.2/32")]
	t.Remotes[prefix("2001:db8::3/128")] = t.Remotes[prefix("192.0.2.3/32")]
	for _, p := range []string{"192.0.2.2/32", "2001:db8::2/128"} {
		r := t.Remotes[prefix(p)]
		r.Kind, r.Index = route.Native, lo
		t.Remotes[prefix(p)] = r
	}
	return t
}

func servedOf(t testing.TB, change ...func(*desired.Tables)) *Datapath {
	t.Helper()
	return served(t, openTest(t), change...)
}

// openSized is openTest with maps of other sizes.
func openSized(t testing.TB, sizes map[string]uint32) *Datapath {
	t.Helper()
	return reopenSized(t, openTest(t).dir, sizes)
}

// reopenSized is reopen with maps of other sizes.
func reopenSized(t testing.TB, dir string, sizes map[string]uint32) *Datapath {
	t.Helper()
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range sizes {
		spec.Maps[name].MaxEntries = size
	}
	d, err := open(dir, slog.New(slog.DiscardHandler), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func served(t testing.TB, d *Datapath, change ...func(*desired.Tables)) *Datapath {
	t.Helper()
	tables := servedWorld()
	for _, c := range change {
		c(&tables)
	}
	if _, err := d.SyncMaps(tables); err != nil {
		t.Fatal(err)
	}
	all := map[service.PortName]*service.Port{}
	for _, f := range families() {
		for name, p := range f.ports() {
			all[name] = p
		}
	}
	if _, err := d.ResyncServices(all, false, time.Now()); err != nil {
		t.Fatal(err)
	}
	return d
}

// packet is a frame from one address and port to another, with right checksums.
func (f family) packet(from, to string, change ...func(*frame)) frame {
	src, dst := f.at(from), f.at(to)
	fr := frame{from: macOf(src.Addr()), to: hostMAC, src: src.Addr().String(), dst: dst.Addr().String(), proto: byte(f.protocol)}
	if f.protocol == cluster.TCP {
		fr.l4 = segment(src.Port(), dst.Port(), tcpSYN, 1000, 0, "")
	} else {
		fr.l4 = datagram(src.Port(), dst.Port(), "a question")
	}
	for _, c := range change {
		c(&fr)
	}
	fr.sum()
	return fr
}

func macOf(a netip.Addr) [6]byte {
	switch a.String() {
	case "10.0.1.2", "fd00:1::2":
		return podMAC
	case "10.0.1.3", "fd00:1::3", "10.0.1.4", "fd00:1::4":
		return peerMAC
	}
	return strange
}

const (
	tcpFIN = 1
	tcpSYN = 2
	tcpRST = 4
	tcpACK = 16
)

func flags(set byte) func(*frame) {
	return func(f *frame) {
		if f.proto == protoTCP {
			f.l4[13] = set
		}
	}
}

func segment(sport, dport uint16, set byte, seq, ack uint32, payload string) []byte {
	b := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13] = 5<<4, set
	binary.BigEndian.PutUint16(b[14:], 0x7210)
	return append(b, payload...)
}

func datagram(sport, dport uint16, payload string) []byte {
	b := ports(sport, dport)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return append(b, payload...)
}

// sum fills in the checksum of a whole TCP, UDP or ICMP message.
func (f *frame) sum() {
	at, ok := map[byte]int{protoTCP: 16, protoUDP: 6, protoICMP: 2, protoICMP6: 2}[f.proto]
	if !ok {
		return
	}
	f.l4[at], f.l4[at+1] = 0, 0
	sum := l4Sum(netip.MustParseAddr(f.src), netip.MustParseAddr(f.dst), f.proto, f.l4)
	if sum == 0 && f.proto == protoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(f.l4[at:], sum)
}

// l4Sum is the checksum over a message and, but for ICMP, its addresses: 0 if the one in it is right.
func l4Sum(src, dst netip.Addr, proto byte, l4 []byte) uint16 {
	var b []byte
	if proto != protoICMP {
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(l4)))
		b = append(b, 0, 0, 0, proto)
	}
	b = append(b, l4...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	return checksum(b)
}

// seen is a packet as it left a program.
type seen struct {
	mac      [12]byte
	src, dst netip.AddrPort
	proto    byte
	ttl      byte
	l4       []byte
	id       uint16
	fragment bool
	later    bool // no first fragment: it has no ports
}

// inside reads an ICMP error's quote. It may be cut off.
func (s seen) quote(t testing.TB) seen {
	t.Helper()
	q, err := readIP(s.l4[8:])
	if err != nil {
		t.Fatalf("quote: %v", err)
	}
	return q
}

// read takes a frame apart and checks that its checksums are right.
func read(b []byte) (seen, error) {
	if len(b) < 34 {
		return seen{}, fmt.Errorf("%d bytes", len(b))
	}
	s, err := readIP(b[14:])
	if err != nil {
		return s, err
	}
	copy(s.mac[:], b)
	if b[14]>>4 == 4 {
		if sum := checksum(b[14 : 14+int(b[14]&15)*4]); sum != 0 {
			return s, fmt.Errorf("header checksum is wrong by %#x", sum)
		}
		if n := int(binary.BigEndian.Uint16(b[16:])); n != len(b)-14 {
			return s, fmt.Errorf("length %d of %d", n, len(b)-14)
		}
	} else if n := int(binary.BigEndian.Uint16(b[18:])); n != len(b)-54 {
		return s, fmt.Errorf("length %d of %d", n, len(b)-54)
	}
	unsummed := s.proto == protoUDP && len(s.l4) >= 8 && s.l4[6] == 0 && s.l4[7] == 0
	summed := s.proto == protoTCP || s.proto == protoUDP || s.proto == protoICMP || s.proto == protoICMP6
	if !s.fragment && summed && !unsummed {
		if sum := l4Sum(s.src.Addr(), s.dst.Addr(), s.proto, s.l4); sum != 0 {
			return s, fmt.Errorf("checksum of protocol %d is wrong by %#x", s.proto, sum)
		}
	}
	return s, nil
}

func readIP(b []byte) (s seen, err error) {
	if len(b) < 20 {
		return s, fmt.Errorf("%d bytes", len(b))
	}
	var src, dst netip.Addr
	switch b[0] >> 4 {
	case 4:
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		s.ttl, s.proto, s.id = b[8], b[9], binary.BigEndian.Uint16(b[4:])
		offset := binary.BigEndian.Uint16(b[6:])
		s.fragment, s.later = offset&0x3fff != 0, offset&0x1fff != 0
		if n := int(b[0]&15) * 4; n < 20 || n > len(b) {
			return s, fmt.Errorf("a header of %d bytes", n)
		}
		s.l4 = b[int(b[0]&15)*4:]
	case 6:
		if len(b) < 40 {
			return s, fmt.Errorf("%d bytes", len(b))
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		s.ttl, s.proto, s.l4 = b[7], b[6], b[40:]
		for s.proto == 0 || s.proto == 60 || s.proto == 44 {
			if len(s.l4) < 8 {
				return s, fmt.Errorf("%d bytes of an extension header", len(s.l4))
			}
			length := 8 + int(s.l4[1])*8
			if s.proto == 44 {
				length, s.fragment, s.later = 8, true, binary.BigEndian.Uint16(s.l4[2:])&0xfff8 != 0
			}
			if length > len(s.l4) {
				return s, fmt.Errorf("an extension header of %d bytes", length)
			}
			s.proto, s.l4 = s.l4[0], s.l4[length:]
			if s.later {
				break
			}
		}
	default:
		return s, fmt.Errorf("version %d", b[0]>>4)
	}
	var sport, dport uint16
	if (s.proto == protoTCP || s.proto == protoUDP || s.proto == protoSCTP) && len(s.l4) >= 4 && !s.later {
		sport, dport = binary.BigEndian.Uint16(s.l4), binary.BigEndian.Uint16(s.l4[2:])
	}
	s.src, s.dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return s, nil
}

// pass runs a program on a frame and returns what became of it, with checksums checked where it was not dropped.
func pass(t testing.TB, d *Datapath, p desired.Program, f frame, want string) seen {
	t.Helper()
	sum := runFlags()
	if want == "refused" && f.proto == protoUDP {
		sum = 0 // the kernel has forgotten the sum, since the frame's length changed; the check does not know
	}
	r, err := d.run(p, lo, f.bytes(), sum)
	if err != nil {
		t.Fatalf("%s to %s: %v", f.src, f.dst, err)
	}
	v := r.verdict()
	if v.Outcome != want {
		t.Fatalf("%s, want %s (%s to %s)", v.Outcome, want, f.src, f.dst)
	}
	if strings.HasPrefix(want, "drop") {
		return seen{}
	}
	s, err := read(v.Packet)
	if err != nil {
		t.Fatalf("%s (%s to %s): %v\n% x", want, f.src, f.dst, err, v.Packet)
	}
	return s
}

// runFlags asks for the check of sums where the kernel has it.
func runFlags() uint32 {
	major, minor, err := kernelVersion()
	if err != nil || major < 6 || major == 6 && minor < 17 {
		return 0
	}
	return sumUp
}

// goes says that a packet goes from one address and port to another now.
func (s seen) goes(t testing.TB, f family, from, to string) {
	t.Helper()
	if s.src != f.at(from) || s.dst != f.at(to) {
		t.Fatalf("it goes from %v to %v, want %v to %v", s.src, s.dst, f.at(from), f.at(to))
	}
}

func portsOf(ports ...*service.Port) map[service.PortName]*service.Port {
	all := map[service.PortName]*service.Port{}
	for _, p := range ports {
		all[p.Name] = p
	}
	return all
}

func now() time.Time { return time.Now() }
