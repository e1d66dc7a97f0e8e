package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/polder-net/polder/lab"
)

func labCommands() []command {
	return []command{
		{name: "demo", short: "a lab with three pods a node, checked, and what to try in it", run: labDemo},
		{name: "up", short: "build a lab", run: labUp},
		{name: "down", short: "take the lab down, whatever is left of it", run: labDown},
		{name: "status", short: "the lab's nodes and pods", run: labStatus},
		{name: "pod", short: "create and delete pods, and play their lives", group: labPodCommands()},
		{name: "service", short: "create, delete and list Services", group: labServiceCommands()},
		{name: "exec", short: "run a program in a node, a pod or the client outside", run: labExec},
		{name: "ask", short: "ask pods that serve who they are, many times", run: labAsk},
		{name: "route", short: "route a prefix from the client outside to a node", run: labRoute},
		{name: "agent", short: "restart, kill and upgrade agents", group: []command{
			{name: "restart", short: "end a node's agent and wait for the next", run: labAgentRestart},
			{name: "kill", short: "kill -9 a node's agent; the node starts another", run: labAgentKill},
			{name: "upgrade", short: "give a node another agent program", run: labAgentUpgrade},
		}},
		{name: "hold", hidden: true, run: labHold},
		{name: "hold-pod", hidden: true, run: labHoldPod},
		{name: "hold-fabric", hidden: true, run: labHoldFabric},
		{name: "hold-outside", hidden: true, run: labHoldOutside},
	}
}

// stateFlag names the lab that a command works on.
func stateFlag(f *flags) *string {
	return f.String("state", lab.DefaultState, "the lab with this state `folder`")
}

// sizeFlags say which lab to build.
func sizeFlags(f *flags, e env) *lab.Options {
	o := &lab.Options{Progress: func(line string) { fmt.Fprintln(e.stderr, line) }}
	f.IntVar(&o.Nodes, "nodes", 3, "`number` of nodes")
	f.IntVar(&o.Racks, "racks", 1, "`number` of racks, each a subnet of its own: nodes reach other racks by the tunnel")
	f.IntVar(&o.Zones, "zones", 0, "`number` of zones that the nodes are labelled with in turn")
	f.StringVar(&o.State, "state", lab.DefaultState, "keep all files in this `folder`")
	f.StringVar(&o.Bin, "bin", "", "the `folder` of polder, polder-agent and polder-cni (default: of this program)")
	f.Func("agent-arg", "a further `argument` for the agents, may be given several times", func(arg string) error {
		o.AgentArgs = append(o.AgentArgs, arg)
		return nil
	})
	return o
}

// checkSize refuses on the command line what lab.Up would refuse later.
func checkSize(f *flags, o *lab.Options) error {
	if o.Nodes < 1 || o.Nodes > lab.MaxNodes {
		return usagef("%s: --nodes %d: want 1 to %d", f.Name(), o.Nodes, lab.MaxNodes)
	}
	if o.Racks < 1 || o.Racks > o.Nodes {
		return usagef("%s: --racks %d: want 1 to the number of nodes, %d", f.Name(), o.Racks, o.Nodes)
	}
	if o.Zones < 0 || o.Zones > o.Nodes {
		return usagef("%s: --zones %d: want 0 to the number of nodes, %d", f.Name(), o.Zones, o.Nodes)
	}
	return nil
}

func labUp(e env, args []string) error {
	f := newFlags("lab up", "[--nodes N] [--racks R] [--zones Z]", `
Builds a cluster on this machine and waits until its agents are ready. A node is a set of namespaces with an agent
of its own; the nodes of a rack share a subnet; between racks a router knows the nodes' addresses and nothing of pods.
A client outside the cluster is connected as well: the place "outside", see 'polder lab exec' and 'polder lab route'.
Nothing of the machine is changed but the state folder and one control group.`)
	o := sizeFlags(f, e)
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	if err := checkSize(f, o); err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	c, err := lab.Up(ctx, *o)
	if err != nil {
		return fmt.Errorf("lab up: %w", err)
	}
	fmt.Fprintf(e.stdout, "the lab is up: %s, state in %s\n", several(len(c.Nodes()), "node"), c.State())
	return nil
}

