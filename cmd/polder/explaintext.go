package main

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/explain"
)

// writeExplanation prints an answer for people.
func writeExplanation(w io.Writer, a explain.Answer) {
	writeField(w, "from", explainedEnd(a.From))
	writeField(w, "to", explainedEnd(a.To))
	if a.Port == 0 {
		writeField(w, "packet", a.Protocol)
	} else {
		writeField(w, "packet", fmt.Sprintf("%s to port %d", a.Protocol, a.Port))
	}
	if a.Service != nil {
		writeChoice(w, *a.Service)
	}
	for _, way := range a.Ways {
		if len(a.Ways) > 1 {
			fmt.Fprintln(w)
		}
		writeWay(w, way, len(a.Ways) > 1)
	}
	fmt.Fprintln(w)
	writeWrapped(w, a.Verdict+".", "", "  ")
}

// fieldWidth is how far a field's text is in from the left.
const fieldWidth = 9

// writeField prints a text behind its label, or below the one before it if there is none.
func writeField(w io.Writer, label, text string) {
	writeWrapped(w, text, fmt.Sprintf("%-*s", fieldWidth, label), strings.Repeat(" ", fieldWidth))
}

func explainedEnd(e explain.End) string {
	var addresses []string
	for _, a := range e.Addresses {
		addresses = append(addresses, a.String())
	}
	text := strings.Join(addresses, " and ")
	switch {
	case e.Kind == "pod" && e.HostNetwork:
		text = fmt.Sprintf("pod %s in the network of %s, %s", e.Name, e.Node, text)
	case e.Kind == "pod" && e.Node != "":
		text = fmt.Sprintf("pod %s on %s, %s", e.Name, e.Node, text)
	case e.Name != "":
		text = fmt.Sprintf("%s %s, %s", e.Kind, e.Name, text)
	case e.Note == "":
		text += ", of no pod and no node"
	}
	if e.Note != "" {
		text += " (" + e.Note + ")"
	}
	return text
}

// writeChoice prints how a Service treats the client.
func writeChoice(w io.Writer, s explain.Service) {
	port := ""
	if s.Port != "" {
		port = " port " + s.Port + ","
	}
	writeField(w, "service", fmt.Sprintf("%s,%s %s, %s traffic policy %s", s.Name, port, s.Kind, s.Traffic, s.Policy))
	var t textTable
	for _, b := range s.Backends[:min(len(s.Backends), mostBackends)] {
		whose := b.Pod
		if b.Node != "" {
			whose = strings.TrimSpace(whose + " on " + b.Node)
		}
		t.add(strings.Repeat(" ", fieldWidth)+b.Address.String(), whose)
	}
	t.write(w)
	if more := len(s.Backends) - mostBackends; more > 0 {
		writeField(w, "", fmt.Sprintf("and %d more", more))
	}
	for _, r := range s.Refusals {
		writeField(w, "", r)
	}
}

func writeWay(w io.Writer, way explain.Way, several bool) {
	if several {
		writeField(w, "between", pairsText(way.Pairs))
	}
	label := "way"
	for _, r := range way.Routes {
		writeField(w, label, r)
		label = ""
	}
	for _, n := range way.Notes {
		writeField(w, "", n)
	}
	writeSide(w, "egress", way.Egress)
	writeSide(w, "ingress", way.Ingress)
	if several {
		verdict := "denied"
		if way.Allowed {
			verdict = "allowed"
		}
		writeField(w, "so", verdict)
	}
}

// pairsText lists the pairs by what they have in common: the sender's address.
func pairsText(pairs []explain.Pair) string {
	var froms []netip.Addr
	to := map[netip.Addr][]string{}
	for _, p := range pairs {
		if !slices.Contains(froms, p.From) {
			froms = append(froms, p.From)
		}
		text := p.To.String()
		if p.To.Port() == 0 {
			text = p.To.Addr().String()
		}
		if p.Who != "" {
			text += " (" + p.Who + ")"
		}
		to[p.From] = append(to[p.From], text)
	}
	var texts []string
	for _, from := range froms {
		texts = append(texts, fmt.Sprintf("%s and %s", from, strings.Join(to[from], ", ")))
	}
	return strings.Join(texts, "; ")
}

// writeSide prints what the policies of one end say: who decided, then each one that selects it.
func writeSide(w io.Writer, direction string, s *explain.Side) {
	if s == nil {
		return
	}
	writeField(w, direction, listed(s.Pods)+" "+s.Because(direction))
	for _, p := range s.Policies {
		writeWrapped(w, policyLine(p), strings.Repeat(" ", fieldWidth)+"- ", strings.Repeat(" ", fieldWidth)+"  ")
	}
}

// listed is names as people list them: "a, b and c".
func listed(names []string) string {
	last := len(names) - 1
	if last < 1 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " and " + names[last]
}

// policyLine says of a policy whether it has a rule for the packet.
func policyLine(p explain.Policy) string {
	text := p.Object
	if p.Where != "" {
		text += " (" + p.Where + ")"
	}
	if p.Priority != nil {
		text += fmt.Sprintf(", tier %s, priority %d", p.Tier, *p.Priority)
	}
	switch {
	case p.NotReached:
		return text + ": not reached"
	case p.Rule == 0:
		return text + ": no rule matches"
	}
	return text + ": " + explain.RuleText(p.Rule, p.RuleName) + " matches, " + strings.ToLower(p.Action)
}
