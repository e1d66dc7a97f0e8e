package datapath

import (
	"bufio"
	"cmp"
	"encoding/hex"
	"errors"
	goflag "flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/service"
	"github.com/polder-net/polder/internal/testnet"
)

var (
	casesFlag = goflag.Int("cases", 0, "how many random cases the oracle is asked about; 0: as many as take some seconds")
	seedFlag  = goflag.Uint64("seed", 0, "repeat the random test of this seed")
)

// clusterDice make clusters in which everything collides.
type clusterDice struct{ *rand.Rand }

func pick[E any](d clusterDice, from ...E) E { return from[d.IntN(len(from))] }

func (d clusterDice) family() family {
	return family{d.IntN(2) == 0, pick(d, cluster.TCP, cluster.UDP)}
}

func (d clusterDice) service(name cluster.ServiceName) *cluster.ServiceObjects {
	s := &cluster.Service{ServiceName: name, UID: pick(d, "u1", "u2"), Created: int64(d.IntN(3)),
		InternalLocal: d.IntN(3) == 0, ExternalLocal: d.IntN(3) == 0, Affinity: pick(d, 0, 0, 10800)}
	for _, ipv4 := range pick(d, []bool{true}, []bool{false}, []bool{true, false}) {
		f := family{ipv4: ipv4}
		s.ClusterIPs = append(s.ClusterIPs, f.addr(fmt.Sprint("10.96.0.", 1+d.IntN(4))))
		if d.IntN(2) == 0 {
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, f.addr(pick(d, "203.0.113.1", "203.0.113.2", "192.0.2.1")))
		}
		if d.IntN(3) == 0 {
			s.ExternalIPs = append(s.ExternalIPs, f.addr(pick(d, "203.0.113.1", "203.0.113.3")))
		}
	}
	for range 1 + d.IntN(2) {
		s.Ports = append(s.Ports, cluster.ServicePort{Name: pick(d, "p", "p", "q"), Protocol: pick(d, cluster.TCP, cluster.UDP),
			Port: pick[uint16](d, 80, 443), NodePort: pick[uint16](d, 0, 30080, 30081)})
	}
	o := &cluster.ServiceObjects{Service: s}
	for i := range d.IntN(7) {
		slice := &cluster.EndpointSlice{Name: fmt.Sprint("s", i), IPv4: d.IntN(2) == 0}
		for range 1 + d.IntN(4) {
			slice.Ports = append(slice.Ports, cluster.EndpointPort{Name: pick(d, "p", "p", "q"),
				Protocol: pick(d, cluster.TCP, cluster.UDP), Port: pick[uint16](d, 8080, 9090)})
		}
		for range d.IntN(5) {
			slice.Endpoints = append(slice.Endpoints, cluster.Endpoint{Node: pick(d, "n1", "n2", "n3"),
				Addr:  family{ipv4: slice.IPv4}.addr(pick(d, "10.0.1.", "10.0.2.", "10.0.3.", "198.51.100.") + fmt.Sprint(2+d.IntN(3))),
				Ready: d.IntN(3) > 0, Serving: d.IntN(3) > 0, Terminating: d.IntN(2) == 0})
		}
		o.Slices = append(o.Slices, slice)
	}
	return o
}

// connection is a random client's, mostly to one of the frontends.
type connection struct {
	family
	to      netip.AddrPort
	outside bool
}

func (d clusterDice) connection(frontends []service.Frontend) connection {
	if len(frontends) > 0 && d.IntN(5) > 0 {
		f := pick(d, frontends...)
		c := connection{family: family{f.Addr.Is4(), f.Protocol}, outside: d.IntN(2) == 0, to: netip.AddrPortFrom(f.Addr, f.Port)}
		if f.Addr.IsUnspecified() {
			c.to = netip.AddrPortFrom(c.addr(pick(d, "192.0.2.1", "192.0.2.2")), f.Port)
		}
		return c
	}
	c := connection{family: d.family(), outside: d.IntN(2) == 0}
	host := pick(d, "10.96.0.1", "10.96.0.2", "10.96.0.3", "10.96.0.4", "10.96.0.9", "203.0.113.1", "203.0.113.2", "203.0.113.3", "192.0.2.1", "192.0.2.2")
	port := pick(d, "80", "443")
	if strings.HasPrefix(host, "192.0.2.") {
		port = pick(d, "30080", "30081", "80")
	}
	c.to = c.at(host + ":" + port)
	return c
}

