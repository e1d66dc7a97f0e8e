package datapath

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/service"
	"github.com/polder-net/polder/internal/testnet"
)

// socketRig is a namespace whose loopback device has the backends' addresses, and this process in a control group of its
// own with the socket programs on it. Nothing routes to a frontend.
type socketRig struct {
	d  *Datapath
	ns *testnet.NS
}

func newSocketRig(t *testing.T, change ...func(*desired.Tables)) socketRig {
	r := bareSocketRig(t, change...)
	for n := 2; n < 6; n++ {
		r.ns.Addr("lo", fmt.Sprintf("10.0.1.%d/32", n))
		r.ns.Addr("lo", fmt.Sprintf("fd00:1::%d/128", n))
	}
	return r
}

// bareSocketRig is one without addresses.
func bareSocketRig(t *testing.T, change ...func(*desired.Tables)) socketRig {
	r := socketRig{openTest(t), testnet.New(t)}
	var cookie uint64
	r.ns.Do(func() { cookie = cookieHere(t) })
	served(t, r.d, append(change, func(w *desired.Tables) { w.Config.HostCookie = cookie })...)
	enterGroup(t, r.d)
	return r
}

func cookieHere(t *testing.T) uint64 {
	t.Helper()
	cookie, err := NetnsCookie()
	if err != nil {
		t.Fatal(err)
	}
	return cookie
}

// enterGroup moves this process into a new control group until the test ends.
func enterGroup(t *testing.T, d *Datapath) {
	t.Helper()
	root, err := CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	home := root
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			home = filepath.Join(root, path)
		}
	}
	group := filepath.Join(root, fmt.Sprint("polder-datapath-test-", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(home, "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Error(err)
		}
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AttachSockets(group); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := d.AttachSockets(""); err != nil {
			t.Error(err)
		}
	})
	for program, attached := range d.SocketsAttached() {
		if !attached {
			t.Fatalf("%s is not attached", program)
		}
	}
}

// socketKind is how a program makes a socket: a mapped one is IPv6, and speaks IPv4.
type socketKind struct {
	family
	mapped bool
}

func socketKinds(protocol cluster.Protocol) []socketKind {
	return []socketKind{{family{true, protocol}, false}, {family{false, protocol}, false}, {family{true, protocol}, true}}
}

func (k socketKind) String() string {
	if k.mapped {
		return "IPv4-mapped"
	}
	return k.family.String()
}

func (k socketKind) socket(t testing.TB) int {
	t.Helper()
	fd := k.open(t)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func (k socketKind) open(t testing.TB) int {
	t.Helper()
	domain, kind := unix.AF_INET, unix.SOCK_STREAM
	if !k.ipv4 || k.mapped {
		domain = unix.AF_INET6
	}
	if k.protocol == cluster.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if domain == unix.AF_INET6 && !k.mapped {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			t.Fatal(err)
		}
	}
	tv := unix.NsecToTimeval((2 * time.Second).Nanoseconds())
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)); err != nil {
		t.Fatal(err)
	}
	return fd
}

