package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/route"
)

// FormerEndpoint reads what the maps of endpoints that have another layout say of an address, and whether they do: of its
// link, whether its pod was late, and which of its directions were open. All others are closed here, since rulesets may
// have been named otherwise. Fields are found by their names, as the kernel knows them; where there is one that cannot be
// found, there is no endpoint.
func (d *Datapath) FormerEndpoint(a netip.Addr) (e route.Endpoint, ok bool, err error) {
	pins, err := filepath.Glob(filepath.Join(d.dir, "maps", bpfMapEndpoints+"_*"))
	if err != nil {
		return e, false, fmt.Errorf("find maps of endpoints: %w", err)
	}
	own := pinName(d.spec, bpfMapEndpoints)
	for _, pin := range pins {
		if filepath.Base(pin) == own {
			continue
		}
		former, there, err := readFormer(pin, a)
		if err != nil {
			return e, false, fmt.Errorf("read map %s: %w", filepath.Base(pin), err)
		}
		if !there {
			continue
		}
		if ok && former.Index == e.Index { // whichever judged last
			former.Ingress, former.Egress = max(former.Ingress, e.Ingress), max(former.Egress, e.Egress)
		}
		e, ok = former, true
	}
	return e, ok, nil
}

func readFormer(pin string, a netip.Addr) (e route.Endpoint, ok bool, err error) {
	m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return e, false, err
	}
	defer m.Close()
	fields, err := fieldsOf(m, "endpoint")
	key := encodeAddr(a)
	if err != nil || int(m.KeySize()) != binary.Size(key) {
		return e, false, err
	}
	value, err := m.LookupBytes(key)
	if value == nil || errors.Is(err, ebpf.ErrKeyNotExist) {
		return e, false, nil
	}
	if err != nil {
		return e, false, err
	}
	ok = true
	read := func(name string) uint64 {
		n, there := fields[name].read(value)
		ok = ok && there
		return n
	}
	shut := func(name string) uint64 {
		if read(name) == uint64(policy.Open) {
			return uint64(policy.Open)
		}
		return uint64(policy.Closed)
	}
	e = route.Endpoint{Index: int(read("ifindex")), Ingress: shut("ingress"), Egress: shut("egress"), Late: read("late") != 0}
	return e, ok, nil
}

// field is where a field of a map's value is, in bytes.
type field struct{ at, size int }

// read returns a field's number; false, if it holds none.
func (f field) read(value []byte) (uint64, bool) {
	if f.at+f.size > len(value) {
		return 0, false
	}
	switch b := value[f.at:]; f.size {
	case 1:
		return uint64(b[0]), true
	case 4:
		return uint64(binary.NativeEndian.Uint32(b)), true
	case 8:
		return binary.NativeEndian.Uint64(b), true
	}
	return 0, false
}

// fieldsOf are the fields of a map's value as whoever made the map has told the kernel; none, if they did not.
func fieldsOf(m *ebpf.Map, name string) (map[string]field, error) {
	info, err := m.Info()
	if err != nil {
		return nil, err
	}
	id, ok := info.BTFID()
	if !ok {
		return nil, nil
	}
	handle, err := btf.NewHandleFromID(id)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	spec, err := handle.Spec(nil)
	if err != nil {
		return nil, err
	}
	var value *btf.Struct
	if spec.TypeByName(name, &value) != nil {
		return nil, nil
	}
	fields := map[string]field{}
	for _, member := range value.Members {
		if size, err := btf.Sizeof(member.Type); err == nil {
			fields[member.Name] = field{int(member.Offset.Bytes()), size}
		}
	}
	return fields, nil
}
