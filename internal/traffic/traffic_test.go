package traffic

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/polder-net/polder/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// light is little enough for any machine.
func light() Load { return Load{Flows: 2, Every: 5 * time.Millisecond, Connects: 20, Datagrams: 200} }

// plain is a path over a veth pair of the test's own.
func plain(t *testing.T) (Path, *testnet.NS) {
	a, b := testnet.New(t), testnet.New(t)
	testnet.Pair(t, a, "a", b, "b")
	a.Addr("a", "2001:db8::1/64")
	b.Addr("b", "2001:db8::2/64")
	return Path{Name: "plain", From: End{Place: namespace{a}, Addr: netip.MustParseAddr("2001:db8::1")},
		To: End{Place: namespace{b}, Addr: netip.MustParseAddr("2001:db8::2")}}, a
}

func start(t *testing.T, p Path) *Run {
	t.Helper()
	r, err := Start([]Path{p}, Control(t), light())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func stop(t *testing.T, r *Run) Report {
	t.Helper()
	report, err := r.Stop()
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report)
	return report
}

func TestAPathThatIsLeftAloneLosesNothing(t *testing.T) {
	p, _ := plain(t)
	r := start(t, p)
	time.Sleep(500 * time.Millisecond)
	report := stop(t, r)
	if lost := report.Lost(); len(lost) > 0 {
		t.Errorf("lost: %v", lost)
	}
	for _, p := range report.Paths {
		if p.Records < 10 || p.Connects < 2 || p.Datagrams < 10 {
			t.Errorf("%s: hardly any traffic", p.Name)
		}
	}
}

func TestALinkThatGoesDownIsSeen(t *testing.T) {
	p, a := plain(t)
	r := start(t, p)
	time.Sleep(100 * time.Millisecond)
	set := func(up bool) {
		a.Do(func() {
			l, err := netlink.LinkByName("a")
			if err == nil && up {
				err = netlink.LinkSetUp(l)
			} else if err == nil {
				err = netlink.LinkSetDown(l)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	set(false)
	time.Sleep(300 * time.Millisecond)
	set(true)
	a.Addr("a", "2001:db8::1/64") // going down took it
	time.Sleep(500 * time.Millisecond)
	report := stop(t, r)
	if lost := report.Lost(); len(lost) == 0 {
		t.Error("nothing was lost")
	}
	if p := report.Paths[0]; p.LostDatagrams == 0 || p.MaxGap < 250*time.Millisecond {
		t.Errorf("datagrams lost: %d, longest silence %s", p.LostDatagrams, p.MaxGap)
	}
	if p := report.Paths[1]; p.LostDatagrams+p.LostFlows+p.FailedConnects != 0 {
		t.Errorf("the control path suffered, too: %+v", p)
	}
}

func TestAConnectionThatIsResetIsSeen(t *testing.T) {
	p, _ := plain(t)
	r := start(t, p)
	time.Sleep(50 * time.Millisecond)
	s := r.paths[0].server
	s.mu.Lock()
	for conn := range s.conns {
		conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
	s.mu.Unlock()
	time.Sleep(100 * time.Millisecond)
	report := stop(t, r)
	if lost := strings.Join(report.Lost(), "\n"); !strings.Contains(lost, "plain: 2 established connections lost") ||
		!strings.Contains(lost, "connections reset") {
		t.Errorf("lost: %s", lost)
	}
	if report.Counters["Tcp.OutRsts"] < 2 {
		t.Errorf("the kernels counted %d resets", report.Counters["Tcp.OutRsts"])
	}
}

func TestGapsAreJudgedBesideTheControl(t *testing.T) {
	ms := time.Millisecond
	for _, c := range []struct {
		name          string
		path, control time.Duration
		over          bool
	}{
		{"within the bar", 49 * ms, ms, false},
		{"the machine's own doing", 200 * ms, 100 * ms, false},
		{"the network's doing", 200 * ms, 10 * ms, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Report{Paths: []PathReport{{Name: "path", MaxGap: c.path}, {Name: "control", MaxGap: c.control}}}
			if got := len(r.Gaps()) > 0; got != c.over {
				t.Errorf("over the bar: %v, want %v", got, c.over)
			}
		})
	}
}

func TestAPathOverSomethingElseHasItsAnswersCounted(t *testing.T) {
	p, _ := plain(t)
	p.Port = 8080
	p.TCP = netip.AddrPortFrom(p.To.Addr, p.Port)
	p.UDP = p.TCP
	p.From.Dial = func(network string, from netip.Addr, to netip.AddrPort, patience time.Duration) (conn net.Conn, err error) {
		err = p.From.Do(func() (err error) {
			d := net.Dialer{Timeout: patience}
			if network == "udp" { // datagrams must be from the path's end
				d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
			}
			conn, err = d.Dial(network, to.String())
			return err
		})
		return conn, err
	}
	r := start(t, p)
	time.Sleep(500 * time.Millisecond)
	report := stop(t, r)
	if lost := report.Lost(); len(lost) > 0 || report.Paths[0].Datagrams < 10 || report.Paths[0].LostAnswers > 0 {
		t.Errorf("lost: %v", lost)
	}
}
