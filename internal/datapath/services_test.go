package datapath

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/service"
)

type portMap = map[service.PortName]*service.Port

// canon is what the four tables say, without the numbers of generations: two nodes that say the same are equal.
type canon struct {
	backends map[string]map[uint32]bpfBackend // by the owner
	members  map[string]map[bpfBackend]bpfMember
	ranges   map[bpfSourceRangeKey]uint32
	rows     map[bpfFrontendKey]bpfFrontend
	unnamed  int // rows of backends that no frontend names
}

func canonOf(t testing.TB, d *Datapath) canon {
	t.Helper()
	have, err := d.readServices()
	if err != nil {
		t.Fatal(err)
	}
	c := canon{map[string]map[uint32]bpfBackend{}, map[string]map[bpfBackend]bpfMember{}, have.ranges, map[bpfFrontendKey]bpfFrontend{}, 0}
	owners := map[uint64]string{}
	for k, row := range have.frontends {
		owner := fmt.Sprint(row.Owner)
		if had, ok := owners[row.Generation]; ok && had != owner {
			t.Fatalf("generation %d has two owners", row.Generation)
		}
		if row.Generation != 0 {
			owners[row.Generation] = owner
		}
		row.Generation = 0
		c.rows[k] = row
	}
	for k, b := range have.backends {
		owner, ok := owners[k.Generation]
		if !ok {
			c.unnamed++
			continue
		}
		put2(c.backends, owner, k.Slot, b)
	}
	for k, m := range have.members {
		owner, ok := owners[k.Generation]
		if !ok {
			c.unnamed++
			continue
		}
		put2(c.members, owner, k.Backend, m)
	}
	return c
}

func put2[K comparable, V any](m map[string]map[K]V, name string, k K, v V) {
	if m[name] == nil {
		m[name] = map[K]V{}
	}
	m[name][k] = v
}

// generations maps every frontend to its generation.
func generations(t testing.TB, d *Datapath) map[bpfFrontendKey]uint64 {
	t.Helper()
	have, err := d.readServices()
	if err != nil {
		t.Fatal(err)
	}
	all := map[bpfFrontendKey]uint64{}
	for k, row := range have.frontends {
		all[k] = row.Generation
	}
	return all
}

// serviceDice make ports that take frontends from each other.
type serviceDice struct{ *rand.Rand }

// world is a random set of ports. No frontend has two.
func (d serviceDice) world() portMap {
	all := portMap{}
	taken := map[service.Frontend]bool{}
	for i := range 1 + d.IntN(6) {
		p := d.port(i)
		maps.DeleteFunc(p.Frontends, func(f service.Frontend, _ service.Kind) bool { return taken[f] })
		for f := range p.Frontends {
			taken[f] = true
		}
		if len(p.Frontends) > 0 {
			all[p.Name] = p
		}
	}
	return all
}

func (d serviceDice) port(i int) *service.Port {
	ipv4 := d.IntN(2) == 0
	protocol := []cluster.Protocol{cluster.TCP, cluster.UDP}[d.IntN(2)]
	f := family{ipv4, protocol}
	p := &service.Port{Name: service.PortName{ServiceName: cluster.ServiceName{Namespace: "ns", Name: fmt.Sprint("s", i)}, Protocol: protocol, IPv4: ipv4},
		Frontends: map[service.Frontend]service.Kind{}, InternalLocal: d.IntN(3) == 0, ExternalLocal: d.IntN(3) == 0, Affinity: []int{0, 0, 100}[d.IntN(3)]}
	number := []uint16{80, 443}[d.IntN(2)]
	for _, k := range []service.Kind{service.ClusterIP, service.LoadBalancer, service.NodePort} {
		addr := map[service.Kind]string{service.ClusterIP: "10.96.0.", service.LoadBalancer: "203.0.113.", service.NodePort: "0.0.0."}[k]
		if last := d.IntN(3); last > 0 || k == service.ClusterIP {
			at := service.Frontend{Addr: f.addr(addr + fmt.Sprint(1+last)), Port: number, Protocol: protocol}
			if k == service.NodePort {
				at.Addr, at.Port = f.addr("0.0.0.0"), 30000+uint16(last)
			}
			p.Frontends[at] = k
		}
	}
	for _, n := range d.Perm(6)[:d.IntN(5)] {
		p.Cluster = append(p.Cluster, service.Backend{Addr: f.addr(fmt.Sprint("10.0.1.", 2+n)), Port: 8080})
	}
	slices.SortFunc(p.Cluster, service.Backend.Compare)
	if p.InternalLocal || p.ExternalLocal {
		p.Local = p.Cluster[:min(len(p.Cluster), d.IntN(3))]
	}
	for _, n := range d.Perm(3)[:d.IntN(3)] {
		p.SourceRanges = append(p.SourceRanges, netip.PrefixFrom(f.addr("198.51.100.0"), 16+n).Masked())
	}
	return p
}

