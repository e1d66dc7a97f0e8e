package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/api"
)

// mostServices are shown to people. Programs get all.
const mostServices = 100

func services(e env, args []string) error {
	f := newFlags("services", "[NAMESPACE[/NAME]] [-o json]", `
Lists the Services that this node serves: all, those of a namespace, or one in detail, with every endpoint that is left
out and why. A node port is at every address of every node. A backend "here" is on this node.`)
	output := f.String("o", "", "print `json`, for programs, or text")
	socket := f.String("socket", api.Socket, "ask the agent that listens at this `path`")
	words, err := f.parse(e, args, "[NAMESPACE/NAME]")
	if err != nil {
		return err
	}
	if err := checkOutput("services", *output); err != nil {
		return err
	}
	var which api.ServicesRequest
	if len(words) == 1 {
		namespace, name, named := strings.Cut(words[0], "/")
		if namespace == "" || named && name == "" || api.ValidateObject(namespace, name) != nil {
			return usagef("services: %q is neither a namespace nor a Service: want NAMESPACE or NAMESPACE/NAME", words[0])
		}
		which.Namespace, which.Name = namespace, name
	}
	if *output != "json" {
		which.Most = mostServices
	}
	body, err := ask(e, *socket, api.Request{Verb: api.Services, Services: &which})
	if err != nil {
		return err
	}
	if *output == "json" {
		return writeIndented(e.stdout, body)
	}
	var report api.ServicesReport
	if err := json.Unmarshal(body, &report); err != nil {
		return fmt.Errorf("read agent's report: %w", err)
	}
	writeServices(e.stdout, report)
	return nil
}

// writeServices prints a report for people: a paragraph a Service.
func writeServices(w io.Writer, r api.ServicesReport) {
	switch {
	case r.Total == 0:
		fmt.Fprintln(w, "no Services")
		return
	case r.Total > len(r.Services):
		fmt.Fprintf(w, "%s Services: name one as NAMESPACE/NAME, or a namespace; -o json lists all\n", thousands(r.Total))
		return
	}
	for i, s := range r.Services {
		if i > 0 {
			fmt.Fprintln(w)
		}
		writeService(w, s)
	}
}

// thousands prints a number that people read: 44,000.
func thousands(n int) string {
	text := fmt.Sprint(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

func writeService(w io.Writer, s api.Service) {
	title := s.Namespace + "/" + s.Name
	if s.Pod {
		title = "pod " + title
	}
	fmt.Fprintln(w, strings.TrimSpace(title+"  "+kinds(s)))
	for _, line := range properties(s) {
		writeWrapped(w, line, "  ", "    ")
	}
	for _, p := range s.Ports {
		writeServicePort(w, s, p)
	}
	for _, p := range s.Problems {
		writeWrapped(w, "problem: "+p, "  ", "    ")
	}
}

// kinds are what its frontends are, each once.
func kinds(s api.Service) string {
	var list []string
	for _, p := range s.Ports {
		for _, f := range p.Frontends {
			if !slices.Contains(list, f.Kind) {
				list = append(list, f.Kind)
			}
		}
	}
	return strings.Join(list, ", ")
}

// properties says what is not as it usually is.
func properties(s api.Service) (lines []string) {
	if s.InternalTrafficPolicy == "Local" {
		lines = append(lines, "internal traffic policy Local")
	}
	if s.ExternalTrafficPolicy == "Local" {
		lines = append(lines, "external traffic policy Local")
	}
	if s.Affinity > 0 {
		lines = append(lines, fmt.Sprintf("affinity: a client keeps its backend for %d s", s.Affinity))
	}
	if len(s.SourceRanges) > 0 {
		lines = append(lines, "load balancer's clients: "+joined(s.SourceRanges))
	}
	if s.HealthCheckNodePort != 0 {
		lines = append(lines, fmt.Sprintf("health check: port %d of this node", s.HealthCheckNodePort))
	}
	return lines
}

func writeServicePort(w io.Writer, s api.Service, p api.ServicePort) {
	fmt.Fprintln(w, "  "+strings.TrimSpace(strings.Join([]string{portTitle(s, p), p.Family}, " ")))
	var t textTable
	for _, f := range p.Frontends {
		t.add("    "+frontendText(f.Address)+"/"+p.Protocol, f.Kind)
	}
	for _, b := range p.Backends {
		t.add("      to "+b.Address.String(), backendText(s, b))
	}
	for _, l := range p.LeftOut {
		t.add("      not "+leftOutText(l), l.Reason)
	}
	t.write(w)
	switch more := p.BackendCount - len(p.Backends); {
	case more > 0:
		fmt.Fprintf(w, "      and %d more\n", more)
	case p.BackendCount == 0 && len(p.Frontends) > 0:
		fmt.Fprintln(w, "      no backends: clients are refused")
	}
}

func portTitle(s api.Service, p api.ServicePort) string {
	if s.Pod || p.Name == "" {
		return ""
	}
	return p.Name
}

func frontendText(a netip.AddrPort) string {
	if a.Addr().IsUnspecified() {
		return fmt.Sprintf("any node:%d", a.Port())
	}
	return a.String()
}

func backendText(s api.Service, b api.Backend) string {
	text := b.Node
	if b.Local {
		text += ", here"
	}
	if policies := s.InternalTrafficPolicy + s.ExternalTrafficPolicy; len(b.Policies) == 1 && strings.Contains(policies, "Local") {
		text += ", policy " + b.Policies[0] + " alone"
	}
	return strings.TrimPrefix(text, ", ")
}

func leftOutText(l api.LeftOut) string {
	if l.Address.Port() == 0 {
		return l.Address.Addr().String()
	}
	return l.Address.String()
}

// width is what a line for people fits in.
const width = 80

// writeWrapped breaks a text between words into lines that fit.
func writeWrapped(w io.Writer, text, indent, further string) {
	line := indent
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
			line += word
		case len([]rune(line))+1+len([]rune(word)) > width:
			fmt.Fprintln(w, line)
			line = further + word
		default:
			line += " " + word
		}
	}
	fmt.Fprintln(w, line)
}
