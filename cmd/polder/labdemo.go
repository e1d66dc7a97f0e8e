package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/polder-net/polder/lab"
)

const podsPerNode = 3

func labDemo(e env, args []string) error {
	f := newFlags("lab demo", "[--nodes N] [--racks R] [--zones Z]", `
Takes down a lab that is up, builds one, creates three pods on each node, checks the network and says what to try
next. The exit status is that of 'polder check'.`)
	o := sizeFlags(f, e)
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	if err := checkSize(f, o); err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	if _, err := lab.Down(o.State); err != nil {
		return fmt.Errorf("lab down: %w", err)
	}
	began := time.Now()
	c, err := lab.Up(ctx, *o)
	if err != nil {
		return fmt.Errorf("lab up: %w", err)
	}
	if err := createPods(ctx, c); err != nil {
		return err
	}
	fmt.Fprintf(e.stderr, "%s and %s after %.1f s\n", several(o.Nodes, "node"), several(o.Nodes*podsPerNode, "pod"),
		time.Since(began).Seconds())
	options, err := labOptions(c, e.stderr)
	if err != nil {
		return err
	}
	if err := runCheck(ctx, e, "the lab in "+c.State(), options, checkFlags{state: c.State()}); err != nil {
		return err
	}
	e.suggest(c)
	return nil
}

// createPods gives each node its pods: node-1 has web-1, web-2 and web-3, and so on.
func createPods(ctx context.Context, c *lab.Cluster) error {
	number := 0
	for _, n := range c.Nodes() {
		for range podsPerNode {
			number++
			if _, err := c.CreatePod(ctx, lab.PodOptions{Name: fmt.Sprintf("web-%d", number), Node: n.Name}); err != nil {
				return err
			}
		}
	}
	return nil
}

// suggest says what to try next.
func (e env) suggest(c *lab.Cluster) {
	polder := c.Bin() + "/polder"
	if here, err := os.Getwd(); err == nil {
		if relative, err := filepath.Rel(here, polder); err == nil && !strings.HasPrefix(relative, "..") {
			polder = relative // lab exec keeps the working folder
		}
	}
	fmt.Fprintf(e.stdout, `
The lab stays up. What to try next, as root:

  %[1]s lab status
  %[1]s lab exec node-1 -- %[1]s status
  %[1]s lab exec web-1 -- ip address      # what a pod sees of its network
  %[1]s lab pod create api --node node-2
  %[1]s lab agent kill node-1             # and %[1]s check, meanwhile
  %[1]s lab demo --racks 2                # two subnets, with a tunnel
  %[1]s lab down                          # leaves nothing behind

The cluster's objects are plain manifests in %[2]s.
`, polder, c.Manifests())
	if c.State() != lab.DefaultState {
		fmt.Fprintf(e.stdout, "This lab is not the usual one: add --state %s to each command.\n", c.State())
	}
}
