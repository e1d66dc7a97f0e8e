package datapath

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/table"
)

// Change is one row that was not as it should be and now is.
type Change struct{ Table, Row, Verb string }

// SyncMaps makes the maps say what want says: it lists what they say, and writes the difference. Remotes come before
// endpoints and leave after them: an endpoint is what makes a pod reachable. Rows that cannot be written are left for
// the next time and named in the error.
func (d *Datapath) SyncMaps(want desired.Tables) ([]Change, error) {
	changes, err := d.repinMaps()
	errs := []error{err}
	c, err := d.syncConfig(want.Config)
	changes, errs = append(changes, c...), append(errs, err)
	c, err = syncMap(d.maps[bpfMapRemotes], want.Remotes, codec[netip.Prefix, bpfRemoteKey, route.Remote, bpfRemote]{
		"remotes", encodePrefix, decodePrefix, encodeRemote, decodeRemote, comparePrefix})
	changes, errs = append(changes, c...), append(errs, err)
	c, err = syncMap(d.maps[bpfMapEndpoints], want.Endpoints, endpointCodec())
	return append(changes, c...), errors.Join(append(errs, err)...)
}

// PutEndpoint writes one endpoint: from here on its pod receives.
func (d *Datapath) PutEndpoint(a netip.Addr, e route.Endpoint) error {
	if err := d.maps[bpfMapEndpoints].Put(encodeAddr(a), encodeEndpoint(e)); err != nil {
		return fmt.Errorf("write endpoint %s: %w", a, err)
	}
	return nil
}

// DeleteEndpoint removes one endpoint, if it is there.
func (d *Datapath) DeleteEndpoint(a netip.Addr) error {
	err := d.maps[bpfMapEndpoints].Delete(encodeAddr(a))
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete endpoint %s: %w", a, err)
	}
	return nil
}

// Endpoint reads one endpoint back, and whether there is one.
func (d *Datapath) Endpoint(a netip.Addr) (route.Endpoint, bool, error) {
	var e bpfEndpoint
	err := d.maps[bpfMapEndpoints].Lookup(encodeAddr(a), &e)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return route.Endpoint{}, false, nil
	}
	if err != nil {
		return route.Endpoint{}, false, fmt.Errorf("read endpoint %s: %w", a, err)
	}
	return decodeEndpoint(e), true, nil
}

func (d *Datapath) syncConfig(want desired.Config) ([]Change, error) {
	var have bpfConfig
	m := d.maps[bpfMapConfiguration]
	if err := m.Lookup(uint32(0), &have); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	entry := encodeConfig(want)
	entry.Blocks = d.blocksFlag(have.Blocks, want.Policies)
	if have == entry {
		return nil, nil
	}
	if err := m.Put(uint32(0), entry); err != nil {
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	if have.Blocks > entry.Blocks {
		if have.Blocks = entry.Blocks; have == entry {
			return nil, nil // the last prefix went: nobody's hands were there
		}
	}
	return []Change{{"configuration", "", "replace"}}, nil
}

// codec says how a row becomes a map entry and back.
type codec[K comparable, MK any, V comparable, MV any] struct {
	name        string
	encodeKey   func(K) MK
	decodeKey   func(MK) K
	encodeValue func(V) MV
	decodeValue func(MV) V
	compare     func(a, b K) int
}

func syncMap[K comparable, MK any, V comparable, MV any](m *ebpf.Map, want map[K]V, c codec[K, MK, V, MV]) ([]Change, error) {
	have, err := listMap(m, c)
	if err != nil {
		return nil, err
	}
	var changes []Change
	var errs []error
	put, del := table.Diff(have, want, c.compare)
	for _, r := range put {
		if err := m.Put(c.encodeKey(r.Key), c.encodeValue(r.Row)); err != nil {
			errs = append(errs, fmt.Errorf("write %s %v: %w", c.name, r.Key, err))
			continue
		}
		changes = append(changes, Change{c.name, fmt.Sprint(r.Key), "put"})
	}
	for _, r := range del {
		if err := m.Delete(c.encodeKey(r.Key)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("delete %s %v: %w", c.name, r.Key, err))
			continue
		}
		changes = append(changes, Change{c.name, fmt.Sprint(r.Key), "delete"})
	}
	return changes, errors.Join(errs...)
}

func listMap[K comparable, MK any, V comparable, MV any](m *ebpf.Map, c codec[K, MK, V, MV]) (map[K]V, error) {
	have := map[K]V{}
	var key MK
	var value MV
	it := m.Iterate()
	for it.Next(&key, &value) {
		have[c.decodeKey(key)] = c.decodeValue(value)
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list %s: %w", c.name, err)
	}
	return have, nil
}

