package load

import (
	"fmt"
	"net/netip"
	"strings"
)

// Via is addresses in a row, with one port, that lead to a server: those of Services. The zero Via is none.
type Via struct {
	First netip.AddrPort
	Count int
}

func (v Via) String() string {
	if v.Count == 0 {
		return "-"
	}
	return fmt.Sprintf("%s*%d", v.First, v.Count)
}

func parseVia(text string) (v Via, err error) {
	if text == "-" {
		return v, nil
	}
	first, count, _ := strings.Cut(text, "*")
	if v.First, err = netip.ParseAddrPort(first); err != nil {
		return v, err
	}
	_, err = fmt.Sscan(count, &v.Count)
	return v, err
}

// or returns what says where the client connects to the n-th time: the addresses in turn; if there are none, always
// the other.
func (v Via) or(other netip.AddrPort) func(n int) netip.AddrPort {
	if v.Count == 0 {
		return func(int) netip.AddrPort { return other }
	}
	all := v.list()
	return func(n int) netip.AddrPort { return all[n%len(all)] }
}

// stride is coprime to every number of Services that we measure: neighbours in time are none in memory.
const stride = 7919

// list has all addresses, in an order in which the next is never the neighbour, if there are many.
func (v Via) list() []netip.AddrPort {
	sorted, all := make([]netip.AddrPort, v.Count), make([]netip.AddrPort, v.Count)
	for i, a := 0, v.First.Addr(); i < v.Count; i, a = i+1, a.Next() {
		sorted[i] = netip.AddrPortFrom(a, v.First.Port())
	}
	for i := range all {
		all[i] = sorted[i*stride%v.Count]
	}
	return all
}
