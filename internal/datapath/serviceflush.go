package datapath

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// readServices lists what the maps say of Services.
func (d *Datapath) readServices() (*serviceRows, error) {
	have := &serviceRows{}
	err := errors.Join(
		readTable(d.maps[bpfMapBackends], &have.backends), readTable(d.maps[bpfMapMembers], &have.members),
		readTable(d.maps[bpfMapSourceRanges], &have.ranges), readTable(d.maps[bpfMapFrontends], &have.frontends))
	if err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	return have, nil
}

// batchSize is how many rows go into one system call.
const batchSize = 4096

func readTable[K comparable, V any](m *ebpf.Map, into *map[K]V) error {
	*into = map[K]V{}
	return eachRow(m, func(k K, v V) { (*into)[k] = v })
}

// eachRow calls f with every row of a map.
func eachRow[K, V any](m *ebpf.Map, f func(K, V)) error {
	keys, values := make([]K, batchSize), make([]V, batchSize)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			f(keys[i], values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) { // that was all
			return nil
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", m, err)
		}
	}
}

// newest is the highest generation there is.
func (r *serviceRows) newest() uint64 {
	var newest uint64
	for k := range r.backends {
		newest = max(newest, k.Generation)
	}
	for _, f := range r.frontends {
		newest = max(newest, f.Generation)
	}
	return newest
}

// compare leaves of a resync's rows those that differ from what the maps say, and takes away what is there besides. Of
// that, backends are retired first: a frontend may name them until its new row is written.
func (w *writer) compare() {
	w.gone = serviceRows{}
	retired := func(generation uint64) bool { _, ok := w.s.retired[generation]; return ok }
	compareTable(w, "backends", w.have.backends, w.backends, &w.gone.backends,
		func(k bpfBackendKey) bool { return retired(k.Generation) })
	compareTable(w, "members", w.have.members, w.members, &w.gone.members,
		func(k bpfMemberKey) bool { return retired(k.Generation) })
	compareTable(w, "source_ranges", w.have.ranges, w.ranges, &w.gone.ranges, func(bpfSourceRangeKey) bool { return false })
	compareTable(w, "frontends", w.have.frontends, w.frontends, &w.gone.frontends, func(bpfFrontendKey) bool { return false })
	w.retireStale()
}

// retireStale makes what is to go of backends and members the retired generations.
func (w *writer) retireStale() {
	named, before := map[uint64]bool{}, w.s.retired
	for _, f := range w.have.frontends {
		named[f.Generation] = true
	}
	w.s.retired = map[uint64]retired{}
	of := func(generation uint64) retired {
		if r, ok := w.s.retired[generation]; ok {
			return r
		}
		r := retired{map[bpfBackendKey]bpfBackend{}, map[bpfMemberKey]bpfMember{}, w.now}
		if old, ok := before[generation]; ok && !named[generation] {
			r.at = old.at
		}
		w.s.retired[generation] = r
		return r
	}
	for k, v := range w.gone.backends {
		of(k.Generation).backends[k] = v
	}
	for k, v := range w.gone.members {
		of(k.Generation).members[k] = v
	}
	w.gone.backends, w.gone.members = nil, nil
	w.retireRings()
}

func (w *writer) retireRings() {
	used := map[uint64]bool{}
	for _, p := range w.s.ports {
		used[p.generation] = true
	}
	for generation := range w.haveRings {
		if _, ok := w.s.retired[generation]; !ok && !used[generation] && !w.keep {
			put(&w.goneRings, generation, true)
		}
	}
}

// compareTable does it for one table. What expected says is to go anyway is no news.
func compareTable[K, V comparable](w *writer, table string, have, want map[K]V, gone *map[K]V, expected func(K) bool) {
	for k, v := range have {
		row, ok := want[k]
		switch {
		case !ok && w.keep:
		case !ok:
			put(gone, k, v)
			if !expected(k) {
				w.changes = append(w.changes, Change{table, fmt.Sprint(k), "delete"})
			}
		case row == v:
			delete(want, k)
		}
	}
	for k := range want {
		w.changes = append(w.changes, Change{table, fmt.Sprint(k), "put"})
	}
}

// Writes is what was written to the maps of Services.
type Writes struct {
	Rows  uint64 // put or taken away
	Calls uint64 // system calls
}

// Since is what was written since an earlier look.
func (w Writes) Since(before Writes) Writes {
	return Writes{w.Rows - before.Rows, w.Calls - before.Calls}
}

// ServiceWrites is what this process has written so far.
func (d *Datapath) ServiceWrites() Writes { return d.writes }

// flush writes everything, in order. It goes on past errors: what is not written is found at the next resync. Frontends
// whose backends could not all be written stay as they are.
func (w *writer) flush() error {
	d := w.d
	unwritten := map[uint64]bool{}
	errs := []error{
		putTable(d, bpfMapBackends, w.backends, func(k bpfBackendKey) { put(&w.failed, k.Generation, true) }),
		putTable(d, bpfMapMembers, w.members, func(k bpfMemberKey) { put(&w.failed, k.Generation, true) }),
		putTable(d, bpfMapSourceRanges, w.ranges, func(k bpfSourceRangeKey) { unwritten[k.Owner] = true })}
	errs = append(errs, d.putRings(w.rings, func(generation uint64) { put(&w.failed, generation, true) }))
	for k, row := range w.frontends {
		if w.failed[row.Generation] || unwritten[row.Owner] {
			delete(w.frontends, k)
		}
	}
	errs = append(errs, putTable(d, bpfMapFrontends, w.frontends, func(bpfFrontendKey) {}),
		deleteTable(d, bpfMapFrontends, w.gone.frontends), deleteTable(d, bpfMapSourceRanges, w.gone.ranges),
		deleteTable(d, bpfMapMembers, w.gone.members), deleteTable(d, bpfMapBackends, w.gone.backends),
		deleteTable(d, bpfMapRings, w.goneRings))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write services: %w", err)
	}
	return nil
}

// putTable writes rows, and calls failed for each that has no place. A batch ends at the first of those.
func putTable[K comparable, V any](d *Datapath, name string, rows map[K]V, failed func(K)) error {
	m, keys, values := d.maps[name], make([]K, 0, len(rows)), make([]V, 0, len(rows))
	for k, v := range rows {
		keys, values = append(keys, k), append(values, v)
	}
	var first error
	for len(keys) > 0 {
		n := min(len(keys), batchSize)
		d.writes.Rows, d.writes.Calls = d.writes.Rows+uint64(n), d.writes.Calls+1
		if _, err := m.BatchUpdate(keys[:n], values[:n], nil); err != nil {
			for i := range n {
				if err := m.Put(keys[i], values[i]); err != nil {
					failed(keys[i])
					first = cmp.Or(first, fmt.Errorf("put into %s: %w", m, err))
				}
			}
		}
		keys, values = keys[n:], values[n:]
	}
	return first
}

func deleteTable[K comparable, V any](d *Datapath, name string, rows map[K]V) error {
	m := d.maps[name]
	for k := range rows { // one by one: a batch ends at the first that is gone already
		d.writes.Rows, d.writes.Calls = d.writes.Rows+1, d.writes.Calls+1
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", m, err)
		}
	}
	return nil
}
