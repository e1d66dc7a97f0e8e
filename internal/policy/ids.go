package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
)

// hash is the beginning of a SHA-256.
func hash(text string) ID {
	sum := sha256.Sum256([]byte(text))
	return ID(binary.BigEndian.Uint64(sum[:]))
}

// ids gives names to texts. Two of which the hashes clash get different ones all the same: then which one gets which
// depends on who came first, and a restarted agent may have to write them anew.
type ids struct {
	taken   map[ID]bool
	clashed map[ID]bool // those that had to be hashed again
}

func newIDs() ids { return ids{map[ID]bool{}, map[ID]bool{}} }

// take returns the name of a text that has none. The small ones have a meaning of their own.
func (s *ids) take(text string, hash func(string) ID) ID {
	id, clash := hash(text), false
	for salt := 1; id <= Closed || s.taken[id]; salt++ {
		clash = clash || s.taken[id]
		id = hash(text + "\nsalt " + strconv.Itoa(salt))
	}
	s.taken[id] = true
	if clash {
		s.clashed[id] = true
	}
	return id
}

func (s *ids) give(id ID) {
	delete(s.taken, id)
	delete(s.clashed, id)
}
