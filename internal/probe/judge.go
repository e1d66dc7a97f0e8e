package probe

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// judge says what a trial means for the laws.
func (t trial) judge(all *tally) {
	reach := 3
	switch {
	case t.from.isNode() && t.to.isNode():
		reach = 1
	case !t.from.isNode() && !t.to.isNode():
		reach = 2
	}
	if t.at.Error != "" {
		all.check(reach, t.fail("", "nothing can listen on its address: "+t.at.Error))
		return
	}
	var failures []Failure
	var seen []Failure // what law 4 says of the addresses that the receiver saw
	for _, k := range []kind{tcp, udp} {
		if reason := t.reached(t.results[k]); reason != "" {
			failures = append(failures, t.fail(k, reason))
		}
		if a := t.results[k].Answer; a != nil && !t.from.isNode() && !t.from.owns(a.Seen) {
			seen = append(seen, t.fail(k, fmt.Sprintf("its peer saw %s, which is not its address", a.Seen)))
		}
	}
	all.check(reach, failures...)
	if !t.from.isNode() && (t.results[tcp].Answer != nil || t.results[udp].Answer != nil) {
		all.check(4, seen...)
	}
	if reason := t.passedWhole(t.results[full]); reason != "" {
		all.check(6, t.fail(full, reason))
	} else {
		all.check(6)
	}
}

func (t trial) fail(k kind, reason string) Failure {
	return Failure{
		From: t.from.name, To: t.to.name, Family: family(t.at.Address.Is4()), Probe: string(k), Reason: reason,
	}
}

// reached says why a probe did not reach whom it should, as whom it should; "" when it did.
func (t trial) reached(r result) string {
	switch {
	case r.Error != "":
		return r.Error
	case r.Answer == nil:
		return "no result"
	case r.Answer.Who != t.to.who():
		return fmt.Sprintf("%s answered in its place", r.Answer.Who)
	case r.Answer.Seen != r.Source:
		return fmt.Sprintf("the receiver saw %s, not the sender's own %s", r.Answer.Seen, r.Source)
	case !t.from.owns(r.Answer.Seen):
		return fmt.Sprintf("the receiver saw %s, which the sender's object does not list", r.Answer.Seen)
	case r.LostFirst:
		return "the first packet was lost, the second arrived"
	}
	return ""
}

// passedWhole says why a full-size packet did not pass.
func (t trial) passedWhole(r result) string {
	if reason := t.reached(r); reason != "" {
		if r.MTU > 0 {
			return fmt.Sprintf("%d bytes: %s", r.MTU, reason)
		}
		return reason
	}
	want := dial{To: t.at.Address}.payload(r.MTU)
	switch {
	case r.Answer.Got != want:
		return fmt.Sprintf("of %d bytes of payload, %d arrived", want, r.Answer.Got)
	case r.Answer.Fragmented:
		return fmt.Sprintf("%d bytes arrived in fragments", r.MTU)
	}
	return ""
}

// checkStart counts nodes that could not be probed.
func checkStart(t *tally, sessions []*session) {
	for _, s := range sessions {
		if s.failure != nil {
			t.failures = append(t.failures, Failure{From: s.node.Name, Reason: s.failure.Error()})
		}
	}
}

// checkAddresses is law 5: each address of a pod is its alone, and of its node's pod CIDR.
func checkAddresses(t *tally, ends []*end) {
	owners := map[netip.Addr][]string{}
	for _, e := range ends {
		for _, l := range e.Listeners {
			owners[l.Address] = append(owners[l.Address], e.name)
		}
	}
	for _, e := range ends {
		if e.isNode() {
			continue
		}
		for _, l := range e.Listeners {
			if reason := e.wrongAddress(l.Address, owners[l.Address]); reason != "" {
				t.check(5, Failure{From: e.name, Family: family(l.Address.Is4()), Reason: reason})
			} else {
				t.check(5)
			}
		}
		for _, ipv4 := range []bool{true, false} {
			if p, ok := e.session.node.PodCIDR(ipv4); ok && !e.has(ipv4) {
				t.check(5, Failure{From: e.name, Family: family(ipv4), Reason: fmt.Sprintf("has no address of its node's %s", p)})
			}
		}
	}
}

func (e *end) wrongAddress(a netip.Addr, owners []string) string {
	if len(owners) > 1 {
		return fmt.Sprintf("%s belongs to %v", a, owners)
	}
	cidrs := e.session.node.PodCIDRs
	if len(cidrs) == 0 || slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return ""
	}
	return fmt.Sprintf("%s is not of its node's pod CIDRs %v", a, cidrs)
}

// checkPods is law 4 as the cluster's objects see it: what a pod's status says is inside the pod.
func checkPods(t *tally, sessions []*session, pods []cluster.Pod) {
	for _, s := range sessions {
		if s.failure != nil {
			continue
		}
		for _, p := range pods {
			if p.Node != s.node.Name || p.HostNetwork {
				continue
			}
			for _, a := range p.Addresses {
				if !s.hasPod(a) {
					reason := fmt.Sprintf("its status says %s, which no pod on %s has", a, s.node.Name)
					t.check(4, Failure{From: p.Namespace + "/" + p.Name, Family: family(a.Is4()), Reason: reason})
				}
			}
		}
	}
}

func (s *session) hasPod(a netip.Addr) bool {
	for i := range s.ends {
		if !s.ends[i].isNode() && s.ends[i].owns(a) {
			return true
		}
	}
	return false
}

// notes say what a reader of the report should know beside it.
func notes(r Report, ends []*end, trials []trial) []string {
	var list []string
	if r.Pairs < r.Possible {
		list = append(list, fmt.Sprintf("a sample: %d of %d ordered pairs; --all probes all of them", r.Pairs, r.Possible))
	}
	if r.Pods == 0 {
		list = append(list, "no pods were found: laws 2 to 5 say nothing")
	}
	unknown := 0
	for _, e := range ends {
		if e.isNode() && len(e.session.node.PodCIDRs) == 0 {
			unknown++
		}
	}
	if unknown > 0 {
		list = append(list, fmt.Sprintf("nodes whose pod CIDR is not known: %d; of law 5, only uniqueness was checked there", unknown))
	}
	least, most, learned := 0, 0, 0
	for _, t := range trials {
		full := t.results[full]
		if full.Answer == nil {
			continue
		}
		if least == 0 || full.MTU < least {
			least = full.MTU
		}
		most = max(most, full.MTU)
		if full.Learned {
			learned++
		}
	}
	if most > 0 {
		list = append(list, fmt.Sprintf("full-size packets had %s bytes", span(least, most)))
	}
	if learned > 0 {
		list = append(list, fmt.Sprintf("on %d paths an ICMP message had to say that the MTU is smaller", learned))
	}
	return list
}

func span(least, most int) string {
	if least == most {
		return fmt.Sprint(least)
	}
	return fmt.Sprintf("%d to %d", least, most)
}
