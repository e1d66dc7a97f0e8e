package netdev

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/route"
	"github.com/polder-net/polder/internal/table"
)

const (
	// lastResort is the metric of unreachable routes: the kernel's own choice for them is as high (IP6_RT_PRIO_USER
	// is 1024; systemd-networkd and Calico use this one), so that any other route for the prefix comes first.
	lastResort = 4278198272

	metric6 = 1024 // what the kernel gives an IPv6 route without metric (IP6_RT_PRIO_USER)

	rtaNexthopID = 30 // RTA_NH_ID
)

// routeID is what makes a route one of its own for the kernel.
type routeID struct {
	table  int
	prefix netip.Prefix
	metric uint32
	tos    uint8
}

// routeSpec is what a route says, as far as Polder sets it.
type routeSpec struct {
	kind     uint8 // RTN_…
	link     string
	via, src netip.Addr
	scope    uint8
	odd      bool // says something that Polder never does, or stands there twice
}

// heldRoute is a route that the kernel has, and its message or messages.
type heldRoute struct {
	spec     routeSpec
	protocol uint8
	raw      [][]byte
}

func (id routeID) compare(other routeID) int {
	return cmp.Or(cmp.Compare(id.table, other.table), id.prefix.Addr().Compare(other.prefix.Addr()),
		cmp.Compare(id.prefix.Bits(), other.prefix.Bits()), cmp.Compare(id.metric, other.metric),
		cmp.Compare(id.tos, other.tos))
}

// identify turns a row into the kernel's terms.
func identify(key route.RouteKey, r route.Route) (routeID, routeSpec) {
	id := routeID{table: cmp.Or(key.Table, unix.RT_TABLE_MAIN), prefix: key.Prefix}
	ipv4 := key.Prefix.Addr().Is4()
	if !ipv4 {
		id.metric = metric6
	}
	if r.Unreachable || r.Link == "" {
		id.metric = lastResort
		return id, routeSpec{kind: unix.RTN_UNREACHABLE}
	}
	spec := routeSpec{kind: unix.RTN_UNICAST, link: r.Link, via: r.Via, src: r.Src}
	if r.Link == route.Loopback && !ipv4 {
		spec.kind = unix.RTN_LOCAL // any other IPv6 route to the loopback device is made an unreachable one
	}
	if ipv4 && !r.Via.IsValid() {
		spec.scope = unix.RT_SCOPE_LINK // IPv6 knows no scopes
	}
	return id, spec
}

// putRoute is the request for a route; flags says whether it may replace one.
func putRoute(id routeID, spec routeSpec, index int, flags int) *message {
	m := newMessage(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|flags, rtBody{
		family: family(id.prefix.Addr().Is4()), dstLen: uint8(id.prefix.Bits()), tos: id.tos, table: unix.RT_TABLE_UNSPEC,
		protocol: Protocol, scope: spec.scope, kind: spec.kind,
	}.bytes())
	m.addr(unix.RTA_DST, id.prefix.Addr()).u32(unix.RTA_TABLE, uint32(id.table))
	if id.metric != 0 {
		m.u32(unix.RTA_PRIORITY, id.metric)
	}
	if index != 0 {
		m.u32(unix.RTA_OIF, uint32(index))
	}
	if spec.via.IsValid() {
		m.addr(unix.RTA_GATEWAY, spec.via)
	}
	if spec.src.IsValid() {
		m.addr(unix.RTA_PREFSRC, spec.src)
	}
	return m
}

func (id routeID) describe(s routeSpec) string {
	text := id.prefix.String()
	if s.kind == unix.RTN_UNREACHABLE {
		text = "unreachable " + text
	}
	if s.via.IsValid() {
		text += " via " + s.via.String()
	}
	if s.link != "" && s.kind != unix.RTN_UNREACHABLE {
		text += " dev " + s.link
	}
	if id.table != unix.RT_TABLE_MAIN {
		text += fmt.Sprintf(" table %d", id.table)
	}
	return text
}

