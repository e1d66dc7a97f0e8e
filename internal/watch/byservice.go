package watch

import (
	"cmp"
	"reflect"
	"slices"
	"sync"

	"github.com/polder-net/polder/internal/cluster"
)

// byService puts Services and EndpointSlices, which come by two watches, together by the Services' names. It knows
// which names have changed, so that what a change costs does not depend on how much there is besides.
type byService struct {
	mu      sync.Mutex
	objects map[cluster.ServiceName]*cluster.ServiceObjects // immutable: published as they are
	dirty   map[cluster.ServiceName]*cluster.ServiceObjects // those of objects that changed since taken; nil: gone
}

func newByService() *byService {
	return &byService{
		objects: map[cluster.ServiceName]*cluster.ServiceObjects{},
		dirty:   map[cluster.ServiceName]*cluster.ServiceObjects{},
	}
}

// service takes a Service's change; nil is none.
func (b *byService) service(old, now *cluster.Service) {
	switch {
	case now != nil: // under the same name as old, since that is what rows are kept by
		b.change(now.ServiceName, func(o *cluster.ServiceObjects) { o.Service = now })
	case old != nil:
		b.change(old.ServiceName, func(o *cluster.ServiceObjects) { o.Service = nil })
	}
}

// slice takes a slice's change; nil is none. A slice may go from one Service to another.
func (b *byService) slice(old, now *serviceSlice) {
	if old != nil {
		b.change(old.service, func(o *cluster.ServiceObjects) {
			if i, ok := findSlice(o.Slices, old.Name); ok {
				o.Slices = slices.Clip(slices.Concat(o.Slices[:i], o.Slices[i+1:]))
			}
		})
	}
	if now != nil {
		b.change(now.service, func(o *cluster.ServiceObjects) {
			i, _ := findSlice(o.Slices, now.Name)
			o.Slices = slices.Clip(slices.Concat(o.Slices[:i], []*cluster.EndpointSlice{now.EndpointSlice}, o.Slices[i:]))
		})
	}
}

func findSlice(sorted []*cluster.EndpointSlice, name string) (int, bool) {
	return slices.BinarySearchFunc(sorted, name, func(s *cluster.EndpointSlice, name string) int { return cmp.Compare(s.Name, name) })
}

// change gives how a copy of a name's objects, and puts that in their place.
func (b *byService) change(name cluster.ServiceName, how func(*cluster.ServiceObjects)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var now cluster.ServiceObjects
	if was := b.objects[name]; was != nil {
		now = *was
	}
	how(&now)
	if now.Service == nil && len(now.Slices) == 0 {
		delete(b.objects, name)
		b.dirty[name] = nil
		return
	}
	b.objects[name] = &now
	b.dirty[name] = &now
}

// get returns a name's objects, nil if there are none.
func (b *byService) get(name cluster.ServiceName) *cluster.ServiceObjects {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.objects[name]
}

// take returns what has changed since it was last called. Whoever calls owns the map.
func (b *byService) take() map[cluster.ServiceName]*cluster.ServiceObjects {
	b.mu.Lock()
	defer b.mu.Unlock()
	dirty := b.dirty
	b.dirty = map[cluster.ServiceName]*cluster.ServiceObjects{}
	return dirty
}

// withChanges returns what m becomes by changes, of which it keeps those that are some: objects that say what they
// said before stay the same ones, and so does m if nothing else is left.
func withChanges[V any](m *cluster.Map[V], changes map[cluster.Name]*V) *cluster.Map[V] {
	for name, now := range changes {
		if reflect.DeepEqual(m.Get(name), now) {
			delete(changes, name)
		}
	}
	if len(changes) == 0 {
		return m
	}
	return m.With(changes)
}

// asOf returns what m becomes by holding these objects and no others, as withChanges does.
func asOf[V any](m *cluster.Map[V], objects map[cluster.Name]*V) *cluster.Map[V] {
	for name := range m.All() {
		if _, ok := objects[name]; !ok {
			objects[name] = nil
		}
	}
	return withChanges(m, objects)
}
