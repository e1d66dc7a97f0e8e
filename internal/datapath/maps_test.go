package datapath

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
)

func TestSyncMakesTheMapsSayWhatIsWanted(t *testing.T) {
	d := openTest(t)
	want := world()
	if changes, err := d.SyncMaps(want); err != nil || len(changes) == 0 {
		t.Fatalf("%v, %v", changes, err)
	}
	if changes, err := d.SyncMaps(want); err != nil || len(changes) != 0 {
		t.Fatalf("a second sync changed %v, %v", changes, err)
	}
	gone := netip.MustParseAddr("10.0.1.3")
	delete(want.Endpoints, gone)
	changes, err := d.SyncMaps(want)
	if err != nil || !reflect.DeepEqual(changes, []Change{{"endpoints", "10.0.1.3", "delete"}}) {
		t.Fatalf("%v, %v", changes, err)
	}
	if _, ok, err := d.Endpoint(gone); ok || err != nil {
		t.Fatalf("endpoint is still there: %v", err)
	}
}

// Whatever the history, the maps end as on a fresh start.
func TestAnyHistoryEndsInTheSameMaps(t *testing.T) {
	d := openTest(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 50 {
		want := randomTables(r)
		if _, err := d.SyncMaps(want); err != nil {
			t.Fatal(err)
		}
		have, err := listMap(d.maps[bpfMapEndpoints], endpointCodec())
		if err != nil || !reflect.DeepEqual(have, want.Endpoints) {
			t.Fatalf("endpoints are %v, want %v (%v)", have, want.Endpoints, err)
		}
		if changes, err := d.SyncMaps(want); err != nil || len(changes) > 0 {
			t.Fatalf("not at rest: %v, %v", changes, err)
		}
	}
}

func randomTables(r *rand.Rand) desired.Tables {
	full := world()
	for a := range full.Endpoints {
		if r.IntN(2) == 0 {
			delete(full.Endpoints, a)
		}
	}
	for p, row := range full.Remotes {
		row.Index = r.IntN(3)
		full.Remotes[p] = row
		if r.IntN(2) == 0 {
			delete(full.Remotes, p)
		}
	}
	return full
}

func TestRowsSurviveTheWayIntoTheKernelAndBack(t *testing.T) {
	check := func(name string, f any) {
		t.Run(name, func(t *testing.T) {
			if err := quick.Check(f, nil); err != nil {
				t.Error(err)
			}
		})
	}
	check("IPv4 address", func(b [4]byte) bool { a := netip.AddrFrom4(b); return decodeAddr(encodeAddr(a)) == a })
	check("IPv6 address", func(b [16]byte) bool {
		a := netip.AddrFrom16(b).Unmap()
		return a.IsUnspecified() || decodeAddr(encodeAddr(a)) == a
	})
	check("prefix", func(b [16]byte, bits uint8) bool {
		p := netip.PrefixFrom(netip.AddrFrom16(b), int(bits)%129).Masked()
		return p.Addr().Unmap().Is4() || decodePrefix(encodePrefix(p)) == p
	})
	check("IPv4 prefix", func(b [4]byte, bits uint8) bool {
		p := netip.PrefixFrom(netip.AddrFrom4(b), int(bits)%33).Masked()
		return decodePrefix(encodePrefix(p)) == p
	})
	check("remote", func(kind, index uint8, node, via [4]byte, host bool) bool {
		r := route.Remote{Kind: route.Kind(kind), Index: int(index), Node: netip.AddrFrom4(node), Via: netip.AddrFrom4(via), Host: host}
		return decodeRemote(encodeRemote(r)) == r
	})
	check("endpoint", func(index uint16, pod, host [6]byte, shaped bool) bool {
		e := route.Endpoint{Index: int(index), PodMAC: pod, HostMAC: host, Shaped: shaped}
		return decodeEndpoint(encodeEndpoint(e)) == e
	})
}

func TestReservationsOutliveTheAgent(t *testing.T) {
	d := openTest(t)
	addr := netip.MustParseAddr("10.0.1.7")
	want := Reservation{Network: "net", ContainerID: strings.Repeat("c", 128), Ifname: "eth0", Freed: 5 * time.Second}
	if err := d.PutReservation(addr, want); err != nil {
		t.Fatal(err)
	}
	d.Close()
	again := reopen(t, d.dir)
	have, err := again.Reservations()
	if err != nil || have[addr] != want {
		t.Fatalf("%v, %v", have, err)
	}
	if err := again.PutReservation(addr, Reservation{Network: strings.Repeat("n", 65)}); err == nil {
		t.Fatal("a name that does not fit was cut")
	}
}

// An agent of another build may run on this node tomorrow. Reservations cannot be compiled anew, so their layout may
// change only together with code that carries them over.
func TestTheLayoutOfReservationsIsFrozen(t *testing.T) {
	spec, err := loadBpf()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := layout(spec.Maps[bpfMapReserved]), frozenReserved; got != want {
		t.Fatalf("layout of reserved is %s, was %s", got, want)
	}
}

const frozenReserved = "9334e542"

func TestAMapPinThatSomebodyRemovedComesBack(t *testing.T) {
	d := worldOf(t)
	pin := filepath.Join(d.dir, "maps", pinName(d.spec, bpfMapRemotes))
	if err := os.Remove(pin); err != nil {
		t.Fatal(err)
	}
	changes, err := d.SyncMaps(world())
	if err != nil || !reflect.DeepEqual(changes, []Change{{"pins", "remotes", "add"}}) {
		t.Fatalf("%v, %v", changes, err)
	}
	if _, err := os.Lstat(pin); err != nil {
		t.Fatal(err)
	}
}

func TestAnotherLayoutIsAnotherMap(t *testing.T) {
	d := worldOf(t)
	old := filepath.Join(d.dir, "maps", "remotes_0ld1ay0u")
	link := filepath.Join(d.dir, "maps", pinName(d.spec, bpfMapRemotes))
	if err := os.Rename(link, old); err != nil {
		t.Fatal(err)
	}
	if _, err := d.SyncMaps(world()); err != nil { // puts the right pin back
		t.Fatal(err)
	}
	if err := d.RemoveOtherLayouts(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(old); !os.IsNotExist(err) {
		t.Fatalf("the map of another layout is still pinned: %v", err)
	}
}

func TestMapsThatJudgeTogetherHaveOneLayout(t *testing.T) {
	pins := func(changed string) map[string]string {
		spec, err := loadBpf()
		if err != nil {
			t.Fatal(err)
		}
		if changed != "" {
			spec.Maps[changed].MaxEntries *= 2
		}
		names := map[string]string{}
		for name := range spec.Maps {
			names[name] = pinName(spec, name)
		}
		return names
	}
	judging, before := []string{"endpoints", "classes", "blocks", "rules"}, pins("")
	for _, changed := range append(judging, "remotes") {
		for name, pin := range pins(changed) {
			want := name == changed || slices.Contains(judging, name) && slices.Contains(judging, changed)
			if other := pin != before[name]; other != want {
				t.Errorf("%s has another layout; %s, another pin: %t", changed, name, other)
			}
		}
	}
}

func TestAFolderThatIsNoBPFFileSystemIsRefused(t *testing.T) {
	openTest(t) // for the skip without root
	_, err := Open(filepath.Join(t.TempDir(), "polder"), slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Fatalf("got %v", err)
	}
}

func TestEveryOutcomeHasItsWords(t *testing.T) {
	d := openTest(t)
	counters, err := d.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if len(counters) != int(bpfOutcomeOUTCOMES)-1 {
		t.Fatal(fmt.Sprint(counters))
	}
	for name := range counters {
		if name != "refused" && !strings.HasPrefix(name, "to ") && !strings.HasPrefix(name, "drop ") {
			t.Errorf("outcome %q", name)
		}
	}
}