func changesBetween(old, next portMap) portMap {
	changed := portMap{}
	for name := range old {
		if next[name] == nil {
			changed[name] = nil
		}
	}
	for name, p := range next {
		if !reflect.DeepEqual(old[name], p) {
			changed[name] = p
		}
	}
	return changed
}

func resync(t testing.TB, d *Datapath, all portMap, at time.Time) []Change {
	t.Helper()
	changes, err := d.ResyncServices(all, false, at)
	if err != nil {
		t.Fatal(err)
	}
	return changes
}

func TestAnyHistoryOfServicesEndsInTheSameMaps(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := serviceDice{rand.New(rand.NewPCG(seed, 0))}
	d, fresh := openTest(t), openTest(t)
	at, have := time.Now(), portMap{}
	used := map[uint64]string{} // generations → owner and backends
	resync(t, d, have, at)
	for step := range 300 {
		next := r.world()
		at = at.Add(time.Duration(r.IntN(1500)) * time.Millisecond)
		switch r.IntN(8) {
		case 0:
			d.Close()
			d = reopen(t, d.dir)
			resync(t, d, next, at)
		case 1:
			resync(t, d, next, at)
		default:
			if err := d.SyncServices(changesBetween(have, next), at); err != nil {
				t.Fatal(err)
			}
		}
		have = next
		neverTwice(t, d, used)
		if step%10 != 0 {
			continue
		}
		for range 2 { // what was retired goes
			at = at.Add(retireAfter)
			if err := d.SyncServices(nil, at); err != nil {
				t.Fatal(err)
			}
		}
		if d.RetiredServices() {
			t.Fatal("something is retired for ever")
		}
		resync(t, fresh, have, at)
		resync(t, fresh, have, at.Add(retireAfter))
		got, want := canonOf(t, d), canonOf(t, fresh)
		if want.unnamed = 0; !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: after %d steps\n%+v\nfresh:\n%+v", seed, step, got, want)
		}
		if changes := resync(t, d, have, at); len(changes) > 0 {
			t.Fatalf("not at rest: %v", changes)
		}
		expectRows(t, d, have)
	}
}

// neverTwice notes which generations are in the maps, and whose backends they have.
func neverTwice(t *testing.T, d *Datapath, used map[uint64]string) {
	t.Helper()
	have, err := d.readServices()
	if err != nil {
		t.Fatal(err)
	}
	now := map[uint64][]string{}
	for k, b := range have.backends {
		now[k.Generation] = append(now[k.Generation], fmt.Sprint(k.Slot, b))
	}
	for generation, rows := range now {
		slices.Sort(rows)
		text := fmt.Sprint(rows)
		if had, ok := used[generation]; ok && had != text {
			t.Fatalf("generation %d was %s and is %s", generation, had, text)
		}
		used[generation] = text
	}
}

