package datapath

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// openMaps opens the pinned maps of the object, or makes and pins them. A pin's name carries the layout of the map,
// so that an agent never meets entries that it would misread: another layout is another map, filled anew beside the
// old one before any program changes over to it. FormerEndpoint alone looks into the old one.
func openMaps(spec *ebpf.CollectionSpec, dir string) (map[string]*ebpf.Map, error) {
	maps := map[string]*ebpf.Map{}
	for name, ms := range spec.Maps {
		if strings.HasPrefix(name, ".") {
			continue // constants of the programs
		}
		m, err := openMap(ms, filepath.Join(dir, pinName(spec, name)))
		if err != nil {
			return maps, fmt.Errorf("open map %s: %w", name, err)
		}
		maps[name] = m
	}
	return maps, nil
}

func openMap(spec *ebpf.MapSpec, pin string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(pin, nil)
	if err == nil {
		return m, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if m, err = ebpf.NewMap(spec); err != nil {
		return nil, err
	}
	if err := m.Pin(pin); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// repinMaps puts back the pins that somebody removed.
func (d *Datapath) repinMaps() ([]Change, error) {
	var changes []Change
	for name, m := range d.maps {
		pin := filepath.Join(d.dir, "maps", pinName(d.spec, name))
		if _, err := os.Lstat(pin); err == nil {
			continue
		}
		m.Unpin() // forgets the pin that is gone
		if err := m.Pin(pin); err != nil {
			return changes, fmt.Errorf("pin map %s: %w", name, err)
		}
		changes = append(changes, Change{"pins", name, "add"})
	}
	return changes, nil
}

// RemoveOtherLayouts removes the pins of maps whose layout this agent does not use. Only after every program has
// changed over.
func (d *Datapath) RemoveOtherLayouts() error {
	keep := map[string]bool{}
	for name := range d.maps {
		keep[pinName(d.spec, name)] = true
	}
	dir := filepath.Join(d.dir, "maps")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list pinned maps: %w", err)
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			d.log.Info("removing map of another layout", "pin", e.Name())
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("unpin map: %w", err)
			}
		}
	}
	return nil
}

// together are the maps whose rows name those of each other: when one has another layout, all are filled anew. Programs that
// still run read the rows of one agent alone then.
func together() []string {
	return []string{bpfMapEndpoints, bpfMapClasses, bpfMapBlocks, bpfMapRules}
}

func pinName(spec *ebpf.CollectionSpec, name string) string {
	ms := spec.Maps[name]
	if !slices.Contains(together(), name) {
		return ms.Name + "_" + layout(ms)
	}
	var layouts string
	for _, other := range together() {
		layouts += layout(spec.Maps[other])
	}
	return ms.Name + "_" + short(layouts)
}

// layout is a short hash of all that makes two maps exchangeable: kind, sizes, and the names, offsets and types of
// every field.
func layout(ms *ebpf.MapSpec) string {
	text := fmt.Sprint(ms.Type, ms.KeySize, ms.ValueSize, ms.MaxEntries, ms.Flags, describe(ms.Key), describe(ms.Value))
	return short(text)
}

func short(text string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))[:8] }

func describe(t btf.Type) string {
	switch t := t.(type) {
	case nil:
		return "-"
	case *btf.Struct:
		var b strings.Builder
		fmt.Fprintf(&b, "%s{", t.Name)
		for _, m := range t.Members {
			fmt.Fprintf(&b, "%s@%d:%s;", m.Name, m.Offset, describe(m.Type))
		}
		return b.String() + "}"
	case *btf.Array:
		return fmt.Sprintf("[%d]%s", t.Nelems, describe(t.Type))
	case *btf.Typedef:
		return describe(t.Type)
	case *btf.Int:
		return fmt.Sprintf("int%d", t.Size)
	case *btf.Enum:
		return fmt.Sprintf("enum%d", t.Size)
	}
	return fmt.Sprintf("%T", t)
}