func endpointCodec() codec[netip.Addr, bpfAddr, route.Endpoint, bpfEndpoint] {
	return codec[netip.Addr, bpfAddr, route.Endpoint, bpfEndpoint]{
		"endpoints", encodeAddr, decodeAddr, encodeEndpoint, decodeEndpoint, netip.Addr.Compare}
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Words are in network byte order on both sides: the bytes stay as they are.
func encodeAddr(a netip.Addr) (e bpfAddr) {
	if !a.IsValid() {
		return e
	}
	b := a.As16()
	for i := range e.Word {
		e.Word[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return e
}

// The zero entry is no address: nothing has the address :: here.
func decodeAddr(e bpfAddr) netip.Addr {
	if e.Word == [4]uint32{} {
		return netip.Addr{}
	}
	var b [16]byte
	for i, w := range e.Word {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

func encodePrefix(p netip.Prefix) bpfRemoteKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return bpfRemoteKey{Prefixlen: uint32(bits), Addr: encodeAddr(p.Masked().Addr())}
}

func decodePrefix(k bpfRemoteKey) netip.Prefix {
	a, bits := decodeAddr(k.Addr), int(k.Prefixlen)
	if !a.IsValid() {
		a = netip.IPv6Unspecified()
	}
	if a.Is4() {
		bits -= 96
	}
	return netip.PrefixFrom(a, bits)
}

func encodeRemote(r route.Remote) bpfRemote {
	e := bpfRemote{Kind: bpfRemoteKind(r.Kind), Ifindex: uint32(r.Index), Via: encodeAddr(r.Via), Node: encodeAddr(r.Node)}
	if r.Host {
		e.Host = 1
	}
	return e
}

func decodeRemote(e bpfRemote) route.Remote {
	return route.Remote{Kind: route.Kind(e.Kind), Index: int(e.Ifindex), Via: decodeAddr(e.Via),
		Node: decodeAddr(e.Node), Host: e.Host == 1}
}

func encodeEndpoint(e route.Endpoint) bpfEndpoint {
	b := bpfEndpoint{Ifindex: uint32(e.Index), PodMac: bpfMac{Byte: e.PodMAC}, HostMac: bpfMac{Byte: e.HostMAC}}
	b.Shaped, b.Late = uint32(flag(e.Shaped)), uint32(flag(e.Late))
	b.Ingress, b.Egress = e.Ingress, e.Egress
	return b
}

func decodeEndpoint(e bpfEndpoint) route.Endpoint {
	return route.Endpoint{Index: int(e.Ifindex), PodMAC: e.PodMac.Byte, HostMAC: e.HostMac.Byte, Shaped: e.Shaped == 1,
		Ingress: e.Ingress, Egress: e.Egress, Late: e.Late == 1}
}

func encodeConfig(c desired.Config) bpfConfig {
	e := bpfConfig{TunnelIfindex: uint32(c.Tunnel), TunnelVni: route.TunnelVNI}
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], route.TunnelPort)
	e.TunnelPort = binary.NativeEndian.Uint16(port[:])
	e.OthersPods, e.Policies = flag(c.OthersPods), flag(c.Policies)
	e.Services, e.AskConntrack, e.SocketUdp = flag(c.Services), flag(c.AskConntrack), flag(c.SocketUDP)
	e.HostCookie, e.Node = c.HostCookie, [2]bpfAddr{encodeAddr(c.Node4), encodeAddr(c.Node6)}
	for i, p := range []netip.Prefix{c.PodCIDR4, c.PodCIDR6} {
		e.PodCidr[i] = encodeMask(p)
	}
	for i, p := range []netip.Prefix{c.ServiceCIDR4, c.ServiceCIDR6} {
		e.ServiceCidr[i] = encodeMask(p)
	}
	return e
}

func flag(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// An invalid prefix becomes one that nothing matches: its address has bits that its mask has not.
func encodeMask(p netip.Prefix) (e bpfPrefix) {
	if !p.IsValid() {
		e.Addr.Word = [4]uint32{1, 1, 1, 1}
		return e
	}
	key := encodePrefix(p)
	e.Addr = key.Addr
	var mask [16]byte
	for i := range int(key.Prefixlen) {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	e.Mask = encodeAddr(netip.AddrFrom16(mask))
	return e
}

// Counters returns the packets of every outcome, summed over the processors, by its name: "drop spoofed mac".
func (d *Datapath) Counters() (map[string]uint64, error) {
	out := map[string]uint64{}
	for i := uint32(1); i < uint32(bpfOutcomeOUTCOMES); i++ {
		var perCPU []bpfCount
		if err := d.maps[bpfMapCounts].Lookup(i, &perCPU); err != nil {
			return nil, fmt.Errorf("read counter %s: %w", d.outcomes[i], err)
		}
		var sum uint64
		for _, c := range perCPU {
			sum += c.Packets
		}
		out[outcomeWords(d.outcomes[i])] = sum
	}
	return out, nil
}

func outcomeWords(name string) string {
	return strings.ToLower(strings.ReplaceAll(name, "_", " "))
}