// expectRows compares the maps with what is wanted, row by row, without the code that wrote them.
func expectRows(t *testing.T, d *Datapath, want portMap) {
	t.Helper()
	have, err := d.readServices()
	if err != nil {
		t.Fatal(err)
	}
	n, addresses := 0, map[netip.Addr]bool{}
	for _, p := range want {
		for f, kind := range p.Frontends {
			row, ok := have.frontends[encodeFrontend(f)]
			if !ok {
				t.Fatalf("%s is not there", f)
			}
			n++
			if kind == service.ClusterIP {
				addresses[f.Addr] = true
			}
			for _, outside := range []bool{false, true} {
				backends, drop := p.Choose(kind, outside)
				choice, flag := row.Inside, bpfFrontendFlagsFRONTEND_INSIDE_DROP
				if outside {
					choice, flag = row.Outside, bpfFrontendFlagsFRONTEND_OUTSIDE_DROP
				}
				var got []service.Backend
				for i := range choice.Count {
					b := have.backends[bpfBackendKey{Generation: row.Generation, Slot: choice.First + i}]
					at := decodeAddrPort(b.Addr, b.Port)
					got = append(got, service.Backend{Addr: at.Addr(), Port: at.Port()})
					_, member := have.members[bpfMemberKey{Generation: row.Generation, Backend: b}]
					if member != (p.Name.Protocol == cluster.UDP || p.Affinity > 0) {
						t.Fatalf("%s: %v is a member: %v", f, at, member)
					}
				}
				if !slices.Equal(got, backends) || drop != (row.Flags&flag != 0) {
					t.Fatalf("%s, outside %v: %v, drop %v, want %v, %v", f, outside, got, row.Flags&flag != 0, backends, drop)
				}
			}
		}
	}
	if n+len(addresses) != len(have.frontends) {
		t.Fatalf("%d frontends and %d addresses, but %d rows", n, len(addresses), len(have.frontends))
	}
	for a := range addresses {
		if row := have.frontends[bpfFrontendKey{Addr: encodeAddr(a)}]; row.Flags != bpfFrontendFlagsFRONTEND_ADDRESS {
			t.Fatalf("the row of %s is %+v", a, row)
		}
	}
}

func TestARestartChangesNothingOfServices(t *testing.T) {
	d := openTest(t)
	all := portMap{}
	for _, f := range families() {
		maps.Copy(all, f.ports())
	}
	resync(t, d, all, time.Now())
	before := generations(t, d)
	d.Close()
	d = reopen(t, d.dir)
	if changes := resync(t, d, all, time.Now()); len(changes) > 0 {
		t.Fatalf("it changed %v", changes)
	}
	if after := generations(t, d); !maps.Equal(before, after) {
		t.Fatalf("generations %v became %v", before, after)
	}
	if d.RetiredServices() {
		t.Fatal("it retired something")
	}
}

// The last generation is forgotten by the maps before the agent restarts: it must not be given again, since sockets
// remember it.
func TestAGenerationThatTheMapsForgotIsNotGivenAgain(t *testing.T) {
	d := openTest(t)
	f := family{true, cluster.UDP}
	at := time.Now()
	p := f.port("a", "10.96.0.1:80", service.ClusterIP, "10.0.1.2:80")
	resync(t, d, portsOf(p), at)
	first := generations(t, d)[encodeFrontend(service.Frontend{Addr: f.addr("10.96.0.1"), Port: 80, Protocol: cluster.UDP})]
	if err := d.SyncServices(portMap{p.Name: nil}, at); err != nil {
		t.Fatal(err)
	}
	if err := d.SyncServices(nil, at.Add(retireAfter)); err != nil || d.RetiredServices() {
		t.Fatal(err)
	}
	d.Close()
	d = reopen(t, d.dir)
	resync(t, d, portsOf(f.port("a", "10.96.0.1:80", service.ClusterIP, "10.0.1.3:80")), at)
	for _, g := range generations(t, d) {
		if g == first {
			t.Fatalf("generation %d was given twice", g)
		}
	}
}

