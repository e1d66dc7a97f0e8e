// Package cases holds clusters with policies, and connections in them: the corpus of testdata/policies, those of the
// conformance suite cyclonus, and random ones. Everything that judges packets is asked about them, and compared with
// the oracle. Only tests import it.
package cases

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/polder-net/polder/internal/oracle"
)

// Scenario is one file of testdata/policies: a cluster, and connections with what becomes of them.
type Scenario struct {
	Path        string
	Manifests   []byte // as they are written
	Objects     *oracle.Objects
	Connections []Connection

	archive *txtar.Archive
}

// Connection is a line of a scenario: "web/front -> db/pg TCP 5432: allowed, ...".
type Connection struct {
	Text   string // up to the colon
	Packet oracle.Packet
	Want   string // as oracle.Ruling prints it
}

// Files lists the scenarios of a folder.
func Files(dir string) ([]string, error) { return filepath.Glob(filepath.Join(dir, "*.txtar")) }

// Read reads a scenario: the folder's cluster.yaml, its own policies.yaml on top, and connections.
func Read(path string) (*Scenario, error) {
	base, err := os.ReadFile(filepath.Join(filepath.Dir(path), "cluster.yaml"))
	if err != nil {
		return nil, err
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &Scenario{Path: path, Manifests: base, Objects: &oracle.Objects{}, archive: txtar.Parse(body)}
	if err := Add(s.Objects, base); err != nil {
		return nil, err
	}
	for _, f := range s.archive.Files {
		switch f.Name {
		case "policies.yaml":
			s.Manifests = slices.Concat(s.Manifests, []byte("---\n"), f.Data)
			err = Add(s.Objects, f.Data)
		case "connections":
			err = s.readConnections(string(f.Data))
		default:
			err = fmt.Errorf("unknown file %q", f.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return s, nil
}

// Rewrite returns the file with what answer says of its connections.
func (s *Scenario) Rewrite(answer func(oracle.Packet) string) []byte {
	var out strings.Builder
	for _, c := range s.Connections {
		fmt.Fprintf(&out, "%s: %s\n", c.Text, answer(c.Packet))
	}
	for i := range s.archive.Files {
		if s.archive.Files[i].Name == "connections" {
			s.archive.Files[i].Data = []byte(out.String())
		}
	}
	return txtar.Format(s.archive)
}

func (s *Scenario) readConnections(text string) error {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		c := Connection{Text: line}
		if before, want, ok := strings.Cut(line, ": "); ok {
			c.Text, c.Want = before, want
		}
		var err error
		if c.Packet, err = s.packet(strings.Fields(c.Text)); err != nil {
			return fmt.Errorf("read %q: %w", line, err)
		}
		s.Connections = append(s.Connections, c)
	}
	return nil
}

// packet reads "SOURCE -> DESTINATION PROTOCOL PORT"; a protocol without ports has none.
func (s *Scenario) packet(words []string) (p oracle.Packet, err error) {
	if len(words) < 4 || words[1] != "->" {
		return p, fmt.Errorf("it is not: source -> destination protocol port")
	}
	if p.Src, err = s.address(words[0]); err != nil {
		return p, err
	}
	if p.Dst, err = s.address(words[2]); err != nil {
		return p, err
	}
	protocol, ok := Protocols()[words[3]]
	if !ok {
		return p, fmt.Errorf("no protocol %q", words[3])
	}
	p.Protocol = protocol
	if len(words) == 5 {
		port, err := strconv.ParseUint(words[4], 10, 16)
		p.Port = uint16(port)
		return p, err
	}
	return p, nil
}

// Protocols are those that connections name, with their numbers.
func Protocols() map[string]uint8 {
	return map[string]uint8{"ICMP": 1, "TCP": 6, "UDP": 17, "GRE": 47, "ICMPv6": 58, "SCTP": 132}
}

// address is the first one of a pod "namespace/name" or of a node; or it is an address.
func (s *Scenario) address(word string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(word); err == nil {
		return a, nil
	}
	var addrs []netip.Addr
	for _, pod := range s.Objects.Pods {
		if pod.Namespace+"/"+pod.Name == word {
			addrs = slices.Concat(addrs, oracle.PodAddresses(pod))
		}
	}
	for _, node := range s.Objects.Nodes {
		if node.Name == word {
			addrs = slices.Concat(addrs, oracle.NodeAddresses(node))
		}
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("no pod or node %q has an address", word)
	}
	return addrs[0], nil
}
