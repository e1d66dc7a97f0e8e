package netdev

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/desired"
)

const (
	nftTable = "polder"
	nftChain = "postrouting"

	// elementsPerMessage keeps a list of set elements within what one netlink attribute holds, 64 KiB.
	elementsPerMessage = 500

	transactionMax = 16 << 20 // bytes
)

// masqueradeFamily is the half of the table that is about one address family.
type masqueradeFamily struct {
	ipv4         bool
	from, except []addrRange
}

// halves splits what is wanted by family, and leaves out a family that has nothing to masquerade.
func halves(want desired.Masquerade) []masqueradeFamily {
	var list []masqueradeFamily
	for _, ipv4 := range []bool{true, false} {
		if from := ranges(want.From, ipv4); len(from) > 0 {
			list = append(list, masqueradeFamily{ipv4, from, ranges(want.Except, ipv4)})
		}
	}
	return list
}

func (f masqueradeFamily) setName(what string) string {
	if f.ipv4 {
		return what + "4"
	}
	return what + "6"
}

type namedSet struct {
	name   string
	ranges []addrRange
}

func (f masqueradeFamily) sets() []namedSet {
	return []namedSet{{f.setName("from"), f.from}, {f.setName("except"), f.except}}
}

// mark is the comment of a half's rule: a rule without it is not the one that Polder wrote.
func (f masqueradeFamily) mark() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "1 %v %v %v", f.ipv4, f.from, f.except))
	return fmt.Sprintf("pods reach the world with this node's address, %x", sum[:8])
}

// syncMasquerade makes the table "inet polder" the one that is wanted. It is written whole, in one transaction, when
// anything in it differs: packets see the old table or the new one.
func (k *Kernel) syncMasquerade(want desired.Masquerade) ([]Change, error) {
	conn, err := k.nftables()
	if err != nil {
		return nil, err
	}
	defer conn.CloseLasting()
	wanted := halves(want)
	t := &nftables.Table{Name: nftTable, Family: nftables.TableFamilyINet}
	have, err := conn.ListTableOfFamily(nftTable, nftables.TableFamilyINet)
	switch {
	case errors.Is(err, unix.ENOENT):
		have = nil
	case err != nil:
		return nil, fmt.Errorf("list nftables table %s: %w", nftTable, err)
	}
	change := Change{Table: "masquerade", Row: "table inet " + nftTable, Verb: "add"}
	switch {
	case have == nil && len(wanted) == 0:
		return nil, nil
	case len(wanted) == 0:
		change.Verb = "delete"
		conn.DelTable(t)
	case have != nil && have.Flags == 0 && asWanted(conn, t, wanted):
		return nil, nil
	default:
		if have != nil {
			change.Verb = "replace"
			conn.DelTable(t)
		}
		conn.AddTable(t)
		if err := fill(conn, t, wanted); err != nil {
			return nil, fmt.Errorf("write nftables table %s: %w", nftTable, err)
		}
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("write nftables table %s: %w", nftTable, err)
	}
	return []Change{change}, nil
}

// enlarge makes room for a transaction, which is one message to the socket: some 90 bytes an exception.
func enlarge[C interface{ SetWriteBuffer(bytes int) error }](c C) error {
	return c.SetWriteBuffer(transactionMax)
}

// fill adds what the table holds to the transaction.
func fill(conn *nftables.Conn, t *nftables.Table, wanted []masqueradeFamily) error {
	accept := nftables.ChainPolicyAccept
	chain := conn.AddChain(&nftables.Chain{Name: nftChain, Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Policy: &accept})
	id := uint32(0)
	for _, f := range wanted {
		for _, s := range f.sets() {
			id++
			set := &nftables.Set{Table: t, ID: id, Name: s.name, Interval: true, KeyType: nftables.TypeIP6Addr}
			if f.ipv4 {
				set.KeyType = nftables.TypeIPAddr
			}
			if err := conn.AddSet(set, nil); err != nil {
				return err
			}
			for chunk := range slices.Chunk(elements(s.ranges), elementsPerMessage) {
				if err := conn.SetAddElements(set, chunk); err != nil {
					return err
				}
			}
		}
		conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: f.rule(),
			UserData: userdata.AppendString(nil, userdata.TypeComment, f.mark())})
	}
	return nil
}

// rule says: source in from, destination not in except: masquerade fully-random. Fully random ports keep two CPUs
// that pick a port for the same destination at the same time from clashing.
func (f masqueradeFamily) rule() []expr.Any {
	proto, size, source, destination := byte(unix.NFPROTO_IPV6), uint32(16), uint32(8), uint32(24)
	if f.ipv4 {
		proto, size, source, destination = unix.NFPROTO_IPV4, 4, 12, 16
	}
	load := func(offset uint32) expr.Any {
		return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		load(source),
		&expr.Lookup{SourceRegister: 1, SetName: f.setName("from")},
		load(destination),
		&expr.Lookup{SourceRegister: 1, SetName: f.setName("except"), Invert: true},
		&expr.Masq{FullyRandom: true},
	}
}

// elements are a set's entries: the start of each range, and its end where it has one.
func elements(list []addrRange) []nftables.SetElement {
	var out []nftables.SetElement
	for _, r := range list {
		out = append(out, nftables.SetElement{Key: r.first.AsSlice()})
		if r.next.IsValid() {
			out = append(out, nftables.SetElement{Key: r.next.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// asWanted says whether the table is what fill would write: one chain where it should be, one rule a family with its
// mark, and the sets with exactly their elements. Whatever cannot be listed is not as wanted.
func asWanted(conn *nftables.Conn, t *nftables.Table, wanted []masqueradeFamily) bool {
	chains, err := conn.ListChainsOfTableFamily(t.Family)
	chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != t.Name })
	if err != nil || len(chains) != 1 || !isOurChain(chains[0]) {
		return false
	}
	rules, err := conn.GetRules(t, chains[0])
	if err != nil || len(rules) != len(wanted) {
		return false
	}
	sets, err := conn.GetSets(t)
	if err != nil || len(sets) != 2*len(wanted) {
		return false
	}
	for i, f := range wanted {
		if comment, _ := userdata.GetString(rules[i].UserData, userdata.TypeComment); comment != f.mark() {
			return false
		}
		for _, s := range f.sets() {
			if !hasElements(conn, t, s) {
				return false
			}
		}
	}
	return true
}

func isOurChain(c *nftables.Chain) bool {
	return c.Name == nftChain && c.Type == nftables.ChainTypeNAT &&
		c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookPostrouting &&
		c.Priority != nil && *c.Priority == *nftables.ChainPriorityNATSource &&
		c.Policy != nil && *c.Policy == nftables.ChainPolicyAccept
}

func hasElements(conn *nftables.Conn, t *nftables.Table, want namedSet) bool {
	have, err := conn.GetSetElements(&nftables.Set{Table: t, Name: want.name})
	if err != nil {
		return false
	}
	compare := func(a, b nftables.SetElement) int {
		if c := bytes.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		return compareBools(a.IntervalEnd, b.IntervalEnd)
	}
	slices.SortFunc(have, compare)
	return slices.EqualFunc(have, elements(want.ranges), func(a, b nftables.SetElement) bool { return compare(a, b) == 0 })
}
