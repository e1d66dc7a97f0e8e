package datapath

import (
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

// compare leaves of a resync's rows those that differ from what the maps say, and takes away what is there besides.
func (w *writer) compare() {
	w.gone = serviceRows{}
	compareTable(w, "backends", w.have.backends, w.backends, &w.gone.backends)
	compareTable(w, "members", w.have.members, w.members, &w.gone.members)
	compareTable(w, "source_ranges", w.have.ranges, w.ranges, &w.gone.ranges)
	compareTable(w, "frontends", w.have.frontends, w.frontends, &w.gone.frontends)
}

func compareTable[K, V comparable](w *writer, table string, have, want map[K]V, gone *map[K]V) {
	for k, v := range have {
		row, ok := want[k]
		switch {
		case !ok:
			put(gone, k, v)
			w.changes = append(w.changes, Change{table, fmt.Sprint(k), "delete"})
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

// flush writes everything, in order. It goes on past errors: what is not written is found at the next resync. Only
// frontends whose backends could not be written must not name them.
func (w *writer) flush() error {
	d := w.d
	err := errors.Join(putTable(d, bpfMapBackends, w.backends), putTable(d, bpfMapMembers, w.members),
		putTable(d, bpfMapSourceRanges, w.ranges))
	if err != nil {
		return fmt.Errorf("write services: %w", err)
	}
	err = errors.Join(putTable(d, bpfMapFrontends, w.frontends),
		deleteTable(d, bpfMapFrontends, w.gone.frontends), deleteTable(d, bpfMapSourceRanges, w.gone.ranges),
		deleteTable(d, bpfMapMembers, w.gone.members), deleteTable(d, bpfMapBackends, w.gone.backends))
	if err != nil {
		return fmt.Errorf("write services: %w", err)
	}
	return nil
}

func putTable[K comparable, V any](d *Datapath, name string, rows map[K]V) error {
	m, keys, values := d.maps[name], make([]K, 0, len(rows)), make([]V, 0, len(rows))
	for k, v := range rows {
		keys, values = append(keys, k), append(values, v)
	}
	for len(keys) > 0 {
		n := min(len(keys), batchSize)
		d.writes.Rows, d.writes.Calls = d.writes.Rows+uint64(n), d.writes.Calls+1
		if _, err := m.BatchUpdate(keys[:n], values[:n], nil); err != nil {
			return fmt.Errorf("put into %s: %w", m, err)
		}
		keys, values = keys[n:], values[n:]
	}
	return nil
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
