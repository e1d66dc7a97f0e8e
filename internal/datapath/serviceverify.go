package datapath

import (
	"maps"
	"slices"
)

// VerifyServices reads back some of what was written, port after port in turn, as many as have so many rows, and says
// whether all of it is still there: nobody waits for the reading of tens of thousands of rows. If it is not, the
// next call must be ResyncServices.
func (d *Datapath) VerifyServices(rows int) bool {
	s := &d.services
	if len(s.round) == 0 {
		s.round = slices.Collect(maps.Keys(s.ports))
	}
	for rows > 0 && len(s.round) > 0 {
		name := s.round[0]
		s.round = s.round[1:]
		p, ok := s.ports[name]
		if !ok {
			continue
		}
		rows -= len(p.port.Frontends) + len(p.port.Cluster) + len(p.port.Local)
		if !d.isWritten(p) {
			s.known = false
			return false
		}
	}
	return true
}

func (d *Datapath) isWritten(p written) bool {
	for key, want := range frontendRows(p) {
		var have bpfFrontend
		if d.maps[bpfMapFrontends].Lookup(key, &have) != nil || have != want {
			return false
		}
	}
	for i, want := range encodeBackends(p.port) {
		var have bpfBackend
		if d.maps[bpfMapBackends].Lookup(bpfBackendKey{Generation: p.generation, Slot: uint32(i)}, &have) != nil || have != want {
			return false
		}
	}
	return true
}
