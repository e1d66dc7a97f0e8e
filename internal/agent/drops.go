package agent

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/policy"
)

// How many packets that policies did not let pass are remembered, for `polder drops --follow`; how many of a second: who
// reads cannot follow more, and a flood is not to cost more than the packets that do it; and how long an answer waits for one.
const (
	mostDrops  = 1000
	dropsRate  = 200
	awaitDrops = 3 * time.Second
)

// drops are the packets that policies did not let pass. The loop says who is who; the rest is beside it.
type drops struct {
	view     atomic.Pointer[dropView]
	rulesets knownRulesets

	mu     sync.Mutex
	recent []api.Drop // the last of them; the newest has the number last
	last   uint64
	more   chan struct{} // closed at the next one
}

// dropView is what packets are told by. Nobody changes it.
type dropView struct {
	pods     map[int]cluster.LocalPod // by the index of their links
	here     map[netip.Addr]cluster.Name
	snapshot *cluster.Snapshot
}

// showPods tells who is here now.
func (a *Agent) showPods() {
	if a.policies.table == nil {
		return
	}
	v := &dropView{pods: make(map[int]cluster.LocalPod, len(a.pods)), here: map[netip.Addr]cluster.Name{}, snapshot: a.snapshot}
	for _, p := range a.pods {
		v.pods[p.Index] = p
		for _, addr := range p.Addresses {
			v.here[addr] = cluster.Name{Namespace: p.Namespace, Name: p.Name}
		}
	}
	a.policies.drops.view.Store(v)
}

func (d *drops) noteRulesets(changed map[policy.ID]*policy.Ruleset) { d.rulesets.note(changed) }

// followDrops names the packets that policies do not let pass, as they come.
func (a *Agent) followDrops(ctx context.Context) error {
	n := namer{drops: &a.policies.drops}
	e := newEvents(a)
	allowed, until := dropsRate, time.Time{}
	err := a.datapath.Denials(ctx, func(one datapath.Denial) {
		now := time.Now()
		if now.After(until) {
			allowed, until = dropsRate, now.Add(time.Second)
		}
		if allowed--; allowed < 0 {
			return
		}
		drop, pod := n.name(one, now)
		n.drops.add(drop)
		e.note(ctx, pod, drop, now)
	})
	if err != nil && ctx.Err() == nil {
		a.log.Error("what policies do not let pass is counted, but cannot be told", "err", err)
		<-ctx.Done()
	}
	return nil
}

func (d *drops) add(one api.Drop) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.recent) >= 2*mostDrops {
		d.recent = append([]api.Drop(nil), d.recent[mostDrops:]...)
	}
	d.recent = append(d.recent, one)
	d.last++
	if d.more != nil {
		close(d.more)
		d.more = nil
	}
}

// after returns those that came after one, or what to wait for while there is none. The first one's number is 2: 1 is where
// it begins.
func (d *drops) after(number uint64) (list []api.Drop, last, missed uint64, wait <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	last = d.last + 1
	if number == 0 {
		return nil, last, 0, nil
	}
	if number >= last { // more: another agent counted
		if d.more == nil {
			d.more = make(chan struct{})
		}
		return nil, last, 0, d.more
	}
	n := last - number
	if most := uint64(min(len(d.recent), mostDrops)); n > most {
		missed, n = n-most, most
	}
	list = append(list, d.recent[len(d.recent)-int(n):]...)
	return list, last, missed, nil
}

// follow answers with drops after one, as soon as there are any, or with none after a while.
func (d *drops) follow(ctx context.Context, node string, number uint64) api.DropsReport {
	late := time.NewTimer(awaitDrops)
	defer late.Stop()
	for {
		list, last, missed, wait := d.after(number)
		r := api.DropsReport{Node: node, Drops: list, Last: last, Missed: missed}
		if wait == nil {
			return r
		}
		select {
		case <-wait:
		case <-late.C:
			return r
		case <-ctx.Done():
			return r
		}
	}
}
