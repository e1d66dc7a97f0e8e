package probe

import (
	"context"
	"errors"
	"net/netip"
	"sync"
)

// Party is who attempts go from and to: a node, or a pod on one.
type Party struct {
	Name string // the node's, or the pod's namespace/name
	Node string
	Pod  bool

	Addresses []netip.Addr          // at which it listens
	TCP, UDP  map[netip.Addr]uint16 // at which ports, that nobody else has
}

// Attempt is a question to packets: does one get through?
type Attempt struct {
	From, To int // places in the list of parties
	Address  netip.Addr
	Port     uint16
	UDP      bool
}

// Attempted is an attempt and its answer. A refusal is one: it comes from the receiver's own stack.
type Attempted struct {
	Attempt
	Reached bool
	Said    string // what came back, or why nothing did
}

// Try carries attempts out, from inside the network namespaces of nodes and pods. next names those to carry out, as long
// as there are any, from the answers to the last ones. The failures are of nodes that cannot be probed.
func Try(ctx context.Context, o Options, next func([]Party, []Attempted) []Attempt) ([]Failure, error) {
	sessions := connect(ctx, o.Targets)
	closeAll := func() {
		for _, s := range sessions {
			s.close()
		}
	}
	defer closeAll()
	// Cutting the probers off makes all that is under way fail, and so end.
	defer context.AfterFunc(ctx, closeAll)()
	t := &tally{}
	checkStart(t, sessions)
	ends := name(sessions, o.Pods)
	if len(ends) == 0 {
		return nil, errors.Join(errors.New("no node can be probed"), failuresOf(sessions))
	}
	var done []Attempted
	for {
		attempts := next(partiesOf(ends), done)
		if len(attempts) == 0 {
			return t.failures, nil
		}
		done = tryAll(ends, attempts, o.Progress)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

func partiesOf(ends []*end) (list []Party) {
	for _, e := range ends {
		p := Party{
			Name: e.name, Node: e.session.node.Name, Pod: !e.isNode(),
			TCP: map[netip.Addr]uint16{}, UDP: map[netip.Addr]uint16{},
		}
		for _, l := range e.Listeners {
			if l.Error == "" {
				p.Addresses = append(p.Addresses, l.Address)
				p.TCP[l.Address], p.UDP[l.Address] = l.TCP, l.UDP
			}
		}
		list = append(list, p)
	}
	return list
}

// tryAll carries attempts out, each by the prober of the node that it comes from.
func tryAll(ends []*end, attempts []Attempt, progress func(done, total, failed int)) []Attempted {
	all := make([]Attempted, len(attempts))
	dials := map[*session][]dial{}
	for i, a := range attempts {
		kind := reachTCP
		if a.UDP {
			kind = reachUDP
		}
		from := ends[a.From]
		all[i].Attempt = a
		dials[from.session] = append(dials[from.session], dial{ID: i, From: from.id, Kind: kind, To: a.Address, Port: a.Port})
	}
	var mu sync.Mutex
	done, unreached := 0, 0
	got := func(r result) {
		mu.Lock()
		defer mu.Unlock()
		all[r.ID].Reached, all[r.ID].Said = r.Reached != "", r.Reached+r.Error
		done++
		if r.Reached == "" {
			unreached++
		}
		if progress != nil {
			progress(done, len(attempts), unreached)
		}
	}
	var running sync.WaitGroup
	for s, list := range dials {
		running.Go(func() { s.run(list, got) })
	}
	running.Wait()
	return all
}
