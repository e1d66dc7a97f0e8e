// Package ipam picks the next free address of a prefix. It is pure: the caller says what time it is and keeps what
// was picked.
package ipam

import (
	"errors"
	"math"
	"net/netip"
	"time"
)

// Cooldown is how long a freed address stays unused, so that nobody still talks to it as to the pod that it was.
const Cooldown = 30 * time.Second

// ErrExhausted says that every address of the prefix is taken.
var ErrExhausted = errors.New("no free address")

// Pool is the addresses of one prefix. The network's address, the gateway's (the first one) and, in IPv4, the
// broadcast address are never picked. Times are since an instant of the caller's choice, the same for all calls.
type Pool struct {
	prefix  netip.Prefix
	taken   map[netip.Addr]bool
	cooling map[netip.Addr]time.Duration // when it was freed
	last    netip.Addr                   // the search goes on behind it, so that addresses are used in turn
}

// NewPool returns the pool of a prefix, all free.
func NewPool(prefix netip.Prefix) *Pool {
	prefix = prefix.Masked()
	return &Pool{prefix: prefix, taken: map[netip.Addr]bool{}, cooling: map[netip.Addr]time.Duration{}, last: prefix.Addr()}
}

// Prefix is the pool's prefix.
func (p *Pool) Prefix() netip.Prefix { return p.prefix }

// Gateway is the address that is set aside for the gateway: the first one behind the network's.
func (p *Pool) Gateway() netip.Addr { return p.prefix.Addr().Next() }

// Hold marks an address as taken. One that the pool would never pick is ignored.
func (p *Pool) Hold(a netip.Addr) {
	if !p.assignable(a) {
		return
	}
	delete(p.cooling, a)
	p.taken[a] = true
	if p.last.Less(a) {
		p.last = a
	}
}

// Cool marks an address as freed at a time.
func (p *Pool) Cool(a netip.Addr, freed time.Duration) {
	if !p.assignable(a) {
		return
	}
	delete(p.taken, a)
	p.cooling[a] = freed
}

// Release marks an address as free at once: it was never used.
func (p *Pool) Release(a netip.Addr) {
	delete(p.taken, a)
	delete(p.cooling, a)
}

// Take picks an address and holds it. An address that still cools is picked only when there is no other: the one
// that has cooled longest.
func (p *Pool) Take(now time.Duration) (netip.Addr, error) {
	p.expire(now)
	a, ok := p.nextFree()
	if !ok {
		a, ok = p.coolest()
	}
	if !ok {
		return netip.Addr{}, ErrExhausted
	}
	delete(p.cooling, a)
	p.taken[a] = true
	p.last = a
	return a, nil
}

// expire forgets the addresses that have cooled down by now.
func (p *Pool) expire(now time.Duration) {
	for a, freed := range p.cooling {
		if now-freed >= Cooldown {
			delete(p.cooling, a)
		}
	}
}

// nextFree walks on from the last pick. It steps over what is taken or cools, so it needs at most as many steps
// as there are of those, and a few.
func (p *Pool) nextFree() (netip.Addr, bool) {
	if p.free() == 0 {
		return netip.Addr{}, false
	}
	a := p.last
	for range len(p.taken) + len(p.cooling) + 4 {
		a = a.Next()
		if !p.prefix.Contains(a) {
			a = p.Gateway().Next()
		}
		_, cools := p.cooling[a]
		if p.assignable(a) && !p.taken[a] && !cools {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func (p *Pool) coolest() (coolest netip.Addr, ok bool) {
	for a, freed := range p.cooling {
		if !ok || freed < p.cooling[coolest] || freed == p.cooling[coolest] && a.Less(coolest) {
			coolest, ok = a, true
		}
	}
	return coolest, ok
}

func (p *Pool) assignable(a netip.Addr) bool {
	if a == p.prefix.Addr() || a == p.Gateway() || !p.prefix.Contains(a) {
		return false
	}
	return a.Is6() || p.prefix.Contains(a.Next())
}

// Counts are the pool's figures; Free is capped at what 63 bits hold.
type Counts struct{ Used, Cooling, Free int }

// Counts returns the pool's figures at a time.
func (p *Pool) Counts(now time.Duration) Counts {
	p.expire(now)
	return Counts{Used: len(p.taken), Cooling: len(p.cooling), Free: p.free()}
}

// free counts the addresses that are neither taken nor cooling.
func (p *Pool) free() int { return max(p.size()-len(p.taken)-len(p.cooling), 0) }

// size is how many addresses the pool can give in all.
func (p *Pool) size() int {
	bits := p.prefix.Addr().BitLen() - p.prefix.Bits()
	if bits >= 63 {
		return math.MaxInt
	}
	reserved := 2
	if p.prefix.Addr().Is4() {
		reserved = 3
	}
	return max(1<<bits-reserved, 0)
}
