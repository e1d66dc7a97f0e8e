package datapath

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/route"
)

// otherEndpoints pins a map of endpoints whose fields are elsewhere, or are not all there.
func otherEndpoints(t *testing.T, d *Datapath, pin string, fields ...string) *ebpf.Map {
	t.Helper()
	value := &btf.Struct{Name: "endpoint", Size: uint32(8 * len(fields))}
	for i, name := range fields {
		size := uint32(8)
		if name == "ifindex" {
			size = 4
		}
		value.Members = append(value.Members, btf.Member{Name: name, Type: &btf.Int{Size: size}, Offset: btf.Bits(64 * i)})
	}
	own := d.spec.Maps[bpfMapEndpoints]
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "endpoints", Type: ebpf.Hash, KeySize: own.KeySize, ValueSize: value.Size, MaxEntries: 8, Key: own.Key, Value: value})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := m.Pin(filepath.Join(d.dir, "maps", pin)); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestEndpointsOfAnotherLayoutSayWhoWasOpen(t *testing.T) {
	d, a := openTest(t), netip.MustParseAddr("10.0.1.2")
	ask := func(want route.Endpoint, there bool) {
		t.Helper()
		if e, ok, err := d.FormerEndpoint(a); err != nil || ok != there || ok && e != want {
			t.Fatalf("%+v, %t, %v; want %+v, %t", e, ok, err, want, there)
		}
	}
	ask(route.Endpoint{}, false)
	const open, closed = uint64(policy.Open), uint64(policy.Closed)
	first := otherEndpoints(t, d, "endpoints_11111111", "late", "egress", "unheard", "ingress", "ifindex")
	ask(route.Endpoint{}, false)
	put := func(m *ebpf.Map, row ...uint64) {
		t.Helper()
		if err := m.Put(encodeAddr(a), row); err != nil {
			t.Fatal(err)
		}
	}
	put(first, 1, 0, 9, 77<<32, 5)
	ask(route.Endpoint{Index: 5, Ingress: closed, Egress: open, Late: true}, true)
	second := otherEndpoints(t, d, "endpoints_22222222", "ifindex", "ingress", "egress", "late")
	put(second, 5, 0, 1, 1)
	ask(route.Endpoint{Index: 5, Ingress: closed, Egress: closed, Late: true}, true)
	if err := first.Unpin(); err != nil {
		t.Fatal(err)
	}
	ask(route.Endpoint{Index: 5, Ingress: open, Egress: closed, Late: true}, true)
	if err := second.Unpin(); err != nil {
		t.Fatal(err)
	}
	put(otherEndpoints(t, d, "endpoints_33333333", "ifindex", "ingress"), 5, 0)
	ask(route.Endpoint{}, false)
}