// oracleCluster is a random cluster, its table, and what the oracle has to know of it.
type oracleCluster struct {
	objects   []*cluster.ServiceObjects
	node      oracle.Node
	addresses map[netip.Addr]bool // cluster IPs that are some frontend's

	// asked are the node ports of which every node answers for its own backends alone: the others must be asked.
	asked map[service.Frontend]bool
}

func (d clusterDice) cluster() (oracleCluster, portMap) {
	self := service.Self{Node: "n1", Zone: "z1", ExternalIPs: true}
	table := service.NewTable(self)
	c := oracleCluster{node: oracle.Node{Name: "n1", Zone: "z1", ExternalIPs: true}, addresses: map[netip.Addr]bool{}, asked: map[service.Frontend]bool{}}
	for i := range 1 + d.IntN(5) {
		name := cluster.ServiceName{Namespace: "ns", Name: fmt.Sprint("s", i)}
		o := d.service(name)
		table.SetService(name, o)
		c.objects = append(c.objects, o)
	}
	for _, p := range table.Ports() {
		for f, kind := range p.Frontends {
			if kind == service.ClusterIP {
				c.addresses[f.Addr] = true
			}
			c.asked[f] = kind == service.NodePort && p.ExternalLocal
		}
	}
	return c, maps.Clone(table.Ports())
}

func (c oracleCluster) ask(to netip.AddrPort, f family, outside bool) (map[netip.AddrPort]bool, oracle.Verdict) {
	set, verdict := oracle.Backends(c.objects, c.node, oracle.Destination{AddrPort: to, Protocol: f.protocol}, outside)
	isNode := slices.Contains([]netip.Addr{f.addr("192.0.2.1"), f.addr("192.0.2.2")}, to.Addr())
	if verdict == oracle.NotAFrontend && isNode {
		other := to.Addr() == f.addr("192.0.2.2")
		to = netip.AddrPortFrom(f.addr("0.0.0.0"), to.Port())
		if other && c.asked[service.Frontend{Addr: to.Addr(), Port: to.Port(), Protocol: f.protocol}] {
			return nil, verdict
		}
		set, verdict = oracle.Backends(c.objects, c.node, oracle.Destination{AddrPort: to, Protocol: f.protocol}, outside)
	}
	return set, verdict
}

