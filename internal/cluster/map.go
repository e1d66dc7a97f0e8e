package cluster

import (
	"cmp"
	"hash/maphash"
	"iter"
	"maps"
	"reflect"
	"slices"
)

// Name identifies an object of one kind. Objects that belong to no namespace have a name alone.
type Name struct{ Namespace, Name string }

func (n Name) String() string {
	if n.Namespace == "" {
		return n.Name
	}
	return n.Namespace + "/" + n.Name
}

// Compare orders by namespace, then name.
func (n Name) Compare(other Name) int {
	return cmp.Or(cmp.Compare(n.Namespace, other.Namespace), cmp.Compare(n.Name, other.Name))
}

// shards is how many parts a Map has: with 44,000 objects, a change copies some 200 entries.
const shards = 256

// Map holds objects by name. It is immutable: With makes another, which shares what did not change. The nil *Map is
// empty.
type Map[V any] struct {
	parts [shards]map[Name]*V
	seed  maphash.Seed
}

// Get returns an object, nil if there is none.
func (m *Map[V]) Get(name Name) *V {
	if m == nil {
		return nil
	}
	return m.parts[m.shard(name)][name]
}

func (m *Map[V]) shard(name Name) int { return int(maphash.Comparable(m.seed, name) % shards) }

// Len is the number of names.
func (m *Map[V]) Len() int {
	n := 0
	if m != nil {
		for _, part := range m.parts {
			n += len(part)
		}
	}
	return n
}

// All yields all objects with their names, in no order.
func (m *Map[V]) All() iter.Seq2[Name, *V] {
	return func(yield func(Name, *V) bool) {
		if m == nil {
			return
		}
		for _, part := range m.parts {
			for name, objects := range part {
				if !yield(name, objects) {
					return
				}
			}
		}
	}
}

// With returns what m becomes by changes; nil objects take a name away.
func (m *Map[V]) With(changes map[Name]*V) *Map[V] {
	next := &Map[V]{seed: maphash.MakeSeed()}
	if m != nil {
		*next = *m
	}
	copied := map[int]bool{}
	for name, objects := range changes {
		i := next.shard(name)
		if !copied[i] {
			copied[i] = true
			next.parts[i] = maps.Clone(next.parts[i])
			if next.parts[i] == nil {
				next.parts[i] = map[Name]*V{}
			}
		}
		if objects == nil {
			delete(next.parts[i], name)
		} else {
			next.parts[i][name] = objects
		}
	}
	return next
}

// ChangedSince lists the names whose objects in m are others than in old, sorted. Where m came from old by With, only the
// parts that differ are looked at.
func (m *Map[V]) ChangedSince(old *Map[V]) []Name {
	var changed []Name
	if m != nil && old != nil && m.seed == old.seed {
		for i := range m.parts {
			changed = appendChanges(changed, old.parts[i], m.parts[i])
		}
	} else {
		changed = appendChanges(changed, maps.Collect(old.All()), maps.Collect(m.All()))
	}
	slices.SortFunc(changed, Name.Compare)
	return changed
}

func appendChanges[V any](changed []Name, old, now map[Name]*V) []Name {
	if reflect.ValueOf(old).Pointer() == reflect.ValueOf(now).Pointer() {
		return changed // one and the same map
	}
	for name, objects := range now {
		if old[name] != objects {
			changed = append(changed, name)
		}
	}
	for name := range old {
		if now[name] == nil {
			changed = append(changed, name)
		}
	}
	return changed
}
