package netdev

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/cluster"
)

func TestARecordComesBackAsItWasWritten(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	word := func(longest int) string {
		const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
		b := make([]byte, 1+rnd.IntN(longest))
		for i := range b {
			b[i] = letters[rnd.IntN(len(letters))]
		}
		return string(b)
	}
	random := func() netip.Addr {
		if rnd.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, byte(rnd.Uint32()), byte(rnd.Uint32()), byte(rnd.Uint32())})
		}
		b := [16]byte{0: 0xfd}
		for i := 1; i < 16; i++ {
			b[i] = byte(rnd.Uint32())
		}
		return netip.AddrFrom16(b)
	}
	for range 10_000 {
		p := cluster.LocalPod{Network: word(20), ContainerID: word(70), Ifname: word(15), Shaped: rnd.IntN(2) == 0, Behind: rnd.IntN(2) == 0}
		for range 1 + rnd.IntN(2) {
			p.Addresses = append(p.Addresses, random())
		}
		if rnd.IntN(4) > 0 {
			p.Namespace, p.Name = word(63), word(253)
			if rnd.IntN(4) > 0 {
				p.UID = cluster.HashUID(word(36))
			}
		}
		record, err := encodeRecord(p)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(record) > recordMax {
			t.Fatalf("seed %d: record of %d bytes: %q", seed, len(record), record)
		}
		got, err := decodeRecord(record)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got.Name == "" && p.Name != "" { // had no room
			p.NameHash, p.Namespace, p.Name = cluster.HashName(p.Namespace, p.Name), "", ""
		}
		if len(p.Network+p.ContainerID+p.Ifname) < 100 && got.UID != p.UID {
			t.Fatalf("seed %d: UID %s of %+v is forgotten in %d bytes", seed, p.UID, p, len(record))
		}
		p.UID = got.UID
		if !reflect.DeepEqual(got, p) {
			t.Fatalf("seed %d: got %+v, want %+v", seed, got, p)
		}
	}
}

// A pod's name may be hashed to make room for its UID, and the UID be left out to make room for that.
func TestTheUIDIsKeptInTheRecordBeforeTheNamesText(t *testing.T) {
	p := aPod("c")
	p.UID = cluster.HashUID("6a1b5b1e-8b1c-4c7c-9c4c-0a8d7f1f2e3d")
	p.Name = strings.Repeat("n", 180)
	for _, c := range []struct {
		container int
		name, uid bool
	}{{12, true, true}, {13, false, true}, {183, false, true}, {184, false, false}, {192, false, false}} {
		p.ContainerID = strings.Repeat("c", c.container)
		record, err := encodeRecord(p)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRecord(record)
		if err != nil || (got.Name == p.Name) != c.name || (got.UID == p.UID) != c.uid || got.Name == "" && got.NameHash == "" {
			t.Errorf("container ID of %d bytes: %q reads as %+v, %v", c.container, record, got, err)
		}
	}
}

func TestALongPodNameIsHashedInTheRecordAndNothingElseIs(t *testing.T) {
	p := aPod(strings.Repeat("c", 64))
	p.Name = strings.Repeat("n", 253)
	record, err := encodeRecord(p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeRecord(record)
	if err != nil {
		t.Fatal(err)
	}
	p.NameHash, p.Namespace, p.Name, p.MTU = cluster.HashName(p.Namespace, p.Name), "", "", 0
	if !reflect.DeepEqual(got, p) {
		t.Errorf("got %+v, want %+v", got, p)
	}
	if again, err := encodeRecord(got); err != nil || again != record {
		t.Errorf("what was read is written as %q, not %q: %v", again, record, err)
	}
	p.Network = strings.Repeat("n", 200)
	if _, err := encodeRecord(p); !errors.Is(err, ErrRecord) {
		t.Errorf("a network's name that does not fit: error is %v", err)
	}
}

func TestWhatCannotBeWrittenIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(p *cluster.LocalPod){
		"a blank in the container ID": func(p *cluster.LocalPod) { p.ContainerID = "a b" },
		"no network":                  func(p *cluster.LocalPod) { p.Network = "" },
		"a newline in the interface":  func(p *cluster.LocalPod) { p.Ifname = "eth0\n" },
		"no address":                  func(p *cluster.LocalPod) { p.Addresses = nil },
		"an address with a zone":      func(p *cluster.LocalPod) { p.Addresses = addrs("fe80::1%eth0") },
		"an IPv4 address as IPv6":     func(p *cluster.LocalPod) { p.Addresses = addrs("::ffff:10.0.0.1") },
		"the zero address":            func(p *cluster.LocalPod) { p.Addresses = make([]netip.Addr, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			p := aPod("c1")
			spoil(&p)
			if record, err := encodeRecord(p); !errors.Is(err, ErrRecord) {
				t.Errorf("record %q, error %v", record, err)
			}
		})
	}
}

