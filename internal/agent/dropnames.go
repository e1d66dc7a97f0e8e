package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/policy"
)

// mostGone is of how many rulesets that nobody has any more it is remembered what they said: packets that they denied may
// yet be told, and their counters are there for long.
const mostGone = 1000

// knownRulesets says who decides in which ruleset, and which pods' packets one is for.
type knownRulesets struct {
	mu       sync.Mutex
	deciders map[policy.ID][]policy.Decider
	gone     []policy.ID // in the order in which they went
}

func (k *knownRulesets) note(changed map[policy.ID]*policy.Ruleset) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.deciders == nil {
		k.deciders = map[policy.ID][]policy.Decider{}
	}
	for id, r := range changed {
		if r != nil {
			k.deciders[id] = r.Deciders
			k.gone = slices.DeleteFunc(k.gone, func(old policy.ID) bool { return old == id })
		} else if k.deciders[id] != nil {
			k.gone = append(k.gone, id)
		}
	}
	for ; len(k.gone) > mostGone; k.gone = k.gone[1:] {
		delete(k.deciders, k.gone[0])
	}
}

// reason says in words why a packet did not pass, and by which policies.
func (k *knownRulesets) reason(id policy.ID, decision policy.Decision) (why string, policies []string) {
	if id == policy.Closed {
		return "closed: " + unknown + ", or do not fit", nil
	}
	k.mu.Lock()
	deciders := k.deciders[id]
	k.mu.Unlock()
	i := decision.Decider()
	if i >= len(deciders) {
		return "isolated by policies that have changed since", nil
	}
	d := deciders[i]
	if len(d.Objects) == 0 {
		return "isolated", nil
	}
	if d.Rule < 0 {
		return "isolated by " + strings.Join(d.Objects, ", "), d.Objects
	}
	why = fmt.Sprintf("denied by %s, rule %d", strings.Join(d.Objects, ", "), d.Rule+1) // from 1, as `polder explain` counts
	if d.Name != "" {
		why += fmt.Sprintf(" %q", d.Name)
	}
	return why, d.Objects
}

// namer finds whose the ends of packets are. It reads the cluster's pods when there is a packet to name, and then what has
// changed of them since the last one.
type namer struct {
	drops *drops
	seen  *cluster.Map[cluster.Pod]
	of    map[netip.Addr]cluster.Name
}

// name also returns the pod whose policies they were.
func (n *namer) name(one datapath.Denial, now time.Time) (api.Drop, cluster.LocalPod) {
	v := n.drops.view.Load()
	if v == nil {
		v = &dropView{}
	}
	n.read(v.snapshot)
	pod := v.pods[one.Index]
	why, policies := n.drops.rulesets.reason(one.Ruleset, one.Decision)
	d := api.Drop{Time: now, Direction: "egress", Protocol: protocolName(one.Protocol), Reason: why, Policies: policies,
		From: n.end(v, one.Source, one.Protocol), To: n.end(v, one.Destination, one.Protocol)}
	if one.Ingress {
		d.Direction = "ingress"
	}
	return d, pod
}

// end names what has an address: a pod of this node, as its kernel says, or another, as the cluster does.
func (n *namer) end(v *dropView, a netip.AddrPort, p cluster.Protocol) api.DropEnd {
	e := api.DropEnd{Address: a.Addr()}
	if p == cluster.TCP || p == cluster.UDP || p == cluster.SCTP {
		e.Port = a.Port()
	}
	name, ok := v.here[a.Addr()]
	if !ok {
		name, ok = n.of[a.Addr()]
	}
	if ok && name.Name != "" {
		e.Pod = name.String()
	}
	return e
}

func (n *namer) read(snap *cluster.Snapshot) {
	if snap == nil || snap.AllPods == n.seen {
		return
	}
	if n.of == nil {
		n.of = map[netip.Addr]cluster.Name{}
	}
	changed := snap.AllPods.ChangedSince(n.seen)
	for _, name := range changed {
		if old := n.seen.Get(name); old != nil {
			for _, addr := range old.Addresses {
				if n.of[addr] == name {
					delete(n.of, addr)
				}
			}
		}
	}
	for _, name := range changed {
		if pod := snap.AllPods.Get(name); pod != nil && !pod.HostNetwork {
			for _, addr := range pod.Addresses {
				n.of[addr] = name
			}
		}
	}
	n.seen = snap.AllPods
}

func protocolName(p cluster.Protocol) string {
	switch p {
	case cluster.TCP, cluster.UDP, cluster.SCTP:
		return p.String()
	case 1:
		return "ICMP"
	case 58:
		return "ICMPv6"
	}
	return fmt.Sprintf("protocol %d", p)
}
