package datapath

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/service"
)

// Ports are in network byte order in maps, as packets and sockets have them.
func encodePort(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

func decodeAddrPort(a bpfAddr, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(decodeAddr(a), encodePort(port)) // its own inverse
}

func encodeFrontend(f service.Frontend) bpfFrontendKey {
	return bpfFrontendKey{Addr: encodeAddr(f.Addr), Port: encodePort(f.Port), Proto: uint8(f.Protocol)}
}

// addressRow says that an address is a Service's, whatever the port.
func addressRow(a netip.Addr) (bpfFrontendKey, bpfFrontend) {
	return bpfFrontendKey{Addr: encodeAddr(a)}, bpfFrontend{Flags: bpfFrontendFlagsFRONTEND_ADDRESS}
}

func encodeBackend(b service.Backend) bpfBackend {
	return bpfBackend{Addr: encodeAddr(b.Addr), Port: encodePort(b.Port)}
}

// encodeBackends are a port's slots: those of the cluster, then those of this node.
func encodeBackends(p *service.Port) []bpfBackend {
	slots := make([]bpfBackend, 0, len(p.Cluster)+len(p.Local))
	for _, b := range p.Cluster {
		slots = append(slots, encodeBackend(b))
	}
	for _, b := range p.Local {
		slots = append(slots, encodeBackend(b))
	}
	return slots
}

// ownerOf is a number for a Service's port that lasts as long as its name.
func ownerOf(n service.PortName) uint64 {
	family := "6"
	if n.IPv4 {
		family = "4"
	}
	sum := sha256.Sum256([]byte(n.Namespace + "/" + n.Name + "/" + n.Port + "/" + n.Protocol.String() + family))
	return binary.NativeEndian.Uint64(sum[:])
}

// hasMembers says whether somebody asks if a backend still serves: datagrams, which nothing ends, and clients that stay.
func hasMembers(p *service.Port) bool { return p.Name.Protocol == cluster.UDP || p.Affinity > 0 }

// encodeRow is the value of one frontend of a port.
func encodeRow(p *service.Port, kind service.Kind, generation uint64) bpfFrontend {
	row := bpfFrontend{Generation: generation, Owner: ownerOf(p.Name), Affinity: uint32(p.Affinity)}
	set := func(flag bpfFrontendFlags, on bool) {
		if on {
			row.Flags |= flag
		}
	}
	inside, drop := p.Choose(kind, false)
	set(bpfFrontendFlagsFRONTEND_INSIDE_DROP, drop)
	outside, drop := p.Choose(kind, true)
	set(bpfFrontendFlagsFRONTEND_OUTSIDE_DROP, drop)
	set(bpfFrontendFlagsFRONTEND_INSIDE_LOCAL, kind == service.ClusterIP && p.InternalLocal)
	set(bpfFrontendFlagsFRONTEND_OUTSIDE_LOCAL, kind == service.ClusterIP && p.InternalLocal || kind != service.ClusterIP && p.ExternalLocal)
	set(bpfFrontendFlagsFRONTEND_SOURCE_RANGES, kind == service.LoadBalancer && len(p.SourceRanges) > 0)
	if kind != service.ClusterIP && kind != service.HostPort {
		row.Ring = uint32(ringSize(p))
	}
	row.Inside = choiceOf(len(inside), row.Flags&bpfFrontendFlagsFRONTEND_INSIDE_LOCAL != 0, len(p.Cluster))
	row.Outside = choiceOf(len(outside), row.Flags&bpfFrontendFlagsFRONTEND_OUTSIDE_LOCAL != 0, len(p.Cluster))
	return row
}

// choiceOf says where the slots begin: those of this node come after those of the cluster.
func choiceOf(count int, local bool, before int) bpfChoice {
	if local {
		return bpfChoice{First: uint32(before), Count: uint32(count)}
	}
	return bpfChoice{Count: uint32(count)}
}

// encodeMembers are the rows that answer whether a backend serves.
func encodeMembers(p *service.Port, generation uint64) map[bpfMemberKey]bpfMember {
	if !hasMembers(p) {
		return nil
	}
	rows := make(map[bpfMemberKey]bpfMember, len(p.Cluster))
	for i, b := range p.Cluster {
		rows[bpfMemberKey{Generation: generation, Backend: encodeBackend(b)}] = bpfMember{Sets: bpfMemberSetsMEMBER_CLUSTER, Slot: uint32(i)}
	}
	for i, b := range p.Local {
		key := bpfMemberKey{Generation: generation, Backend: encodeBackend(b)}
		row, ok := rows[key]
		if !ok {
			row.Slot = uint32(i)
		}
		row.Sets |= bpfMemberSetsMEMBER_LOCAL
		rows[key] = row
	}
	return rows
}

// Of a source range's key, the owner always counts, and so does the hole before it.
const ownerBits = 32 + 64

func encodeSourceRange(owner uint64, p netip.Prefix) bpfSourceRangeKey {
	prefix := encodePrefix(p)
	return bpfSourceRangeKey{Prefixlen: ownerBits + prefix.Prefixlen, Owner: owner, Addr: prefix.Addr}
}
