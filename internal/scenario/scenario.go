// Package scenario reads a .txtar scenario: a cluster and one node's kernel in words, and the tables that the node
// should have. Only tests import it. The words are those of docs/testing.md.
package scenario

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/route"
)

// Scenario is one file of the corpus.
type Scenario struct {
	Options  desired.Options
	Snapshot cluster.Snapshot
	Local    cluster.Local
	Want     string // as Render prints it

	ExternalIPs  bool   // spec.externalIPs are honoured
	WantServices string // as RenderServices prints it

	archive  *txtar.Archive
	services map[cluster.ServiceName]*reading
	last     *cluster.EndpointSlice
}

// Read reads a scenario. A word it does not know is an error: a scenario that tests nothing must not pass.
func Read(path string) (*Scenario, error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &Scenario{archive: txtar.Parse(body), Options: desired.Options{Routing: route.ModeAuto},
		services: map[cluster.ServiceName]*reading{}}
	s.Local.Paths = map[netip.Addr]cluster.Path{}
	for _, f := range s.archive.Files {
		var err error
		switch f.Name {
		case "want":
			s.Want = string(f.Data)
		case "services":
			s.WantServices = string(f.Data)
		default:
			err = s.readFile(f)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	s.finish()
	return s, nil
}

// Rewrite returns the file with other tables.
func (s *Scenario) Rewrite(want string) []byte { return s.rewrite("want", want) }

// RewriteServices returns the file with other ports of Services.
func (s *Scenario) RewriteServices(want string) []byte { return s.rewrite("services", want) }

func (s *Scenario) rewrite(name, want string) []byte {
	for i, f := range s.archive.Files {
		if f.Name == name {
			s.archive.Files[i].Data = []byte(want)
			return txtar.Format(s.archive)
		}
	}
	s.archive.Files = append(s.archive.Files, txtar.File{Name: name, Data: []byte(want)})
	return txtar.Format(s.archive)
}

func (s *Scenario) readFile(f txtar.File) error {
	if f.Name != "cluster" && f.Name != "node" {
		return fmt.Errorf("unknown file %q", f.Name)
	}
	for i, line := range strings.Split(string(f.Data), "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		p := &parser{words: words[1:]}
		if !s.readLine(words[0], p) {
			return fmt.Errorf("%s:%d: unknown word %q", f.Name, i+1, words[0])
		}
		if p.err == nil && len(p.words) > 0 {
			p.err = fmt.Errorf("too many words: %v", p.words)
		}
		if p.err != nil {
			return fmt.Errorf("%s:%d: %w", f.Name, i+1, p.err)
		}
	}
	return nil
}

func (s *Scenario) readLine(word string, p *parser) bool {
	switch word {
	case "node": // name addresses pod-CIDRs
		s.Snapshot.Nodes = append(s.Snapshot.Nodes, cluster.Node{Name: p.word(), Addresses: p.addrs(), PodCIDRs: p.prefixes()})
	case "zone": // of a node above: name zone
		s.zone(p.word(), p.word(), p)
	case "services": // are on: which are what sockets see, sockets or packets
		s.Options.Services = true
		if p.word() == "sockets" {
			s.Local.Cookie, s.Local.ClosesSockets = 1, true
		}
	case "policies": // are on
		s.Options.Policies = true
	case "service-cidrs": // prefixes
		s.Snapshot.ServiceCIDRs = p.prefixes()
	case "external-ips": // are honoured
		s.ExternalIPs = true
	case "host-port": // of the pod above: address:port/protocol and the pod's port
		if len(s.Local.Pods) == 0 {
			p.keep(fmt.Errorf("no pod is above it"))
			return true
		}
		pod := &s.Local.Pods[len(s.Local.Pods)-1]
		pod.HostPorts = append(pod.HostPorts, p.hostPort())
	case "routing": // mode
		s.Options.Routing = route.Mode(p.word())
	case "never-masquerade": // prefixes
		s.Options.NeverMasquerade = p.prefixes()
	case "self": // name
		s.Local.Node = p.word()
	case "uplink": // name index mtu
		s.Local.Uplinks = append(s.Local.Uplinks, p.link())
	case "ra-uplink":
		l := p.link()
		l.AcceptsRA = true
		s.Local.Uplinks = append(s.Local.Uplinks, l)
	case "other": // name index mtu
		s.Local.Others = append(s.Local.Others, p.link())
	case "onlink", "routed": // address name index mtu
		a, l := p.addr(), p.link()
		s.Local.Paths[a] = cluster.Path{Link: l, OnLink: word == "onlink", MTU: l.MTU}
	case "tunnel": // index
		s.Local.Tunnel = p.number()
	case "pod", "shaped-pod": // namespace/name link index addresses
		ns, name, _ := strings.Cut(p.word(), "/")
		s.Local.Pods = append(s.Local.Pods, cluster.LocalPod{Namespace: ns, Name: name, Link: p.word(), Index: p.number(),
			Addresses: p.addrs(), Up: true, Shaped: word == "shaped-pod",
			PodMAC: cluster.MAC{2, 0, 0, 0, 0, 1}, HostMAC: cluster.MAC{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}})
	default:
		return s.readService(word, p)
	}
	return true
}

func (s *Scenario) zone(node, zone string, p *parser) {
	for i := range s.Snapshot.Nodes {
		if s.Snapshot.Nodes[i].Name == node {
			s.Snapshot.Nodes[i].Zone = zone
			return
		}
	}
	p.keep(fmt.Errorf("no node %s is above it", node))
}

// parser takes words off a line and keeps the first error. A dash is an empty list.
type parser struct {
	words []string
	err   error
}

func (p *parser) word() string {
	if len(p.words) == 0 {
		if p.err == nil {
			p.err = fmt.Errorf("a word is missing")
		}
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *parser) number() int {
	n, err := strconv.Atoi(p.word())
	p.keep(err)
	return n
}

func (p *parser) link() cluster.Link {
	return cluster.Link{Name: p.word(), Index: p.number(), MTU: p.number()}
}

func (p *parser) addr() netip.Addr {
	a, err := netip.ParseAddr(p.word())
	p.keep(err)
	return a
}

func (p *parser) addrs() (list []netip.Addr) {
	for _, w := range p.list() {
		a, err := netip.ParseAddr(w)
		p.keep(err)
		list = append(list, a)
	}
	return list
}

func (p *parser) prefixes() (list []netip.Prefix) {
	for _, w := range p.list() {
		x, err := netip.ParsePrefix(w)
		p.keep(err)
		list = append(list, x)
	}
	return list
}

func (p *parser) list() []string {
	w := p.word()
	if w == "-" || w == "" {
		return nil
	}
	return strings.Split(w, ",")
}

func (p *parser) keep(err error) {
	if p.err == nil {
		p.err = err
	}
}