func TestBackendsOutliveTheSwapForAWhile(t *testing.T) {
	for _, again := range []string{"sync", "resync", "restart"} {
		t.Run(again, func(t *testing.T) {
			d := openTest(t)
			f, at := family{true, cluster.UDP}, time.Now()
			p := f.port("a", "10.96.0.1:80", service.ClusterIP, "10.0.1.2:80", "10.0.1.3:80")
			resync(t, d, portsOf(p), at)
			rows := func() (int, int) {
				have, err := d.readServices()
				if err != nil {
					t.Fatal(err)
				}
				return len(have.backends), len(have.members)
			}
			next := portsOf(f.port("a", "10.96.0.1:80", service.ClusterIP, "10.0.1.4:80"))
			switch again {
			case "sync":
				if err := d.SyncServices(next, at); err != nil {
					t.Fatal(err)
				}
			case "restart":
				d.Close()
				d = reopen(t, d.dir)
				fallthrough
			default:
				resync(t, d, next, at)
			}
			if b, m := rows(); b != 3 || m != 3 || !d.RetiredServices() {
				t.Fatalf("just after the swap there are %d backends and %d members, want 3", b, m)
			}
			if changes := resync(t, d, next, at.Add(retireAfter/2)); len(changes) > 0 {
				t.Fatalf("what is to go anyway is news: %v", changes)
			}
			if err := d.SyncServices(nil, at.Add(retireAfter)); err != nil {
				t.Fatal(err)
			}
			if b, m := rows(); b != 1 || m != 1 || d.RetiredServices() {
				t.Fatalf("later there are %d backends and %d members, want 1", b, m)
			}
		})
	}
}

func TestAFrontendMovesBetweenServicesInOneSync(t *testing.T) {
	d := openTest(t)
	f, at := family{true, cluster.TCP}, time.Now()
	for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
		from := f.port(names[0], "10.96.0.1:80", service.ClusterIP, "10.0.1.2:80")
		to := f.port(names[1], "10.96.0.2:80", service.ClusterIP, "10.0.1.3:80")
		resync(t, d, portsOf(from, to), at)
		after := f.port(names[0], "10.96.0.2:80", service.ClusterIP, "10.0.1.2:80")
		next := f.port(names[1], "10.96.0.1:80", service.ClusterIP, "10.0.1.3:80")
		if err := d.SyncServices(portsOf(after, next), at); err != nil {
			t.Fatal(err)
		}
		expectRows(t, d, portsOf(after, next))
		if err := d.SyncServices(portMap{after.Name: nil}, at); err != nil {
			t.Fatal(err)
		}
		expectRows(t, d, portsOf(next))
		if err := d.SyncServices(portMap{after.Name: f.port(names[0], "10.96.0.1:80", service.ClusterIP, "10.0.1.2:80"), next.Name: nil}, at); err != nil {
			t.Fatal(err)
		}
		expectRows(t, d, portsOf(f.port(names[0], "10.96.0.1:80", service.ClusterIP, "10.0.1.2:80")))
	}
}

// The addresses of cluster IPs that several ports have.
func TestAnAddressIsAServicesAsLongAsAPortHasIt(t *testing.T) {
	d := openTest(t)
	tcp, udp, at := family{true, cluster.TCP}, family{true, cluster.UDP}, time.Now()
	a, b := tcp.port("dns", "10.96.0.1:53", service.ClusterIP), udp.port("dns", "10.96.0.1:53", service.ClusterIP)
	resync(t, d, portsOf(a), at)
	for _, step := range []portMap{portsOf(b), {a.Name: nil}, {b.Name: nil, a.Name: a}} {
		if err := d.SyncServices(step, at); err != nil {
			t.Fatal(err)
		}
		if _, ok := generations(t, d)[bpfFrontendKey{Addr: encodeAddr(tcp.addr("10.96.0.1"))}]; !ok {
			t.Fatalf("after %v the address is nobody's", step)
		}
	}
	if err := d.SyncServices(portMap{a.Name: nil}, at); err != nil || len(generations(t, d)) != 0 {
		t.Fatalf("%v, %v", generations(t, d), err)
	}
}