func labDown(e env, args []string) error {
	f := newFlags("lab down", "", `
Takes the lab down: kills all its processes, and with them go its namespaces, links, mounts and pins; then removes
its files. It works on whatever a killed command left behind.`)
	state := stateFlag(f)
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	was, err := lab.Down(*state)
	if err != nil {
		return fmt.Errorf("lab down: %w", err)
	}
	if was {
		fmt.Fprintln(e.stdout, "the lab is down")
	} else {
		fmt.Fprintf(e.stdout, "no lab was up in %s\n", *state)
	}
	return nil
}

func labExec(e env, args []string) error {
	f := newFlags("lab exec", "NODE|POD -- COMMAND…", `
Runs a program inside a node or a pod of the lab, with this terminal and with the program's own exit status. In a node
it sees the node's network, mounts and host name; in a pod the pod's network and host name, and its node's mounts.
The place "fabric" is the network between the nodes, "outside" a client that is no node.`)
	state := stateFlag(f)
	words, err := f.parse(e, args, "NODE|POD", "COMMAND…")
	if err != nil {
		return err
	}
	c, err := lab.Open(*state)
	if err != nil {
		return err
	}
	place, err := c.Place(words[0])
	if err != nil {
		return err
	}
	return place.Exec(words[1:], e.environ)
}

func labAgentRestart(e env, args []string) error {
	f := newFlags("lab agent restart", "NODE", "Ends a node's agent by SIGTERM and waits until the next one is ready.")
	return withNode(e, f, args, func(ctx context.Context, n *lab.Node) error { return n.RestartAgent(ctx) })
}

func labAgentKill(e env, args []string) error {
	f := newFlags("lab agent kill", "NODE", "Kills a node's agent by SIGKILL. The node starts another 200 ms later.")
	return withNode(e, f, args, func(_ context.Context, n *lab.Node) error { return n.KillAgent() })
}

func labAgentUpgrade(e env, args []string) error {
	f := newFlags("lab agent upgrade", "NODE --binary PATH", `
Makes another program the node's agent, ends the running one by SIGTERM and waits until the new one is ready.`)
	binary := f.String("binary", "", "`path` of the program")
	return withNode(e, f, args, func(ctx context.Context, n *lab.Node) error {
		if *binary == "" {
			return usagef("lab agent upgrade: --binary is missing: see 'polder lab agent upgrade --help'")
		}
		return n.UpgradeAgent(ctx, *binary)
	})
}

// agentTimeout is how long the next agent may take to get ready.
const agentTimeout = 30 * time.Second

// withNode runs do on the node that the arguments name.
func withNode(e env, f *flags, args []string, do func(context.Context, *lab.Node) error) error {
	state := stateFlag(f)
	words, err := f.parse(e, args, "NODE")
	if err != nil {
		return err
	}
	c, err := lab.Open(*state)
	if err != nil {
		return err
	}
	node, err := c.Node(words[0])
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, agentTimeout, fmt.Errorf("gave up after %s", agentTimeout))
	defer cancel()
	return do(ctx, node)
}

// The lives of the lab's own processes.

func labHold(e env, args []string) error {
	f := newFlags("lab hold", "NODE", "The first process of a node. The lab starts it.")
	state := stateFlag(f)
	words, err := f.parse(e, args, "NODE")
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	return lab.Hold(ctx, *state, words[0])
}

func labHoldPod(e env, args []string) error {
	f := newFlags("lab hold-pod", "NAME", "The process of a pod. The lab starts it.")
	ports := portsFlag(f)
	words, err := f.parse(e, args, "NAME")
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	return lab.HoldPod(ctx, words[0], *ports)
}

func labHoldFabric(e env, args []string) error {
	f := newFlags("lab hold-fabric", "", "The process of the fabric, which writes EndpointSlices, too. The lab starts it.")
	state := stateFlag(f)
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	return lab.HoldFabric(ctx, *state)
}

func labHoldOutside(e env, args []string) error {
	f := newFlags("lab hold-outside", "", "The process of the client outside. The lab starts it.")
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	lab.HoldStill(ctx)
	return nil
}

// isDown says whether an error is that there is no lab.
func isDown(err error) bool { return errors.Is(err, lab.ErrDown) }

func joined[T fmt.Stringer](values []T) string {
	var s string
	for i, v := range values {
		if i > 0 {
			s += " "
		}
		s += v.String()
	}
	return s
}
