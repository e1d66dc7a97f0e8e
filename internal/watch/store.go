package watch

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/polder-net/polder/internal/cluster"
)

// store is what one watch has told so far, as rows of what Polder reads and nothing else. client-go's Reflector
// fills it. We take that rather than an informer since its Replace hands over a whole list at once, so that a relist
// never deletes what is still there, and since nothing but the row stays in memory.
type store[T any] struct {
	read    func(obj any) (T, []string)
	kind    string // of objects, for problems
	changed func()
	moved   func(old, now T) // called under mu for each value that changes, with zero values for none; may be nil

	mu     sync.Mutex
	synced bool               // the list has been read once
	rows   map[string]*row[T] // a row stays as long as its object says the same
	bad    map[string]*row[T] // those of the rows that have problems
	fresh  bool               // rows changed since news was last called
	worse  bool               // and so did bad, since problemNews was
}

// row is what is kept of one object.
type row[T any] struct {
	key      string // namespace/name, or name
	value    T
	problems []string
}

func newStore[T any](kind string, read func(obj any) (T, []string), changed func()) *store[T] {
	return &store[T]{kind: kind, read: read, changed: changed, rows: map[string]*row[T]{}, bad: map[string]*row[T]{}}
}

// locked calls f while no row changes, and not in the middle of a Replace. It gets what moved has noted.
func (t *store[T]) locked(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
}

// isSynced says whether the rows are all that there are.
func (t *store[T]) isSynced() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.synced
}

// news says whether any row has changed since it was last called.
func (t *store[T]) news() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	fresh := t.fresh
	t.fresh = false
	return fresh
}

// problemNews says whether any row with problems has changed since it was last called.
func (t *store[T]) problemNews() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	worse := t.worse
	t.worse = false
	return worse
}

// values returns the rows' values in no order.
func (t *store[T]) values() []T {
	t.mu.Lock()
	defer t.mu.Unlock()
	values := make([]T, 0, len(t.rows))
	for _, r := range t.rows {
		values = append(values, r.value)
	}
	return values
}

// problems returns the rows' problems in no order.
func (t *store[T]) problems() (problems []cluster.Problem) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.bad {
		for _, p := range r.problems {
			problems = append(problems, cluster.Problem{Object: t.kind + "/" + r.key, Message: p})
		}
	}
	return problems
}

// len is the number of rows.
func (t *store[T]) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.rows)
}

// get returns the value of one object.
func (t *store[T]) get(key string) (value T, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.rows[key]; r != nil {
		return r.value, true
	}
	return value, false
}

// set makes the row of a key another, or takes it away, if now is nil. It says whether that is a change.
func (t *store[T]) set(key string, now *row[T]) bool {
	old := t.rows[key]
	if reflect.DeepEqual(old, now) {
		return false
	}
	var was, is T
	if old != nil {
		was = old.value
		t.worse = t.worse || len(old.problems) > 0
		delete(t.bad, key)
	}
	if now == nil {
		delete(t.rows, key)
	} else {
		is = now.value
		t.rows[key] = now
		if len(now.problems) > 0 {
			t.bad[key] = now
			t.worse = true
		}
	}
	t.fresh = true
	if t.moved != nil {
		t.moved(was, is)
	}
	return true
}

// Transformer makes the Reflector slim each object as it comes in, so that a list is never in memory as a whole.
// See cache.TransformingStore.
func (t *store[T]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return t.slim(obj) }
}

func (t *store[T]) slim(obj any) (*row[T], error) {
	if r, ok := obj.(*row[T]); ok {
		return r, nil
	}
	key, err := objectKey(obj)
	if err != nil {
		return nil, err
	}
	if m, err := meta.Accessor(obj); err == nil {
		m.SetName(key[len(key)-len(m.GetName()):]) // one copy of it for both
	}
	value, problems := t.read(obj)
	return &row[T]{key: key, value: value, problems: slices.Clip(problems)}, nil
}

func objectKey(obj any) (string, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return "", fmt.Errorf("read object: %w", err)
	}
	return strings.TrimPrefix(m.GetNamespace()+"/"+m.GetName(), "/"), nil
}

// Add, Update, Delete, Replace and Resync are cache.ReflectorStore.

// Add puts an object that is new.
func (t *store[T]) Add(obj any) error { return t.Update(obj) }

// Update puts an object. One that differs in nothing that Polder reads, as after a kubelet's heartbeat, is no change.
func (t *store[T]) Update(obj any) error {
	r, err := t.slim(obj)
	if err != nil {
		return err
	}
	return t.put(r.key, r)
}

// Delete takes an object away.
func (t *store[T]) Delete(obj any) error {
	key, err := objectKey(obj)
	if err != nil {
		return err
	}
	return t.put(key, nil)
}

func (t *store[T]) put(key string, now *row[T]) error {
	t.mu.Lock()
	changed := t.set(key, now)
	t.mu.Unlock()
	if changed {
		t.changed()
	}
	return nil
}

// Replace makes the rows those of objs, at once: who takes what has moved, under the lock, gets all of it or nothing.
func (t *store[T]) Replace(objs []any, _ string) error {
	rows := make(map[string]*row[T], len(objs))
	for _, obj := range objs {
		r, err := t.slim(obj)
		if err != nil {
			return err
		}
		rows[r.key] = r
	}
	t.mu.Lock()
	changed := !t.synced
	t.synced = true
	for key := range t.rows {
		if rows[key] == nil && t.set(key, nil) {
			changed = true
		}
	}
	for key, r := range rows {
		changed = t.set(key, r) || changed
	}
	t.mu.Unlock()
	if changed {
		t.changed()
	}
	return nil
}

// Resync does nothing: nobody misses a change.
func (t *store[T]) Resync() error { return nil }