// syncRoutes makes the routes with Polder's protocol number those that are wanted.
func (k *Kernel) syncRoutes(want map[route.RouteKey]route.Route, n names) ([]Change, error) {
	var errs errorList
	held, err := k.routes(n, 0, Protocol)
	if err != nil {
		return nil, err
	}
	have := map[routeID]routeSpec{}
	for id, h := range held {
		if id.table == unix.RT_TABLE_MAIN || id.table == route.TunnelTable {
			have[id] = h.spec
		}
	}
	wanted := map[routeID]routeSpec{}
	for key, r := range want {
		id, spec := identify(key, r)
		if !key.Prefix.Addr().Is4() && !k.ipv6 {
			errs.add(fmt.Errorf("add route %s: %w", key.Prefix, ErrNoIPv6))
			continue
		}
		if _, ok := n.byName[spec.link]; !ok && spec.kind == unix.RTN_UNICAST {
			errs.add(fmt.Errorf("add route %s: link %s: %w", key.Prefix, spec.link, ErrNotFound))
			continue
		}
		wanted[id] = spec
	}
	s := routeSync{k: k, names: n, held: held}
	put, del := table.Diff(have, wanted, routeID.compare)
	changes, err := s.put(put)
	errs.add(err)
	deleted, err := s.delete(del)
	errs.add(err)
	return append(changes, deleted...), errs.err()
}

// routeSync is the state of one syncRoutes.
type routeSync struct {
	k      *Kernel
	names  names
	held   map[routeID]heldRoute
	others map[routeID]heldRoute // everybody's, listed when first needed
}

func (s *routeSync) put(rows []routeChange) ([]Change, error) {
	var writes []write
	var errs errorList
	for _, row := range rows {
		change := Change{"routes", row.Key.describe(row.Row), "add"}
		flags := unix.NLM_F_EXCL
		var messages []*message
		if h, ok := s.held[row.Key]; ok {
			change.Verb = "replace"
			if err := s.inTheWay(row.Key); err != nil {
				errs.add(fmt.Errorf("replace routes %s: %w", change.Row, err))
				continue
			}
			flags = unix.NLM_F_REPLACE
			if len(h.raw) > 1 { // replacing would leave the second where it is
				messages, flags = deleteRaw(unix.RTM_DELROUTE, h.raw), unix.NLM_F_EXCL
			}
		}
		messages = append(messages, putRoute(row.Key, row.Row, s.names.byName[row.Row.link], flags))
		writes = append(writes, write{messages: messages, change: change, explain: func(err error) error {
			if errors.Is(err, unix.EEXIST) {
				return cmp.Or(s.inTheWay(row.Key), err)
			}
			return err
		}})
	}
	changes, err := s.k.carryOut(writes)
	errs.add(err)
	return changes, errs.err()
}

// inTheWay is the error that names somebody else's route in a row's place, nil if there is none. Replacing does not
// ask whose route it replaces, so this must be asked first.
func (s *routeSync) inTheWay(id routeID) error {
	if s.others == nil {
		others, err := s.k.routes(s.names, 0, 0)
		if err != nil {
			return err
		}
		s.others = others
	}
	if o, ok := s.others[id]; ok && o.protocol != Protocol {
		return fmt.Errorf("%s proto %d: %w", id.describe(o.spec), o.protocol, ErrForeign)
	}
	return nil
}

func (s *routeSync) delete(rows []routeChange) ([]Change, error) {
	var writes []write
	for _, row := range rows {
		writes = append(writes, write{
			messages: deleteRaw(unix.RTM_DELROUTE, s.held[row.Key].raw),
			change:   Change{"routes", row.Key.describe(row.Row), "delete"},
			already:  gone,
		})
	}
	return s.k.carryOut(writes)
}

// deleteRaw deletes what the kernel listed, by sending it back.
func deleteRaw(typ int, raw [][]byte) []*message {
	messages := make([]*message, len(raw))
	for i, b := range raw {
		messages[i] = newMessage(typ, 0, b)
	}
	return messages
}

type routeChange = table.Change[routeID, routeSpec]
