package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/service"
)

// ringOf is a port's table for clients outside, by which every node chooses the same backend for a flow; empty where there
// is no such client, or nothing to choose.
func ringOf(p *service.Port) []uint32 {
	from := ringBackends(p)
	if len(from) < 2 {
		return nil
	}
	return service.Maglev(from, service.MaglevSize(len(from)))
}

// ringSize is the length of ringOf, at no cost.
func ringSize(p *service.Port) int {
	if n := len(ringBackends(p)); n >= 2 {
		return service.MaglevSize(n)
	}
	return 0
}

// ringBackends are what clients outside choose from.
func ringBackends(p *service.Port) []service.Backend {
	for _, kind := range p.Frontends {
		if kind != service.ClusterIP && kind != service.HostPort {
			backends, _ := p.Choose(kind, true)
			return backends
		}
	}
	return nil
}

func sameRing(a, b *service.Port) bool { return slices.Equal(ringBackends(a), ringBackends(b)) }

// readRings lists which generations have a ring.
func (d *Datapath) readRings() (map[uint64]bool, error) {
	have := map[uint64]bool{}
	var generation uint64
	var id uint32
	it := d.maps[bpfMapRings].Iterate()
	for it.Next(&generation, &id) {
		have[generation] = true
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list rings: %w", err)
	}
	return have, nil
}

// putRings writes rings, each whole before a program can find it, and calls failed for each that has no place.
func (d *Datapath) putRings(rings map[uint64][]uint32, failed func(uint64)) error {
	var errs []error
	for generation, ring := range rings {
		if err := d.putRing(generation, ring); err != nil {
			failed(generation)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (d *Datapath) putRing(generation uint64, ring []uint32) error {
	spec := d.spec.Maps[bpfMapRings].InnerMap.Copy()
	spec.MaxEntries = uint32(len(ring))
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("make ring: %w", err)
	}
	defer inner.Close()
	keys := make([]uint32, len(ring))
	for i := range keys {
		keys[i] = uint32(i)
	}
	if _, err := inner.BatchUpdate(keys, ring, nil); err != nil {
		return fmt.Errorf("fill ring: %w", err)
	}
	d.writes.Rows, d.writes.Calls = d.writes.Rows+1, d.writes.Calls+2
	if err := d.maps[bpfMapRings].Put(generation, inner); err != nil {
		return fmt.Errorf("put ring: %w", err)
	}
	return nil
}
