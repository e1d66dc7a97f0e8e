package service

import (
	"encoding/binary"
	"slices"
)

// The size of a table, in places for each backend: with a hundred, 1 to 3 % of the others' flows move when a backend
// goes; with three hundred, a third of a percent. maxMaglev bounds it: a prime, enough for 54 backends, and for 160 with
// a hundred places each.
const (
	placesEach = 300
	maxMaglev  = 16381
)

// slack is how much more than its share of the places a backend may have, in percent.
const slack = 2

// MaglevSize is the size of the table for so many backends: a prime.
func MaglevSize(backends int) int {
	for size := placesEach * backends; size < maxMaglev; size++ {
		if isPrime(size) {
			return size
		}
	}
	return maxMaglev
}

func isPrime(n int) bool {
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return n > 1
}

// Maglev makes a table that spreads flows over backends by their hash, whose remainder by the table's length is an index
// into it. The entries are indexes into the backends in order, each once. Whoever makes the table of the same backends,
// in whatever order, makes the same one, and one of a backend less differs in little but where that was. The size must
// be a prime; no backends have no table.
//
// It is Eisenbud and others' (Maglev, NSDI 2016, section 3.4) but for one thing: a backend that finds a place taken
// loses its turn instead of looking for another, and one that has its share, and a little, stops. So fewer places
// depend on what others got before, and a third to a sixth as many flows move.
func Maglev(backends []Backend, size int) []uint32 {
	backends = slices.Compact(slices.SortedFunc(slices.Values(backends), Backend.Compare))
	if len(backends) == 0 || size < 2 {
		return nil
	}
	most := max(size*(100+slack)/(100*len(backends)), (size+len(backends)-1)/len(backends))
	turns := make([]turn, len(backends))
	for i, b := range backends {
		turns[i] = newTurn(uint32(i), b, size)
	}
	const free = ^uint32(0)
	table := slices.Repeat([]uint32{free}, size)
	for left := size; left > 0; {
		for i := range turns {
			t := &turns[i]
			if at := t.next(size); table[at] == free {
				table[at] = t.backend
				t.places++
				left--
			}
		}
		turns = slices.DeleteFunc(turns, func(t turn) bool { return t.places >= most })
	}
	return table
}

// turn is how a backend goes through the table, in an order of its own: every skip-th place from an offset, round and
// round. As the size is a prime, that is every place once.
type turn struct {
	backend          uint32
	at, skip, places int
}

func newTurn(backend uint32, b Backend, size int) turn {
	key := b.Addr.As16()
	words := [3]uint64{binary.BigEndian.Uint64(key[:8]), binary.BigEndian.Uint64(key[8:]), uint64(b.Port)}
	offset, skip := uint64(1), uint64(2) // two seeds, two hashes
	for _, w := range words {
		offset, skip = mix(offset^w), mix(skip^w)
	}
	return turn{backend: backend, at: int(offset % uint64(size)), skip: int(skip%uint64(size-1)) + 1}
}

// next is the place that comes now; the turn goes on to the one after it.
func (t *turn) next(size int) int {
	at := t.at
	if t.at += t.skip; t.at >= size {
		t.at -= size
	}
	return at
}

// mix is the finalizer of SplitMix64 with its increment. It must never change: nodes of two versions agree by it.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