func (k socketKind) sockaddr(at netip.AddrPort) unix.Sockaddr {
	if k.ipv4 && !k.mapped {
		return &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
}

func fromSockaddr(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func peerOf(t *testing.T, fd int) netip.AddrPort {
	t.Helper()
	sa, err := unix.Getpeername(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fromSockaddr(sa)
}

// listen makes a backend.
func (k socketKind) listen(t *testing.T, at string) int {
	t.Helper()
	fd := k.socket(t)
	if err := unix.Bind(fd, k.sockaddr(k.at(at))); err != nil {
		t.Fatal(err)
	}
	if k.protocol == cluster.TCP {
		if err := unix.Listen(fd, 10); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

// answer takes one datagram and sends it back, and returns it.
func answer(t *testing.T, fd int) string {
	t.Helper()
	b := make([]byte, 100)
	n, from, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		t.Fatalf("backend: %v", err)
	}
	if err := unix.Sendto(fd, b[:n], 0, from); err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func receive(t *testing.T, fd int) (string, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 100)
	n, from, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		t.Fatalf("client: %v", err)
	}
	return string(b[:n]), fromSockaddr(from)
}

func forKinds(t *testing.T, r socketRig, protocol cluster.Protocol, test func(*testing.T, socketKind)) {
	for _, k := range socketKinds(protocol) {
		t.Run(k.String(), func(t *testing.T) { r.ns.Do(func() { test(t, k) }) })
	}
}

func TestAStreamToAServiceIsOneToABackend(t *testing.T) {
	r := newSocketRig(t)
	forKinds(t, r, cluster.TCP, func(t *testing.T, k socketKind) {
		backend, fd := socketKind{k.family, false}.listen(t, "10.0.1.3:8080"), k.socket(t)
		frontend := k.at("10.96.0.1:80")
		if err := unix.Connect(fd, k.sockaddr(frontend)); err != nil {
			t.Fatal(err)
		}
		if got := peerOf(t, fd); got != frontend {
			t.Fatalf("the peer's name is %v", got)
		}
		if _, err := unix.Write(fd, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		conn, _, err := unix.Accept(backend)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(conn)
		b := make([]byte, 10)
		if n, err := unix.Read(conn, b); err != nil || string(b[:n]) != "hello" {
			t.Fatalf("%q, %v", b[:n], err)
		}
	})
}

func TestAConnectedDatagramSocketStaysWithItsBackend(t *testing.T) {
	r := newSocketRig(t)
	forKinds(t, r, cluster.UDP, func(t *testing.T, k socketKind) {
		backend, fd := socketKind{k.family, false}.listen(t, "10.0.1.3:8080"), k.socket(t)
		frontend := k.at("10.96.0.1:80")
		if err := unix.Connect(fd, k.sockaddr(frontend)); err != nil {
			t.Fatal(err)
		}
		if got := peerOf(t, fd); got != frontend {
			t.Fatalf("the peer's name is %v", got)
		}
		if _, err := unix.Write(fd, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		answer(t, backend)
		if text, from := receive(t, fd); text != "hello" || from != frontend {
			t.Fatalf("%q from %v", text, from)
		}
		plain := k.at("10.0.1.2:9")
		if err := unix.Connect(fd, k.sockaddr(plain)); err != nil { // to somebody else
			t.Fatal(err)
		}
		if got := peerOf(t, fd); got != plain {
			t.Fatalf("the new peer's name is %v", got)
		}
	})
}

func TestAnUnconnectedDatagramSocketHearsFromWhomItWroteTo(t *testing.T) {
	r := newSocketRig(t)
	forKinds(t, r, cluster.UDP, func(t *testing.T, k socketKind) {
		backend, fd := socketKind{k.family, false}.listen(t, "10.0.1.3:8080"), k.socket(t)
		for _, to := range []string{"10.96.0.1:80", "10.96.0.1:80"} {
			if err := unix.Sendto(fd, []byte("hello"), 0, k.sockaddr(k.at(to))); err != nil {
				t.Fatal(err)
			}
			answer(t, backend)
			if text, from := receive(t, fd); text != "hello" || from != k.at(to) {
				t.Fatalf("%q from %v", text, from)
			}
		}
	})
}

// Refused frontends in between cost the socket no place.
func TestASocketRemembersTheLastEightItWroteTo(t *testing.T) {
	r := newSocketRig(t)
	forKinds(t, r, cluster.UDP, func(t *testing.T, k socketKind) {
		backend, fd := socketKind{k.family, false}.listen(t, "10.0.1.3:8080"), k.socket(t)
		all := portMap{}
		to := func(i int) string { return fmt.Sprintf("10.96.0.%d:80", 50+i) }
		for i := range 12 {
			p := k.port(fmt.Sprint("s", i), to(i), service.ClusterIP, fmt.Sprint("10.0.1.3:", 8080))
			all[p.Name] = p
		}
		if err := r.d.SyncServices(all, now()); err != nil {
			t.Fatal(err)
		}
		for i := range 12 {
			if err := unix.Sendto(fd, []byte("no"), 0, k.sockaddr(k.at("10.96.0.6:80"))); !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatal(err)
			}
			if err := unix.Sendto(fd, []byte(to(i)), 0, k.sockaddr(k.at(to(i)))); err != nil {
				t.Fatal(err)
			}
			if got := answer(t, backend); got != to(i) {
				t.Fatalf("the backend got %q, want %q", got, to(i))
			}
			receive(t, fd)
		}
		storage := k.port("one", "10.96.0.70:80", service.ClusterIP, "10.0.1.2:8080")
		if err := r.d.SyncServices(portsOf(storage), now()); err != nil {
			t.Fatal(err)
		}
		other := socketKind{k.family, false}.listen(t, "10.0.1.2:8080")
		for range 3 {
			if err := unix.Sendto(fd, []byte("x"), 0, k.sockaddr(k.at("10.96.0.70:80"))); err != nil {
				t.Fatal(err)
			}
			answer(t, other)
			if _, from := receive(t, fd); from != k.at("10.96.0.70:80") {
				t.Fatalf("it hears from %v", from)
			}
			for range 8 { // they must not push out the good one
				if err := unix.Sendto(fd, []byte("no"), 0, k.sockaddr(k.at("10.96.0.6:80"))); !errors.Is(err, unix.ECONNREFUSED) {
					t.Fatal(err)
				}
			}
		}
	})
}

func TestASocketIsRefusedWhereNobodyServes(t *testing.T) {
	r := newSocketRig(t)
	for _, protocol := range []cluster.Protocol{cluster.TCP, cluster.UDP} {
		forKinds(t, r, protocol, func(t *testing.T, k socketKind) {
			if err := unix.Connect(k.socket(t), k.sockaddr(k.at("10.96.0.6:80"))); !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatalf("connect: %v", err)
			}
			err := unix.Connect(k.socket(t), k.sockaddr(k.at("10.96.0.7:80"))) // nobody here: not refused
			if errors.Is(err, unix.ECONNREFUSED) {
				t.Fatal("refused, where there are backends elsewhere")
			}
			if protocol == cluster.UDP {
				if err := unix.Sendto(k.socket(t), []byte("x"), 0, k.sockaddr(k.at("10.96.0.6:80"))); !errors.Is(err, unix.ECONNREFUSED) {
					t.Fatalf("sendto: %v", err)
				}
			}
		})
	}
}

func TestAffinityOfSocketsIsByNamespace(t *testing.T) {
	r := newSocketRig(t)
	k := socketKind{family{true, cluster.UDP}, false}
	backends := map[netip.AddrPort]bool{}
	for range 8 { // namespaces: that all get one backend of 50 is impossible
		ns := testnet.New(t)
		for n := 2; n < 4; n++ {
			ns.Addr("lo", fmt.Sprintf("10.0.2.%d/24", n))
		}
		ns.Do(func() {
			own := map[netip.AddrPort]bool{}
			for range 10 {
				fd := k.socket(t)
				if err := unix.Connect(fd, k.sockaddr(k.at("10.96.0.9:80"))); err != nil {
					t.Fatal(err)
				}
				to, _ := leadsTo(t, k, fd)
				own[to] = true
			}
			if len(own) != 1 {
				t.Fatalf("one namespace got %v", own)
			}
			maps.Copy(backends, own)
		})
	}
	if len(backends) == 1 {
		t.Fatal("all namespaces got one backend")
	}
	rows := map[bpfAffinityKey]bpfAffinity{}
	if err := readTable(r.d.maps[bpfMapAffinities], &rows); err != nil || len(rows) != 8 {
		t.Fatalf("%d clients, %v", len(rows), err)
	}
}

func TestNobodyOnTheNodeTakesANodePort(t *testing.T) {
	r := newSocketRig(t)
	other := testnet.New(t)
	for _, protocol := range []cluster.Protocol{cluster.TCP, cluster.UDP} {
		for _, k := range socketKinds(protocol) {
			bind := func(port string) (err error) {
				addr := k.sockaddr(netip.AddrPortFrom(k.at("0.0.0.0:1").Addr(), k.at("0.0.0.0:"+port).Port()))
				if k.mapped { // a socket for both families
					addr = &unix.SockaddrInet6{Port: int(k.at("0.0.0.0:" + port).Port())}
				}
				fd := k.open(t)
				defer unix.Close(fd)
				return unix.Bind(fd, addr)
			}
			r.ns.Do(func() {
				if err := bind("30080"); !errors.Is(err, unix.EADDRINUSE) {
					t.Errorf("%s: a node port: %v", k, err)
				}
				if err := bind("30099"); err != nil {
					t.Errorf("%s: another port: %v", k, err)
				}
			})
			other.Do(func() {
				if err := bind("30080"); err != nil {
					t.Errorf("%s: in a pod: %v", k, err)
				}
			})
		}
	}
}

func TestADatagramSocketWhoseBackendGoesIsClosed(t *testing.T) {
	if !CanCloseSockets() {
		t.Skip("this kernel lets no program close a socket (Linux 6.5)")
	}
	r := newSocketRig(t)
	forKinds(t, r, cluster.UDP, func(t *testing.T, k socketKind) {
		stays, goes := k.port("stays", "10.96.0.60:80", service.ClusterIP, "10.0.1.3:8080"), k.port("goes", "10.96.0.61:80", service.ClusterIP, "10.0.1.3:8080")
		none := k.port("none", "10.96.0.62:80", service.ClusterIP, "10.0.1.3:8080")
		gone := k.port("gone", "10.96.0.63:80", service.ClusterIP, "10.0.1.3:8080")
		if err := r.d.SyncServices(portsOf(stays, goes, none, gone), now()); err != nil {
			t.Fatal(err)
		}
		backend := socketKind{k.family, false}.listen(t, "10.0.1.3:8080")
		fds := map[string]int{}
		for _, to := range []string{"10.96.0.60:80", "10.96.0.61:80", "10.96.0.62:80", "10.96.0.63:80", "10.0.1.3:8080"} {
			fds[to] = k.socket(t)
			if err := unix.Connect(fds[to], k.sockaddr(k.at(to))); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(to string, closed bool) {
			t.Helper()
			_, err := unix.Write(fds[to], []byte("still there?"))
			if err == nil && !closed {
				answer(t, backend)
				_, err = unix.Read(fds[to], make([]byte, 100))
			}
			if closed == (err == nil) {
				t.Fatalf("%s is closed, want %v (%v)", to, closed, err)
			}
		}
		if err := r.d.CloseStaleSockets(); err != nil {
			t.Fatal(err)
		}
		for to := range fds {
			expect(to, false)
		}
		next := portMap{
			stays.Name: k.port("stays", "10.96.0.60:80", service.ClusterIP, "10.0.1.2:8080", "10.0.1.3:8080"),
			goes.Name:  k.port("goes", "10.96.0.61:80", service.ClusterIP, "10.0.1.2:8080"),
			none.Name:  k.port("none", "10.96.0.62:80", service.ClusterIP), gone.Name: nil}
		if err := errors.Join(r.d.SyncServices(next, now()), r.d.CloseStaleSockets()); err != nil {
			t.Fatal(err)
		}
		expect("10.96.0.60:80", false)
		expect("10.0.1.3:8080", false) // no Service's
		expect("10.96.0.61:80", true)
		expect("10.96.0.62:80", true)
		expect("10.96.0.63:80", true)
	})
}

func TestAnUnconnectedSocketMovesWhenItsBackendGoes(t *testing.T) {
	r := newSocketRig(t)
	forKinds(t, r, cluster.UDP, func(t *testing.T, k socketKind) {
		old, next := socketKind{k.family, false}.listen(t, "10.0.1.3:8080"), socketKind{k.family, false}.listen(t, "10.0.1.2:8080")
		fd := k.socket(t)
		ask := func(backend int) {
			t.Helper()
			if err := unix.Sendto(fd, []byte("x"), 0, k.sockaddr(k.at("10.96.0.60:80"))); err != nil {
				t.Fatal(err)
			}
			answer(t, backend)
			if _, from := receive(t, fd); from != k.at("10.96.0.60:80") {
				t.Fatalf("it hears from %v", from)
			}
		}
		sync := func(backends ...string) {
			t.Helper()
			if err := r.d.SyncServices(portsOf(k.port("moves", "10.96.0.60:80", service.ClusterIP, backends...)), now()); err != nil {
				t.Fatal(err)
			}
		}
		sync("10.0.1.3:8080")
		ask(old)
		sync("10.0.1.2:8080", "10.0.1.3:8080")
		for range 10 {
			ask(old) // it still serves
		}
		sync("10.0.1.2:8080")
		ask(next)
	})
}

// Where sockets cannot be closed, connected ones are left to the packet path, which can move their flows.
func TestConnectedDatagramsAreLeftAloneWhereTheyCannotBeClosed(t *testing.T) {
	r := newSocketRig(t, func(w *desired.Tables) { w.Config.SocketUDP = false })
	r.ns.Do(func() {
		k := socketKind{family{true, cluster.UDP}, false}
		if err := unix.Connect(k.socket(t), k.sockaddr(k.at("10.96.0.1:80"))); !errors.Is(err, unix.ENETUNREACH) {
			t.Fatalf("%v, want that there is no route", err)
		}
	})
}

// An IPv4 Service's node port, and sockets that hear both families, as most servers' do.
func TestASocketForBothFamiliesTakesNoNodePortOfOne(t *testing.T) {
	r := newSocketRig(t)
	f := family{true, cluster.TCP}
	if err := r.d.SyncServices(portsOf(f.port("four", "0.0.0.0:30090", service.NodePort, "10.0.1.3:8080")), now()); err != nil {
		t.Fatal(err)
	}
	r.ns.Do(func() {
		for at, want := range map[string]error{"::": unix.EADDRINUSE, "::ffff:0.0.0.0": unix.EADDRINUSE, "::1": nil} {
			fd := socketKind{f, true}.open(t)
			err := unix.Bind(fd, &unix.SockaddrInet6{Port: 30090, Addr: netip.MustParseAddr(at).As16()})
			unix.Close(fd)
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", at, err, want)
			}
		}
	})
}
