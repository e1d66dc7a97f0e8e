package datapath

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/polder-net/polder/internal/service"
)

// Served is what a running datapath's maps say of Services, seen from outside its agent. It changes nothing.
type Served struct{ frontends, backends *ebpf.Map }

// OpenServed opens the maps that are pinned below dir.
func OpenServed(dir string) (*Served, error) {
	s := &Served{}
	for name, into := range map[string]**ebpf.Map{bpfMapFrontends: &s.frontends, bpfMapBackends: &s.backends} {
		pins, err := filepath.Glob(filepath.Join(dir, "maps", name+"_*"))
		if err == nil && len(pins) != 1 {
			err = fmt.Errorf("%d maps of that name are pinned in %s", len(pins), dir)
		}
		if err == nil {
			*into, err = ebpf.LoadPinnedMap(pins[0], &ebpf.LoadPinOptions{ReadOnly: true})
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open map %s: %w", name, err), s.Close())
		}
	}
	return s, nil
}

// Close lets go of the maps.
func (s *Served) Close() error { return errors.Join(s.frontends.Close(), s.backends.Close()) }

// Backends are those that clients inside the cluster get from a frontend, and whether there is such a frontend. Where an
// agent has just taken them away, those that are left.
func (s *Served) Backends(f service.Frontend) (all []service.Backend, ok bool, err error) {
	var row bpfFrontend
	if err := s.frontends.Lookup(encodeFrontend(f), &row); errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, fmt.Errorf("read frontend %s: %w", f, err)
	}
	for i := range row.Inside.Count {
		var b bpfBackend
		err := s.backends.Lookup(bpfBackendKey{Generation: row.Generation, Slot: row.Inside.First + i}, &b)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return nil, true, fmt.Errorf("read backends of %s: %w", f, err)
		}
		at := decodeAddrPort(b.Addr, b.Port)
		all = append(all, service.Backend{Addr: at.Addr(), Port: at.Port()})
	}
	return all, true, nil
}

// Has says whether there is such a frontend.
func (s *Served) Has(f service.Frontend) (bool, error) {
	var row bpfFrontend
	err := s.frontends.Lookup(encodeFrontend(f), &row)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	return err == nil, err
}