func TestSocketsAndPacketsChooseWhatTheOracleAllows(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed=%d", seed)
	d := clusterDice{rand.New(rand.NewPCG(seed, 0))}
	r := bareSocketRig(t)
	far := testnet.New(t) // nobody answers there
	testnet.Pair(t, r.ns, "far", far, "near")
	for _, prefix := range []string{"10.0.0.1/16", "fd00::1/16", "198.51.100.1/24", "2001:db8:ff::1/64"} {
		r.ns.Addr("far", prefix)
	}
	resync(t, r.d, nil, time.Now())
	at, have := time.Now(), portMap{}
	asked := map[oracle.Verdict]int{}
	for n := 0; n < cmp.Or(*casesFlag, 4000); {
		c, next := d.cluster()
		at = at.Add(2 * retireAfter)
		if err := r.d.SyncServices(changesBetween(have, next), at); err != nil {
			t.Fatal(err)
		}
		have = next
		var frontends []service.Frontend
		for _, p := range next {
			frontends = slices.AppendSeq(frontends, maps.Keys(p.Frontends))
		}
		slices.SortFunc(frontends, service.Frontend.Compare)
		for range 40 {
			n++
			conn := d.connection(frontends)
			set, verdict := c.ask(conn.to, conn.family, conn.outside)
			asked[verdict]++
			if why := askPacket(t, r.d, c, conn, n, set, verdict); why != "" {
				t.Fatalf("-seed=%d: packet to %v %s, outside %v: %s, but the oracle says %s %v", seed, conn.to, conn.family, conn.outside, why, verdict, set)
			}
			if conn.outside {
				continue
			}
			var why string
			if verdict == oracle.NotAFrontend && c.addresses[conn.to.Addr()] {
				verdict = oracle.Refuse // a Service's address, and a port that it does not have
			}
			r.ns.Do(func() { why = askSocket(t, conn, set, verdict) })
			if why != "" {
				t.Fatalf("-seed=%d: socket to %v %s: %s, but the oracle says %s %v", seed, conn.to, conn.family, why, verdict, set)
			}
		}
		if _, err := r.d.sweepFlows(nowTicks() + 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%v", asked)
}

// askPacket says what is wrong with what became of a packet, "" if nothing is.
func askPacket(t *testing.T, d *Datapath, c oracleCluster, conn connection, n int, set map[netip.AddrPort]bool, verdict oracle.Verdict) string {
	t.Helper()
	client, in := fmt.Sprint("10.0.1.2:", 1+n%60000), desired.FromPod
	if conn.outside {
		client, in = fmt.Sprint("198.51.100.7:", 1+n%60000), desired.FromNetwork
	}
	f := conn.packet(client, "0.0.0.0:"+fmt.Sprint(conn.to.Port()))
	f.dst = conn.to.Addr().String()
	f.sum()
	v, err := d.Run(in, lo, f.bytes())
	if err != nil {
		t.Fatal(err)
	}
	inCIDR := strings.HasPrefix(f.dst, "10.96.") || strings.HasPrefix(f.dst, "fd00:96:")
	want := map[oracle.Verdict]string{oracle.Refuse: "refused", oracle.Drop: "drop no local backend"}[verdict]
	switch {
	case verdict == oracle.NotAFrontend && inCIDR && c.addresses[conn.to.Addr()]:
		want = "refused"
	case verdict == oracle.NotAFrontend && inCIDR:
		want = "drop no such service"
	}
	if want != "" {
		if v.Outcome != want {
			return v.Outcome
		}
		return ""
	}
	s, err := read(v.Packet)
	if err != nil || !strings.HasPrefix(v.Outcome, "to ") {
		return fmt.Sprintf("%s, %v", v.Outcome, err)
	}
	to := s.dst
	var flow bpfFlow
	tuple := bpfTuple{Src: encodeAddr(conn.at(client).Addr()), Sport: encodePort(conn.at(client).Port()), Dst: encodeAddr(conn.to.Addr()), Dport: encodePort(conn.to.Port()), Proto: byte(conn.protocol)}
	if d.maps[bpfMapOpening].Lookup(tuple, &flow) == nil && flow.Flags&bpfFlowFlagsFLOW_HANDED != 0 {
		to = decodeAddrPort(flow.Dst, flow.Dport)
	}
	if verdict == oracle.NotAFrontend && to == conn.to || verdict == oracle.Choose && set[to] {
		return ""
	}
	return fmt.Sprintf("%s, to %v", v.Outcome, to)
}

func askSocket(t *testing.T, conn connection, set map[netip.AddrPort]bool, verdict oracle.Verdict) string {
	t.Helper()
	k := socketKind{conn.family, false}
	fd := k.open(t)
	defer unix.Close(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	err := unix.Connect(fd, k.sockaddr(conn.to))
	if errors.Is(err, unix.ECONNREFUSED) != (verdict == oracle.Refuse) {
		return fmt.Sprint(err)
	}
	if verdict == oracle.Refuse {
		return ""
	}
	to := conn.to // where there is no route, nobody led it anywhere
	if err == nil || errors.Is(err, unix.EINPROGRESS) {
		var ok bool
		if to, ok = leadsTo(t, k, fd); !ok { // the network has told it already that nobody is there
			return ""
		}
	}
	if verdict == oracle.Choose && !set[to] || verdict != oracle.Choose && to != conn.to {
		return fmt.Sprintf("it leads to %v", to)
	}
	return ""
}

// leadsTo asks the kernel where a socket of the calling thread's namespace really leads.
func leadsTo(t *testing.T, k socketKind, fd int) (netip.AddrPort, bool) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	name := map[family]string{{true, cluster.TCP}: "tcp", {true, cluster.UDP}: "udp", {false, cluster.TCP}: "tcp6", {false, cluster.UDP}: "udp6"}[k.family]
	file, err := os.Open("/proc/thread-self/net/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 10 || words[9] != fmt.Sprint(st.Ino) {
			continue
		}
		host, port, _ := strings.Cut(words[2], ":")
		b, err := hex.DecodeString(host)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(b); i += 4 { // words in the machine's order
			slices.Reverse(b[i : i+4])
		}
		addr, _ := netip.AddrFromSlice(b)
		var number uint16
		if _, err := fmt.Sscanf(port, "%x", &number); err != nil {
			t.Fatal(err)
		}
		return netip.AddrPortFrom(addr.Unmap(), number), true
	}
	return netip.AddrPort{}, false
}
