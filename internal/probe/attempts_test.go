package probe

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// try asks for all pairs of parties, at ports of the receiver's or at one that nobody listens at, and returns those that
// did not get through.
func (f *flat) try(port uint16) (lost []string) {
	f.t.Helper()
	rounds := 0
	failures, err := Try(f.t.Context(), f.options(), func(parties []Party, done []Attempted) (all []Attempt) {
		rounds++
		for _, a := range done {
			if !a.Reached {
				kind := map[bool]string{false: " tcp", true: " udp"}[a.UDP]
				lost = append(lost, parties[a.From].Name+" > "+parties[a.To].Name+" "+family(a.Address.Is4())+kind+": "+a.Said)
			}
		}
		if rounds == 2 {
			return nil
		}
		for from := range parties {
			for to, p := range parties {
				for _, a := range p.Addresses {
					if from != to {
						all = append(all, attemptAt(p, from, to, a, port, false), attemptAt(p, from, to, a, port, true))
					}
				}
			}
		}
		return all
	})
	if err != nil || len(failures) > 0 || rounds != 2 {
		f.t.Fatalf("%d rounds, %v, failures %v", rounds, err, failures)
	}
	slices.Sort(lost)
	return lost
}

func attemptAt(p Party, from, to int, a netip.Addr, port uint16, udp bool) Attempt {
	if port == 0 && udp {
		port = p.UDP[a]
	} else if port == 0 {
		port = p.TCP[a]
	}
	return Attempt{from, to, a, port, udp}
}

func TestAttemptsGetThroughWhereNothingStopsThem(t *testing.T) {
	f := newFlat(t)
	for _, port := range []uint16{0, 9} { // answered, and refused
		if lost := f.try(port); len(lost) > 0 {
			t.Errorf("port %d: %q do not get through", port, lost)
		}
	}
}

func TestAttemptsThatAreDroppedDoNotGetThrough(t *testing.T) {
	f := newFlat(t)
	// The pod takes no new UDP over IPv4 in.
	f.rule(f.pods[0][1], nftables.TableFamilyIPv4, nftables.ChainHookInput, nftables.ChainTypeFilter,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(expr.CtStateBitNEW), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: native(0)},
		&expr.Verdict{Kind: expr.VerdictDrop})
	var want []string
	for _, from := range []string{"node-1", "node-2", "ns/pod-11", "ns/pod-21", "ns/pod-22"} {
		want = append(want, from+" > ns/pod-12 IPv4 udp: no answer within 2s")
	}
	for _, port := range []uint16{0, 9} {
		if lost := f.try(port); !slices.Equal(lost, want) {
			t.Errorf("port %d: %q do not get through, want %q", port, lost, want)
		}
	}
}
