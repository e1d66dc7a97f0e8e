package datapath

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/polder-net/polder/internal/service"
)

// retireAfter is how long the backends of a generation outlive it: a program that read the frontend just before it
// changed still finds them.
const retireAfter = time.Second

// errFull says that a map has no room for a port. Its frontends stay as they are: nobody is sent to half of its backends.
var errFull = errors.New("the map is full")

// services is what the maps say of Services, as far as this process wrote or read it.
type services struct {
	known      bool // the maps have been read, and no write has failed since
	ports      map[service.PortName]written
	addresses  map[netip.Addr]int // cluster IPs → how many ports have them
	generation uint64             // the last one given
	slots      int                // rows of backends
	members    int                // rows of members
	retired    map[uint64]retired // by generation
	round      []service.PortName // what VerifyServices has yet to look at
}

// written is a port as it is in the maps.
type written struct {
	port       *service.Port
	generation uint64
}

// retired are the rows of a generation that no frontend names any more.
type retired struct {
	backends map[bpfBackendKey]bpfBackend
	members  map[bpfMemberKey]bpfMember
	at       time.Time
}

// ServicesKnown says whether SyncServices may be given changes alone.
func (d *Datapath) ServicesKnown() bool { return d.services.known }

// SyncServices makes the maps say what changed says: ports as they should be, nil those that are to go. What cannot be
// written is named in the error; after one, the next call must be ResyncServices.
func (d *Datapath) SyncServices(changed map[service.PortName]*service.Port, now time.Time) error {
	w := writer{d: d, s: &d.services, now: now}
	return w.sync(changed)
}

// ResyncServices reads the maps and makes them say what all ports say, and nothing else. Ports whose backends are as
// they should be keep their generation: a restart changes nothing. New generations count on from the nanoseconds since
// boot, as long as the maps live: no process can have given more of them, so none is given twice, whatever the maps
// have forgotten.
//
// Where all may not be all, keep leaves alone what nobody wants.
func (d *Datapath) ResyncServices(all map[service.PortName]*service.Port, keep bool, now time.Time) ([]Change, error) {
	have, err := d.readServices()
	if err != nil {
		return nil, err
	}
	rings, err := d.readRings()
	if err != nil {
		return nil, err
	}
	boot, err := SinceBoot()
	if err != nil {
		return nil, err
	}
	d.services = services{ports: map[service.PortName]written{}, addresses: map[netip.Addr]int{}, known: true,
		generation: max(d.services.generation, have.newest(), uint64(boot)), slots: len(have.backends), members: len(have.members), retired: d.services.retired}
	w := writer{d: d, s: &d.services, now: now, have: have, haveRings: rings, keep: keep}
	err = w.sync(all)
	return w.changes, err
}

// writer gathers the rows of one sync. They are written in the order in which programs find them: backends first, then
// the frontends that name them. What is taken away goes last.
type writer struct {
	d    *Datapath
	s    *services
	now  time.Time
	have *serviceRows // at a resync: what the maps say
	keep bool         // and what nobody wants stays
	serviceRows
	gone serviceRows
	// Generations with a ring: at a resync, those that there are; and those whose ring is to go.
	haveRings map[uint64]bool
	goneRings map[uint64]bool
	failed    map[uint64]bool // generations whose rows are not all written: no frontend may name them
	changes   []Change
	errs      []error
}

// serviceRows are rows of the four tables of Services.
type serviceRows struct {
	backends  map[bpfBackendKey]bpfBackend
	members   map[bpfMemberKey]bpfMember
	ranges    map[bpfSourceRangeKey]uint32
	frontends map[bpfFrontendKey]bpfFrontend
	rings     map[uint64][]uint32 // those to write
}

func (w *writer) sync(ports map[service.PortName]*service.Port) error {
	for _, name := range slices.SortedFunc(maps.Keys(ports), service.PortName.Compare) {
		w.port(name, ports[name])
	}
	if w.have != nil {
		w.compare()
	}
	w.retire()
	err := errors.Join(append(w.errs, w.flush())...)
	w.s.known = w.s.known && err == nil
	return err
}