// A map that is full leaves the frontends of what does not fit as they were, all else is written, and when there is
// room again everything is as it should be.
func TestAFullMapLeavesOldFrontendsWholeAndConverges(t *testing.T) {
	for name, size := range map[string]uint32{bpfMapBackends: 10, bpfMapMembers: 10, bpfMapSourceRanges: 2, bpfMapFrontends: 7} {
		for _, again := range []string{"sync", "resync"} {
			t.Run(name+" "+again, func(t *testing.T) { testFullMap(t, name, size, again == "resync") })
		}
	}
}

func testFullMap(t *testing.T, name string, size uint32, again bool) {
	d := openSized(t, map[string]uint32{name: size})
	if _, err := d.SyncMaps(servedWorld()); err != nil {
		t.Fatal(err)
	}
	f, at := family{true, cluster.UDP}, time.Now()
	small := f.port("small", "10.96.0.1:80", service.ClusterIP, "10.0.1.3:80")
	big := f.port("big", "10.96.0.2:80", service.LoadBalancer, "10.0.1.3:80", "10.0.1.2:80")
	resync(t, d, portsOf(small, big), at)
	tooBig, other := *big, f.port("small", "10.96.0.1:80", service.ClusterIP, "10.0.1.2:80")
	switch name {
	case bpfMapSourceRanges:
		for i := range 5 {
			tooBig.SourceRanges = append(tooBig.SourceRanges, netip.PrefixFrom(f.addr("198.51.100.0"), 16+i).Masked())
		}
	case bpfMapFrontends:
		tooBig.Frontends = map[service.Frontend]service.Kind{}
		for i := range uint16(10) {
			tooBig.Frontends[service.Frontend{Addr: f.addr("10.96.0.2"), Port: 80 + i, Protocol: cluster.UDP}] = service.LoadBalancer
		}
	default:
		tooBig.Cluster = nil
		for i := range uint16(12) {
			tooBig.Cluster = append(tooBig.Cluster, service.Backend{Addr: f.addr("10.0.1.2"), Port: 100 + i})
		}
	}
	next := portsOf(other, &tooBig)
	for i := range 4 { // however often it is tried
		at = at.Add(retireAfter)
		var err error
		if again || i > 0 {
			_, err = d.ResyncServices(next, false, at)
		} else {
			err = d.SyncServices(next, at)
		}
		if err == nil || d.ServicesKnown() {
			t.Fatalf("it did not say so: %v", err)
		}
		if name == bpfMapBackends && !errors.Is(err, errFull) {
			t.Fatal(err)
		}
		for range 20 {
			s := pass(t, d, desired.FromPod, f.packet(fmt.Sprint("10.0.1.4:", 10+i), "10.96.0.2:80"), "to stack")
			if got := (service.Backend{Addr: s.dst.Addr(), Port: s.dst.Port()}); name != bpfMapFrontends && !slices.Contains(big.Cluster, got) {
				t.Fatalf("try %d: a client gets %v", i, got)
			}
		}
		pass(t, d, desired.FromPod, f.packet(fmt.Sprint("10.0.1.4:", 50+i), "10.96.0.1:80"), "to stack").goes(t, f, fmt.Sprint("10.0.1.4:", 50+i), "10.0.1.2:80")
	}
	fits := portsOf(other, f.port("big", "10.96.0.2:80", service.LoadBalancer, "10.0.1.2:80"))
	for range 3 {
		at = at.Add(retireAfter)
		resync(t, d, fits, at)
	}
	if err := d.SyncServices(nil, at.Add(retireAfter)); err != nil {
		t.Fatal(err)
	}
	expectRows(t, d, fits)
	if c := canonOf(t, d); c.unnamed > 0 || len(resync(t, d, fits, at)) > 0 {
		t.Fatalf("%d rows are left", c.unnamed)
	}
}