func TestWhatIsNoRecordIsRefused(t *testing.T) {
	for _, s := range []string{
		"", " ", "pdr2", "pdr2 ", "pdr2s 00000000", "pdr3 net c1 eth0 10.0.0.1 00000000", "pdr2 net c1 eth0 10.0.0.1",
		strings.Repeat("x", 300), "polder1", "polder1 net c1 eth0", "polder2 net c1 eth0 10.0.0.1", "polder1 net c1 eth0 10.0.0.1,",
		"polder1 net c1 eth0 10.0.0", "polder1  c1 eth0 10.0.0.1", "polder1 net c1 eth0 10.0.0.1 default",
		"polder1 net c1 eth0 10.0.0.1 default/", "polder1 net c1 eth0 10.0.0.1 a/b/c", "polder1 net c1 eth0 10.0.0.1 a/b c",
		"polder1 net c1 eth0 fe80::1%eth0", "polder1 net c1 eth0 10.0.0.1 a/b ", "\x00polder1 net c1 eth0 10.0.0.1",
	} {
		if p, err := decodeRecord(s); !errors.Is(err, ErrRecord) {
			t.Errorf("%q reads as %+v, error %v", s, p, err)
		}
	}
}

// What a record says is its link's address: a damaged one must not read as another's.
func TestARecordThatWasCutOffOrAlteredIsNone(t *testing.T) {
	for name, spoil := range map[string]func(*cluster.LocalPod){
		"with a pod's name": func(*cluster.LocalPod) {},
		"without":           func(p *cluster.LocalPod) { p.Name = "" },
		"of a shaped pod":   func(p *cluster.LocalPod) { p.Shaped = true },
		"of 255 bytes": func(p *cluster.LocalPod) {
			p.Network, p.Name = strings.Repeat("n", recordMax-55), ""
		},
	} {
		p := aPod("0123456789abcdef")
		spoil(&p)
		record, err := encodeRecord(p)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range record {
			if got, err := decodeRecord(record[:i]); err == nil {
				t.Errorf("%s: cut off after %d bytes, %q reads as %+v", name, i, record, got)
			}
			for flip := 1; flip < 256; flip++ {
				b := []byte(record)
				b[i] ^= byte(flip)
				if got, err := decodeRecord(string(b)); err == nil {
					t.Errorf("%s: altered to %q, it reads as %+v", name, b, got)
				}
			}
		}
	}
}

// Pods that came before an upgrade keep what they have.
func TestARecordOfTheVersionBeforeIsRead(t *testing.T) {
	p := aPod("c1")
	p.MTU = 0
	for record, shaped := range map[string]bool{
		"polder1 polder c1 eth0 10.1.0.7,fd00:1::7 default/web-c1":        false,
		"polder1,shaped polder c1 eth0 10.1.0.7,fd00:1::7 default/web-c1": true,
	} {
		p.Shaped = shaped
		if got, err := decodeRecord(record); err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%q reads as %+v, %v", record, got, err)
		}
	}
}

func TestLinkNamesAreShortAndDifferPerAttachment(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range [][3]string{{"n", "c", "eth0"}, {"n", "c", "eth1"}, {"n", "d", "eth0"}, {"m", "c", "eth0"},
		{strings.Repeat("n", 100), strings.Repeat("c", 300), "eth0"}} {
		name := LinkName(a[0], a[1], a[2])
		if len(name) > 15 || !isPodLink(name) || seen[name] {
			t.Errorf("%v: name %q", a, name)
		}
		seen[name] = true
	}
	for _, name := range []string{"pdr", "pdrain0", "pdr0123456789", "pdr0123456789g", "eth0", "xpdr01234567890", "pdr0123456789A"} {
		if isPodLink(name) {
			t.Errorf("%q passes for a pod's link", name)
		}
	}
}

func FuzzRecord(f *testing.F) {
	named := aPod("c2")
	named.UID = cluster.HashUID("u")
	for _, p := range []cluster.LocalPod{aPod("c1"), named, {Network: "n", ContainerID: "c", Ifname: "e", Addresses: addrs("::1")}} {
		record, err := encodeRecord(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(record)
	}
	f.Add("polder1 n c e 10.0.0.1 a/b")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := decodeRecord(s)
		if err != nil {
			return
		}
		again, err := encodeRecord(p)
		if err != nil {
			t.Fatalf("%q was read, but cannot be written: %v", s, err)
		}
		q, err := decodeRecord(again)
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("%q reads as %+v, and written again as %+v (%v)", s, p, q, err)
		}
	})
}