// port turns what is written of a port into what it should be.
func (w *writer) port(name service.PortName, want *service.Port) {
	had, ok := w.s.ports[name]
	if !ok && want == nil {
		return
	}
	next := written{port: want, generation: had.generation}
	if want != nil && (!ok || !sameBackends(had.port, want)) {
		next.generation = w.generationOf(want)
	}
	w.replaceFrontends(had, next)
	w.replaceRanges(had, next)
	if ok && (want == nil || next.generation != had.generation) {
		r := retired{map[bpfBackendKey]bpfBackend{}, encodeMembers(had.port, had.generation), w.now}
		for i, b := range encodeBackends(had.port) {
			r.backends[bpfBackendKey{Generation: had.generation, Slot: uint32(i)}] = b
		}
		put(&w.s.retired, had.generation, r)
	}
	if want == nil {
		delete(w.s.ports, name)
	} else {
		w.s.ports[name] = next
	}
}

func sameBackends(a, b *service.Port) bool {
	return slices.Equal(a.Cluster, b.Cluster) && slices.Equal(a.Local, b.Local) && hasMembers(a) == hasMembers(b) && sameRing(a, b)
}

// replaceFrontends puts the rows that differ, and takes away those that are no more. Another port may have just taken
// one over, or given it up.
func (w *writer) replaceFrontends(had, next written) {
	before, after := frontendRows(had), frontendRows(next)
	for key, row := range after {
		delete(w.gone.frontends, key)
		if old, ok := before[key]; !ok || old != row {
			put(&w.frontends, key, row)
		}
	}
	for key, row := range before {
		if _, ok := after[key]; ok {
			continue
		}
		if _, taken := w.frontends[key]; !taken {
			put(&w.gone.frontends, key, row)
		}
	}
	w.countAddresses(next, +1)
	w.countAddresses(had, -1)
}

// countAddresses keeps a row for each cluster IP as long as a port has it.
func (w *writer) countAddresses(p written, by int) {
	if p.port == nil {
		return
	}
	for f, kind := range p.port.Frontends {
		if kind != service.ClusterIP {
			continue
		}
		before := w.s.addresses[f.Addr]
		w.s.addresses[f.Addr] += by
		key, row := addressRow(f.Addr)
		switch {
		case before == 0 && by > 0:
			delete(w.gone.frontends, key)
			put(&w.frontends, key, row)
		case before+by == 0:
			delete(w.s.addresses, f.Addr)
			delete(w.frontends, key)
			put(&w.gone.frontends, key, row)
		}
	}
}

func frontendRows(p written) map[bpfFrontendKey]bpfFrontend {
	if p.port == nil {
		return nil
	}
	rows := make(map[bpfFrontendKey]bpfFrontend, len(p.port.Frontends))
	for f, kind := range p.port.Frontends {
		rows[encodeFrontend(f)] = encodeRow(p.port, kind, p.generation)
	}
	return rows
}

// replaceRanges leaves ranges that are in both alone: who may use an address never becomes nobody in between.
func (w *writer) replaceRanges(had, next written) {
	before, after := rangeRows(had), rangeRows(next)
	for key := range after {
		if _, ok := before[key]; !ok {
			put(&w.ranges, key, 1)
		}
	}
	for key := range before {
		if _, ok := after[key]; !ok {
			put(&w.gone.ranges, key, 1)
		}
	}
}

func rangeRows(p written) map[bpfSourceRangeKey]uint32 {
	rows := map[bpfSourceRangeKey]uint32{}
	if p.port != nil {
		for _, r := range p.port.SourceRanges {
			rows[encodeSourceRange(ownerOf(p.port.Name), r)] = 1
		}
	}
	return rows
}

// retire takes away the generations that no frontend has named for a while.
func (w *writer) retire() {
	for generation, r := range w.s.retired {
		if w.now.Sub(r.at) < retireAfter {
			continue
		}
		for k, v := range r.backends {
			put(&w.gone.backends, k, v)
		}
		for k, v := range r.members {
			put(&w.gone.members, k, v)
		}
		put(&w.goneRings, generation, true)
		w.s.slots -= len(r.backends)
		w.s.members -= len(r.members)
		delete(w.s.retired, generation)
	}
}

// RetiredServices says whether something waits to be taken away at a later SyncServices.
func (d *Datapath) RetiredServices() bool { return len(d.services.retired) > 0 }

func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[k] = v
}
