package netdev

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/table"
)

func compareNeighbours(a, b route.NeighbourKey) int {
	return cmp.Or(cmp.Compare(a.Link, b.Link), a.Addr.Compare(b.Addr))
}

// syncNeighbours makes the permanent neighbours on pods' links those that are wanted.
func (k *Kernel) syncNeighbours(want map[route.NeighbourKey]cluster.MAC, n names) ([]Change, error) {
	var errs errorList
	have, err := k.neighbours(n)
	if err != nil {
		return nil, err
	}
	put, del := table.Diff(have, want, compareNeighbours)
	var writes []write
	for _, c := range put {
		index, ok := n.byName[c.Key.Link]
		if !ok {
			errs.add(fmt.Errorf("add neighbour %s: link %s: %w", c.Key.Addr, c.Key.Link, ErrNotFound))
			continue
		}
		if c.Key.Addr.Is6() && !k.ipv6 {
			errs.add(fmt.Errorf("add neighbour %s: %w", c.Key.Addr, ErrNoIPv6))
			continue
		}
		verb := "add"
		if _, ok := have[c.Key]; ok {
			verb = "replace"
		}
		writes = append(writes, write{change: Change{"neighbours", describeNeighbour(c.Key), verb},
			messages: []*message{putNeighbour(index, c.Key.Addr, c.Row)}})
	}
	for _, c := range del {
		writes = append(writes, write{change: Change{"neighbours", describeNeighbour(c.Key), "delete"}, already: gone,
			messages: []*message{newMessage(unix.RTM_DELNEIGH, 0,
				neighBody(family(c.Key.Addr.Is4()), n.byName[c.Key.Link], 0)).addr(unix.NDA_DST, c.Key.Addr)}})
	}
	changes, err := k.carryOut(writes)
	errs.add(err)
	return changes, errs.err()
}

func describeNeighbour(key route.NeighbourKey) string { return key.Addr.String() + " dev " + key.Link }

// neighbours lists the permanent neighbours on pods' links.
func (k *Kernel) neighbours(n names) (map[route.NeighbourKey]cluster.MAC, error) {
	held := map[route.NeighbourKey]cluster.MAC{}
	m := newMessage(unix.RTM_GETNEIGH, 0, neighBody(unix.AF_UNSPEC, 0, 0))
	err := k.dump(m, func() { clear(held) }, func(b []byte) {
		e, ok := parseNeighbour(b)
		if name := n.byIndex[e.index]; ok && e.state == unix.NUD_PERMANENT && isPodLink(name) {
			held[route.NeighbourKey{Link: name, Addr: e.addr}] = e.mac
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	return held, nil
}

// neighbour is an entry of a neighbour table.
type neighbour struct {
	addr  netip.Addr
	index int
	state uint16
	mac   cluster.MAC
}

// parseNeighbour reads an entry; those of bridges are for MAC addresses and none of ours.
func parseNeighbour(b []byte) (neighbour, bool) {
	if len(b) < unix.SizeofNdMsg || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return neighbour{}, false
	}
	e := neighbour{index: int(int32(binary.NativeEndian.Uint32(b[4:]))), state: binary.NativeEndian.Uint16(b[8:])}
	for typ, v := range attributes(b[unix.SizeofNdMsg:]) {
		switch typ {
		case unix.NDA_DST:
			e.addr = address(v)
		case unix.NDA_LLADDR:
			copy(e.mac[:], v)
		}
	}
	return e, e.addr.IsValid()
}
