package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/polder-net/polder/internal/probe"
	"github.com/polder-net/polder/lab"
)

// checkFlags are the flags of a check.
type checkFlags struct {
	state, kubeconfig, node, output string
	local, all, policies            bool
	probes                          int
	seed                            uint64
}

func check(e env, args []string) error {
	f := newFlags("check", "[--policies] [--kubeconfig FILE | --local] [-o json]", `
Proves with packets that the network keeps its laws: nodes and pods reach each other by their own addresses, by TCP
and UDP, in both families, with full-size packets. It opens sockets inside the network namespaces of nodes and pods,
needs nothing installed in pods, and trusts nothing that an agent says. What the cluster's policies deny is left out.

With --policies it proves instead that packets get through exactly where the cluster's policies let them, as 'polder
explain' reads them: for random pairs, and for all pairs at the ports that pods declare.

It checks the lab that is up; or the cluster of a kubeconfig, where the agents' pods carry the probes out, reached as
'kubectl exec' reaches them; or this node alone. The exit status is 1 when anything failed.`)
	var c checkFlags
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "check the cluster of this `file` (default $KUBECONFIG when no lab is up)")
	f.BoolVar(&c.local, "local", false, "check this node and its pods; run it on the node, as root")
	f.StringVar(&c.node, "node", e.getenv("NODE_NAME"), "with --local and --kubeconfig: this node's `name`")
	f.StringVar(&c.state, "state", lab.DefaultState, "check the lab with this state `folder`")
	f.BoolVar(&c.all, "all", false, "probe every pair, where more than 64 nodes and pods, or 4000 declared ports, would be sampled")
	f.BoolVar(&c.policies, "policies", false, "compare policies with packets")
	f.IntVar(&c.probes, "probes", 200, "with --policies: a `number` of random pairs")
	f.Uint64Var(&c.seed, "seed", 0, "with --policies: repeat the random pairs of this `number`")
	f.StringVar(&c.output, "o", "", "print `json`, for programs, or text")
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	if c.probes < 0 {
		return usagef("check: --probes %d: want 0 or more", c.probes)
	}
	if c.policies && c.local {
		return usagef("check: --policies and --local do not go together: packets have two ends")
	}
	if !c.policies && (f.given("probes") || f.given("seed")) {
		return usagef("check: --probes and --seed are about the random pairs of --policies: add it, or leave them away")
	}
	if err := checkOutput("check", c.output); err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	what, options, err := c.options(ctx, e)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if c.policies {
		return checkPolicies(ctx, e, what, options, c)
	}
	return runCheck(ctx, e, what, options, c)
}

// options chooses what is checked, and says so.
func (c checkFlags) options(ctx context.Context, e env) (string, probe.Options, error) {
	if c.local {
		if os.Geteuid() != 0 {
			return "", probe.Options{}, errors.New("--local needs root: it opens sockets inside the pods' network namespaces")
		}
		o, err := c.localOptions(ctx, e)
		return "this node", o, err
	}
	if c.kubeconfig == "" {
		cl, err := lab.Open(c.state)
		if err == nil {
			o, err := labOptions(cl, e.stderr)
			return "the lab in " + c.state, o, err
		}
		if c.kubeconfig = e.getenv("KUBECONFIG"); c.kubeconfig == "" {
			if isDown(err) {
				return "", probe.Options{}, fmt.Errorf("no lab is up in %s, and neither --kubeconfig nor --local is given", c.state)
			}
			return "", probe.Options{}, err
		}
	}
	o, err := clusterOptions(ctx, c.kubeconfig, e.stderr)
	return "the cluster of " + c.kubeconfig, o, err
}

// runCheck checks, shows progress and prints the report.
func runCheck(ctx context.Context, e env, what string, o probe.Options, c checkFlags) error {
	p := &progress{env: e, began: time.Now(), lost: "failed"}
	fmt.Fprintf(e.stderr, "checking %s: %s\n", what, several(len(o.Targets), "node"))
	o.All, o.Progress = c.all, p.show
	if !c.local { // who runs on a node need not be able to read all that policies are about
		model, err := c.objects(ctx, e)()
		if err != nil {
			return fmt.Errorf("check: %w", err)
		}
		o.Denied = func(from netip.Addr, to netip.AddrPort, udp bool) bool {
			return !model.Judge(from, to, transport(udp)).Allowed
		}
	}
	report, err := probe.Run(ctx, o)
	p.clear()
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if c.output == "json" {
		if err := writeIndented(e.stdout, report); err != nil {
			return err
		}
	} else {
		writeCheck(e.stdout, report)
	}
	if !report.OK() {
		return errFailed
	}
	return nil
}
