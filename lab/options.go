// Package lab is a Kubernetes-like cluster on this one machine: every node is a set of namespaces with an agent of its
// own, every pod a network namespace with one process. It owns its state folder, one control group and what lives in
// it, and touches nothing else of the machine. It must not know how Polder works inside: it starts the real agent on
// real manifests, and calls the real CNI plugin through libcni.
package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// DefaultState is the state folder of the lab that the command line works on.
const DefaultState = "/run/polder-lab"

// MaxNodes is how many nodes fit into the lab's address plan.
const MaxNodes = 200

// Options says which lab to build. The zero value is three nodes in one rack.
type Options struct {
	Nodes int // default 3
	Racks int // default 1; each is a subnet of its own, nodes are dealt out to them in turn
	Zones int // default 0: nodes have no zone; else they are dealt out to zone-1, zone-2, …

	// State is the folder that holds all the lab's files; default DefaultState. Labs with different folders do not
	// see each other.
	State string

	// Bin is the folder of the programs polder, polder-agent and polder-cni; default: that of the running program.
	Bin string

	AgentArgs []string      // further arguments of every agent
	AgentEnv  []string      // NAME=VALUE, what every agent has in its environment besides what this program has
	Deadline  time.Duration // for the agents to get ready; default 30 s

	// Network is a configuration list of CNI that connects every node's pods in place of the agent's own, for agents that
	// run with --routing off; Plugins is the folder of the plugins that it names. They are copied.
	Network string
	Plugins string

	// Progress is called with a line for a person at each step; nil: nobody is told.
	Progress func(line string)
}

var statePattern = regexp.MustCompile(`^/[A-Za-z0-9/_.-]*[A-Za-z0-9_-]$`)

// complete fills in the defaults and refuses what cannot be built.
func (o Options) complete() (Options, error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Racks == 0 {
		o.Racks = 1
	}
	if o.Nodes < 1 || o.Nodes > MaxNodes {
		return o, fmt.Errorf("a lab has 1 to %d nodes, not %d", MaxNodes, o.Nodes)
	}
	if o.Racks < 1 || o.Racks > o.Nodes {
		return o, fmt.Errorf("a lab of %d nodes has 1 to %d racks, not %d", o.Nodes, o.Nodes, o.Racks)
	}
	if o.Zones < 0 || o.Zones > o.Nodes {
		return o, fmt.Errorf("a lab of %d nodes has 0 to %d zones, not %d", o.Nodes, o.Nodes, o.Zones)
	}
	if o.State == "" {
		o.State = DefaultState
	}
	// The path becomes a part of mount options, where commas and colons separate.
	if !statePattern.MatchString(o.State) {
		return o, fmt.Errorf("state folder %q: want an absolute path of letters, digits and /_.-", o.State)
	}
	if o.Bin == "" {
		self, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("find the running program: %w", err)
		}
		o.Bin = filepath.Dir(self)
	}
	if o.Deadline == 0 {
		o.Deadline = 30 * time.Second
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	return o, nil
}

// checkPrograms says which program is missing, before anything is built.
func (o Options) checkPrograms() error {
	for _, name := range []string{"polder", "polder-agent", "polder-cni"} {
		info, err := os.Stat(filepath.Join(o.Bin, name))
		if err != nil || info.Mode()&0o111 == 0 {
			return fmt.Errorf("no program %s in %s: run 'make all' first", name, o.Bin)
		}
	}
	return nil
}

// The address plan. Rack r is 172.30.r.0/24 and fd30:0:0:r::/64; node n has the host part 10+n there, and the pod
// CIDRs 10.244.n.0/24 and fd00:244:0:n::/64. The client outside has the host part 250 of rack 0 or, where there are
// several, of one more that is its own.

func rackPrefixes(rack int) [2]netip.Prefix {
	return [2]netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("172.30.%d.0/24", rack)),
		netip.MustParsePrefix(fmt.Sprintf("fd30:0:0:%d::/64", rack)),
	}
}

// routers are the addresses of the fabric in a rack.
func routers(rack int) [2]netip.Addr {
	p := rackPrefixes(rack)
	return [2]netip.Addr{p[0].Addr().Next(), p[1].Addr().Next()}
}

func nodeAddresses(n, rack int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("172.30.%d.%d/24", rack, 10+n)),
		netip.MustParsePrefix(fmt.Sprintf("fd30:0:0:%d::%d/64", rack, 10+n)),
	}
}

func podCIDRs(n int) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", n)),
		netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%d::/64", n)),
	}
}
