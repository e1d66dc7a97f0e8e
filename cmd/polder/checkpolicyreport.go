package main

import (
	"fmt"
	"io"
	"net/netip"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/explain"
	"github.com/polder-net/polder/internal/probe"
)

// judge says what the policies make of an attempt.
func (p *policyCheck) judge(a probe.Attempt) explain.Way {
	return p.model.Judge(p.source(a.From, a.Address.Is4()), netip.AddrPortFrom(a.Address, a.Port), transport(a.UDP))
}

func transport(udp bool) cluster.Protocol {
	if udp {
		return cluster.UDP
	}
	return cluster.TCP
}

// again counts what policies and packets agree on, and returns what they do not.
func (p *policyCheck) again(done []probe.Attempted) (doubts []probe.Attempt) {
	for _, a := range done {
		if way := p.judge(a.Attempt); way.Allowed != a.Reached {
			doubts = append(doubts, a.Attempt)
		} else {
			p.count(way)
		}
	}
	return doubts
}

func (p *policyCheck) count(way explain.Way) {
	p.report.Probes++
	if !way.Allowed {
		p.report.Denied++
	}
}

// conclude counts what was looked at twice.
func (p *policyCheck) conclude(done []probe.Attempted) {
	for _, a := range done {
		way := p.judge(a.Attempt)
		p.count(way)
		ours := a.Port == p.parties[a.To].UDP[a.Address]
		switch {
		case way.Allowed == a.Reached:
		case way.Allowed && a.UDP && !ours:
			p.report.Unclear++ // a server need not answer what it does not understand
		default:
			protocol := cluster.TCP
			if a.UDP {
				protocol = cluster.UDP
			}
			p.report.Mismatches = append(p.report.Mismatches, policyMismatch{
				From: p.parties[a.From].Name, To: p.parties[a.To].Name, Address: netip.AddrPortFrom(a.Address, a.Port),
				Over: protocol.String(), Allowed: way.Allowed, Because: way.Because(), Packets: a.Said,
			})
		}
	}
}

// writePolicyReport prints a report for people.
func writePolicyReport(w io.Writer, r policyReport) {
	for i, m := range r.Mismatches {
		if i == shownFailures {
			fmt.Fprintf(w, "and %d more; -o json lists all\n", len(r.Mismatches)-i)
			break
		}
		says, do := "deny", "get through"
		if m.Allowed {
			says, do = "allow", "do not get through"
		}
		writeWrapped(w, fmt.Sprintf("%s to %s, %s %s: policies %s it, but packets %s: %s",
			m.From, m.To, m.Address, m.Over, says, do, m.Packets), "", "    ")
		for _, line := range m.Because {
			writeWrapped(w, line, "  - ", "    ")
		}
	}
	for _, f := range r.Failures {
		writeWrapped(w, fmt.Sprintf("%s: %s", f.From, f.Reason), "", "    ")
	}
	if !r.ok() {
		fmt.Fprintln(w)
	}
	writeWrapped(w, fmt.Sprintf("%s of %s and %s, %d of them denied by policies, %.1f s; --seed %d repeats it.",
		several(r.Probes, "probe"), several(r.Nodes, "node"), several(r.Pods, "pod"), r.Denied, r.Seconds, r.Seed), "", "")
	if r.LeftOut > 0 {
		writeWrapped(w, fmt.Sprintf("Left out are %s at declared ports; --all probes them.", several(r.LeftOut, "pair")), "", "")
	}
	if r.Unclear > 0 {
		writeWrapped(w, fmt.Sprintf("Of %s that policies allow nothing is known: nobody answered, which servers need not.",
			several(r.Unclear, "datagram")), "", "")
	}
	switch {
	case r.ok():
		fmt.Fprintln(w, "Packets and policies agree.")
	default:
		fmt.Fprintf(w, "Packets and policies disagree in %s.\n", several(len(r.Mismatches), "case"))
	}
}
