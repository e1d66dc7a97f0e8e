package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/polder-net/polder/lab"
)

func labPodCommands() []command {
	return []command{
		{name: "create", short: "create a pod", run: labPodCreate},
		{name: "delete", short: "delete a pod", run: labPodDelete},
		{name: "ready", short: "make a pod ready, or not ready", run: labPodReady},
		{name: "terminate", short: "mark a pod as terminating", run: labPodTerminate},
	}
}

// portsFlag lets a pod serve.
func portsFlag(f *flags) *[]uint16 {
	ports := &[]uint16{}
	f.Func("serve", "answer at this `port`, by TCP and UDP; may be given several times", func(text string) error {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("want a port, 1 to 65535")
		}
		*ports = append(*ports, uint16(n))
		return nil
	})
	return ports
}

// addLabels reads KEY=VALUE, with commas in between.
func addLabels(to map[string]string, text string) error {
	for pair := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return fmt.Errorf("want KEY=VALUE")
		}
		to[key] = value
	}
	return nil
}

func labPodCreate(e env, args []string) error {
	f := newFlags("lab pod create", "NAME [--node NODE] [--label KEY=VALUE] [--serve PORT]", `
Creates a pod: a network namespace with one process in it, connected by the node's own CNI plugins. Prints the
addresses that they gave it. A pod that serves answers each line, each datagram and each HTTP request with its name and
the address that it saw the client have: try curl and nc, or 'polder lab ask'.`)
	state := stateFlag(f)
	o := lab.PodOptions{Labels: map[string]string{}}
	f.StringVar(&o.Node, "node", "", "on this `node` (default: the one with the fewest pods)")
	f.Func("label", "give it this `label` KEY=VALUE, may be given several times (default: app=NAME)", func(text string) error {
		return addLabels(o.Labels, text)
	})
	ports := portsFlag(f)
	words, err := f.parse(e, args, "NAME")
	if err != nil {
		return err
	}
	o.Name, o.Serve = words[0], *ports
	c, err := lab.Open(*state)
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	p, err := c.CreatePod(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "%s on %s: %s\n", p.Name, p.Node, joined(p.Addresses))
	return nil
}

func labPodDelete(e env, args []string) error {
	f := newFlags("lab pod delete", "NAME", "Disconnects a pod by the node's CNI plugins, and ends it.")
	state := stateFlag(f)
	words, err := f.parse(e, args, "NAME")
	if err != nil {
		return err
	}
	c, err := lab.Open(*state)
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	return c.DeletePod(ctx, words[0])
}

func labPodReady(e env, args []string) error {
	f := newFlags("lab pod ready", "NAME true|false", `
Says in the pod's object that it is ready, as it is when it is created, or that it is not. The pod goes on as it was.`)
	state := stateFlag(f)
	words, err := f.parse(e, args, "NAME", "true|false")
	if err != nil {
		return err
	}
	if words[1] != "true" && words[1] != "false" {
		return usagef("lab pod ready: %q: want true or false", words[1])
	}
	c, err := lab.Open(*state)
	if err != nil {
		return err
	}
	return c.SetPodReady(words[0], words[1] == "true")
}

func labPodTerminate(e env, args []string) error {
	f := newFlags("lab pod terminate", "NAME", `
Says in the pod's object that it is to be deleted. Its process goes on, and so do its connections, until
'polder lab pod delete' ends it.`)
	state := stateFlag(f)
	words, err := f.parse(e, args, "NAME")
	if err != nil {
		return err
	}
	c, err := lab.Open(*state)
	if err != nil {
		return err
	}
	return c.TerminatePod(words[0])
}
