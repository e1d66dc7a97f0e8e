package datapath

import (
	"fmt"

	"github.com/polder-net/polder/internal/service"
)

// generationOf writes a port's backends under a number that none has had. At a resync it finds those that are there.
func (w *writer) generationOf(p *service.Port) uint64 {
	slots := encodeBackends(p)
	generation, there := w.find(p, slots)
	if !there {
		w.s.generation++
		generation = w.s.generation
	}
	members := encodeMembers(p, generation)
	if !there {
		if w.s.slots+len(slots) > w.room(bpfMapBackends) || w.s.members+len(members) > w.room(bpfMapMembers) {
			w.errs = append(w.errs, fmt.Errorf("write %d backends of Service %s: %w", len(slots), p.Name.ServiceName, errFull))
			put(&w.failed, generation, true)
			return generation
		}
		w.s.slots += len(slots)
		w.s.members += len(members)
	}
	for i, b := range slots {
		put(&w.backends, bpfBackendKey{Generation: generation, Slot: uint32(i)}, b)
	}
	for k, v := range members {
		put(&w.members, k, v)
	}
	if ring := ringSize(p); ring > 0 && !there {
		put(&w.rings, generation, ringOf(p))
	}
	return generation
}

func (w *writer) room(table string) int { return int(w.d.maps[table].MaxEntries()) }

// find returns the generation that a frontend of the port names in the maps, if its backends are those.
func (w *writer) find(p *service.Port, slots []bpfBackend) (uint64, bool) {
	if w.have == nil {
		return 0, false
	}
	for f := range p.Frontends {
		row, ok := w.have.frontends[encodeFrontend(f)]
		if !ok || row.Owner != ownerOf(p.Name) {
			continue
		}
		for i, b := range slots {
			if have, ok := w.have.backends[bpfBackendKey{Generation: row.Generation, Slot: uint32(i)}]; !ok || have != b {
				return 0, false
			}
		}
		_, more := w.have.backends[bpfBackendKey{Generation: row.Generation, Slot: uint32(len(slots))}]
		return row.Generation, !more && w.hasRing(p, row.Generation)
	}
	return 0, false
}

// hasRing says whether a generation has the port's ring. What a ring is made of is not read back: its length says it, since
// a policy that leaves backends out leaves out some.
func (w *writer) hasRing(p *service.Port, generation uint64) bool {
	size := ringSize(p)
	if size == 0 || !w.haveRings[generation] {
		return size == 0 && !w.haveRings[generation]
	}
	for f := range p.Frontends {
		if row, ok := w.have.frontends[encodeFrontend(f)]; ok && row.Generation == generation && int(row.Ring) == size {
			return true
		}
	}
	return false
}
