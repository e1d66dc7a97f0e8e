package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/polder-net/polder/internal/api"
)

func trace(e env, args []string) error {
	f := newFlags("trace", "FROM TO[:PORT] [--udp] [-o json]", `
Says where a new connection's first packet goes: the live program is run on one that nobody sends. It is counted like
any other; what else it leaves is taken back.

FROM is "node", a pod of this node, or any address: of a pod elsewhere, or outside. TO is a Service, a pod or an
address; PORT is a number, or the name of a Service's port. Pods and Services are NAMESPACE/NAME; NAME alone is in
"default".
The exit status is 1 when the packet is refused or dropped.`)
	udp := f.Bool("udp", false, "a datagram, not a TCP connection")
	output := f.String("o", "", "print `json`, for programs, or text")
	socket := f.String("socket", api.Socket, "ask the agent that listens at this `path`")
	words, err := f.parse(e, args, "FROM", "TO")
	if err != nil {
		return err
	}
	if err := checkOutput("trace", *output); err != nil {
		return err
	}
	to, port := splitPort(words[1])
	r := api.Request{Verb: api.Trace, Trace: &api.TraceRequest{From: party(words[0]), To: party(to), Port: port, UDP: *udp}}
	if err := r.Validate(); err != nil {
		return usagef("trace: %v", err)
	}
	body, err := ask(e, *socket, r)
	var refusal *api.Error
	if errors.As(err, &refusal) && refusal.Code == api.CodeNoSuch {
		return usagef("trace: %v", refusal)
	}
	if err != nil {
		return err
	}
	return showTrace(e, body, *output)
}

func showTrace(e env, body json.RawMessage, output string) error {
	var report api.TraceReport
	if err := json.Unmarshal(body, &report); err != nil {
		return fmt.Errorf("read agent's report: %w", err)
	}
	if output == "json" {
		if err := writeIndented(e.stdout, body); err != nil {
			return err
		}
	} else {
		writeTrace(e.stdout, report)
	}
	if !report.Delivered {
		return errFailed
	}
	return nil
}

// splitPort takes a port off a destination. An IPv6 address that has one is in brackets.
func splitPort(to string) (host, port string) {
	bare := strings.TrimSuffix(strings.TrimPrefix(to, "["), "]")
	if _, err := netip.ParseAddr(bare); err == nil {
		return bare, ""
	}
	at := strings.LastIndexByte(to, ':')
	if at < 0 {
		return to, ""
	}
	return strings.Trim(to[:at], "[]"), to[at+1:]
}

// party reads one end. What is no address is a name.
func party(s string) api.Party {
	if s == "node" {
		return api.Party{Node: true}
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return api.Party{Address: a.Unmap()}
	}
	if namespace, name, ok := strings.Cut(s, "/"); ok {
		return api.Party{Namespace: namespace, Name: name}
	}
	return api.Party{Namespace: "default", Name: s}
}

// writeTrace prints a report for people.
func writeTrace(w io.Writer, r api.TraceReport) {
	var t textTable
	t.add("from", clientText(r))
	if r.To.Port() == 0 {
		t.add("to", r.To.Addr().String()+" by "+r.Protocol)
	} else {
		t.add("to", r.To.String()+"/"+r.Protocol)
	}
	if r.Service == nil {
		t.add("service", "none: no Service has this address and port")
	} else {
		t.add("service", serviceText(*r.Service))
		t.add("policy", policyText(r))
		if len(r.Service.SourceRanges) > 0 {
			t.add("admits", stacked(r.Service.SourceRanges))
		}
		t.add("backends", backendLines(r.Service.Backends))
	}
	if r.Program != "" {
		t.add("program", r.Program+": "+r.Outcome)
	}
	if r.Backend.IsValid() {
		t.add("chosen", r.Backend.String())
	}
	if r.HandedTo != "" {
		t.add("chosen", "a backend of "+r.HandedTo+", to which the packet is handed over")
	}
	if text := destinationText(r.Destination); text != "" {
		t.add("way", text)
	}
	t.write(w)
	fmt.Fprintf(w, "\n%s.\n", r.Verdict)
}

func clientText(r api.TraceReport) string {
	where := "outside"
	if r.Inside {
		where = "inside the cluster"
	}
	switch {
	case r.FromPod != "":
		return fmt.Sprintf("pod %s\n%s, %s", r.FromPod, r.From, where)
	case r.From.IsValid():
		return fmt.Sprintf("%s, %s", r.From, where)
	}
	return "this node, " + where
}

func serviceText(s api.TracedService) string {
	name := s.Namespace + "/" + s.Name
	if s.Kind == "HostPort" {
		return "pod " + name + ", HostPort"
	}
	if s.Port != "" {
		name += ", port " + s.Port
	}
	return name + ", " + s.Kind
}

func policyText(r api.TraceReport) string {
	which := "external"
	if r.Service.Kind == "ClusterIP" {
		which = "internal"
	}
	text := fmt.Sprintf("%s, by the %s traffic policy", r.Service.Policy, which)
	if which == "external" && r.Inside {
		text = r.Service.Policy + ": the external traffic policy is for clients outside"
	}
	if r.Service.Affinity > 0 {
		text += fmt.Sprintf("\na client keeps its backend for %d s", r.Service.Affinity)
	}
	return text
}

// mostBackends are listed for people.
const mostBackends = 10

func backendLines(all []api.Backend) string {
	if len(all) == 0 {
		return "none"
	}
	var list textTable
	for _, b := range all[:min(len(all), mostBackends)] {
		list.add(b.Address.String(), backendText(api.Service{}, b))
	}
	if more := len(all) - mostBackends; more > 0 {
		list.add(fmt.Sprintf("and %d more", more))
	}
	var text strings.Builder
	list.write(&text)
	return strings.TrimSuffix(text.String(), "\n")
}

func destinationText(d api.Destination) string {
	what := d.Address.String()
	if d.Pod != "" {
		what = "pod " + d.Pod
	}
	switch d.Way {
	case "":
		return ""
	case "pod":
		return what + " on this node"
	case "node":
		return "this node itself"
	case "outside":
		return "outside the cluster, as the node's routes lead"
	case "tunnel":
		return what + " of " + d.Node + ", through the tunnel"
	}
	return what + " of " + d.Node + ", " + d.Way
}
