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

// flush writes everything, in order. It goes on past errors: what is not written is found at the next resync. Only
// frontends whose backends could not be written must not name them.
func (w *writer) flush() error {
	err := errors.Join(putTable(w.d.maps[bpfMapBackends], w.backends), putTable(w.d.maps[bpfMapMembers], w.members),
		putTable(w.d.maps[bpfMapSourceRanges], w.ranges))
	if err != nil {
		return fmt.Errorf("write services: %w", err)
	}
	err = errors.Join(putTable(w.d.maps[bpfMapFrontends], w.frontends),
		deleteTable(w.d.maps[bpfMapFrontends], w.gone.frontends), deleteTable(w.d.maps[bpfMapSourceRanges], w.gone.ranges),
		deleteTable(w.d.maps[bpfMapMembers], w.gone.members), deleteTable(w.d.maps[bpfMapBackends], w.gone.backends))
	if err != nil {
		return fmt.Errorf("write services: %w", err)
	}
	return nil
}

func putTable[K comparable, V any](m *ebpf.Map, rows map[K]V) error {
	keys, values := make([]K, 0, len(rows)), make([]V, 0, len(rows))
	for k, v := range rows {
		keys, values = append(keys, k), append(values, v)
	}
	for len(keys) > 0 {
		n := min(len(keys), batchSize)
		if _, err := m.BatchUpdate(keys[:n], values[:n], nil); err != nil {
			return fmt.Errorf("put into %s: %w", m, err)
		}
		keys, values = keys[n:], values[n:]
	}
	return nil
}

func deleteTable[K comparable, V any](m *ebpf.Map, rows map[K]V) error {
	for k := range rows { // one by one: a batch ends at the first that is gone already
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from %s: %w", m, err)
		}
	}
	return nil
}
