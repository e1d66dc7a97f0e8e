package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/podexec"
	"github.com/polder-net/polder/internal/probe"
	"github.com/polder-net/polder/lab"
)

// checkFlags are the flags of a check.
type checkFlags struct {
	state, kubeconfig, node, output string
	local, all                      bool
}

func check(e env, args []string) error {
	f := newFlags("check", "[--kubeconfig FILE | --local] [-o json]", `
Proves with packets that the network keeps its laws: nodes and pods reach each other by their own addresses, by TCP
and UDP, in both families, with full-size packets. It opens sockets inside the network namespaces of nodes and pods,
needs nothing installed in pods, and trusts nothing that an agent says.

It checks the lab that is up; or the cluster of a kubeconfig, where the agents' pods carry the probes out, reached as
'kubectl exec' reaches them; or this node alone. The exit status is 1 when anything failed.`)
	var c checkFlags
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "check the cluster of this `file` (default $KUBECONFIG when no lab is up)")
	f.BoolVar(&c.local, "local", false, "check this node and its pods; run it on the node, as root")
	f.StringVar(&c.node, "node", e.getenv("NODE_NAME"), "with --local and --kubeconfig: this node's `name`")
	f.StringVar(&c.state, "state", lab.DefaultState, "check the lab with this state `folder`")
	f.BoolVar(&c.all, "all", false, "probe every pair, where more than 64 nodes and pods would be sampled")
	f.StringVar(&c.output, "o", "", "print `json`, for programs")
	if _, err := f.parse(e, args); err != nil {
		return err
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
	return runCheck(ctx, e, what, options, c)
}

// options chooses what is checked, and says so.
func (c checkFlags) options(ctx context.Context, e env) (string, probe.Options, error) {
	if c.local {
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

// labOptions has one prober in each node of a lab.
func labOptions(c *lab.Cluster, stderr io.Writer) (probe.Options, error) {
	var o probe.Options
	for _, n := range c.Nodes() {
		o.Targets = append(o.Targets, probe.Target{
			Node: n.Cluster(),
			Connect: func(ctx context.Context) (io.ReadWriteCloser, error) {
				return n.Pipe(ctx, stderr, filepath.Join(c.Bin(), "polder"), "probe")
			},
		})
	}
	pods, err := c.Pods()
	if err != nil {
		return o, err
	}
	for _, p := range pods {
		o.Pods = append(o.Pods, p.Cluster())
	}
	return o, nil
}

// clusterOptions has one prober in the agent's pod of each node.
func clusterOptions(ctx context.Context, kubeconfig string, stderr io.Writer) (probe.Options, error) {
	var o probe.Options
	k, err := podexec.Open(kubeconfig)
	if err != nil {
		return o, err
	}
	nodes, err := k.Nodes(ctx)
	if err != nil {
		return o, err
	}
	agents, err := k.Agents(ctx)
	if err != nil {
		return o, err
	}
	agentOf := map[string]podexec.Agent{}
	for _, a := range agents {
		agentOf[a.Node] = a
	}
	for _, n := range nodes {
		o.Targets = append(o.Targets, probe.Target{
			Node: n,
			Connect: func(ctx context.Context) (io.ReadWriteCloser, error) {
				a, ok := agentOf[n.Name]
				if !ok {
					return nil, errors.New("no agent's pod runs on the node")
				}
				return k.Run(ctx, a, stderr, "polder", "probe")
			},
		})
	}
	o.Pods, err = k.Pods(ctx)
	return o, err
}

// localOptions has one prober in this process. Where there is no cluster to ask, the node's pod CIDRs are unknown.
func (c checkFlags) localOptions(ctx context.Context, e env) (probe.Options, error) {
	name, err := c.node, error(nil)
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return probe.Options{}, fmt.Errorf("find this node's name: %w", err)
		}
	}
	var k *podexec.Cluster
	switch {
	case c.kubeconfig != "":
		k, err = podexec.Open(c.kubeconfig)
	case e.getenv("KUBERNETES_SERVICE_HOST") != "":
		k, err = podexec.Here()
	}
	if err != nil {
		return probe.Options{}, err
	}
	var o probe.Options
	node := cluster.Node{Name: name}
	if k == nil {
		node.Addresses, err = ownAddresses()
	} else {
		node, o.Pods, err = thisNode(ctx, k, name)
	}
	o.Targets = []probe.Target{{Node: node, Connect: connectHere}}
	return o, err
}

// thisNode reads what the cluster says of one node and its pods.
func thisNode(ctx context.Context, k *podexec.Cluster, name string) (cluster.Node, []cluster.Pod, error) {
	nodes, err := k.Nodes(ctx)
	if err != nil {
		return cluster.Node{}, nil, err
	}
	pods, err := k.Pods(ctx)
	if err != nil {
		return cluster.Node{}, nil, err
	}
	for _, n := range nodes {
		if n.Name == name {
			return n, pods, nil
		}
	}
	return cluster.Node{}, nil, fmt.Errorf("the cluster has no node %q: name this one by --node", name)
}

// runCheck checks, shows progress and prints the report.
func runCheck(ctx context.Context, e env, what string, o probe.Options, c checkFlags) error {
	p := &progress{env: e, began: time.Now()}
	fmt.Fprintf(e.stderr, "checking %s: %s\n", what, several(len(o.Targets), "node"))
	o.All, o.Progress = c.all, p.show
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

// progress shows how far a check is: in one line that changes on a terminal, else in a line every few seconds.
type progress struct {
	env         env
	began, last time.Time
	shown       bool
}

func (p *progress) show(done, total, failed int) {
	every := 3 * time.Second
	if p.env.terminal {
		every = 100 * time.Millisecond
	}
	now := time.Now()
	if p.last.IsZero() && !p.env.terminal {
		p.last = p.began
	}
	if now.Sub(p.last) < every {
		return
	}
	p.last, p.shown = now, true
	line := fmt.Sprintf("%d of %d probes, %d failed", done, total, failed)
	if p.env.terminal {
		fmt.Fprintf(p.env.stderr, "\r\x1b[K%s", line)
	} else {
		fmt.Fprintln(p.env.stderr, line)
	}
}

// clear takes the changing line away.
func (p *progress) clear() {
	if p.shown && p.env.terminal {
		fmt.Fprint(p.env.stderr, "\r\x1b[K")
	}
}

// shownFailures is how many failures are listed for people. Programs get all.
const shownFailures = 60

// writeCheck prints a report for people.
func writeCheck(w io.Writer, r probe.Report) {
	var t textTable
	t.add("LAW", "", "PAIRS", "PASSED", "FAILED")
	for _, l := range r.Laws {
		checked := fmt.Sprint(l.Checked)
		if l.Checked == 0 {
			checked = "-"
		}
		t.add(fmt.Sprint(l.Number), l.Text, checked, fmt.Sprint(l.Passed), fmt.Sprint(l.Failed))
	}
	t.write(w)
	fmt.Fprintf(w, "\n%s of %s and %s, %s, %.1f s.\n", several(r.Pairs, "ordered pair"), several(r.Nodes, "node"),
		several(r.Pods, "pod"), several(r.Probes, "probe"), r.Seconds)
	fmt.Fprintln(w, "A pair counts once for each address family; law 5 counts addresses.")
	for _, note := range r.Notes {
		fmt.Fprintf(w, "Note: %s.\n", note)
	}
	if r.OK() {
		fmt.Fprintln(w, "All laws hold.")
		return
	}
	writeFailures(w, r.Failures)
}

// writeFailures lists failures. Those of one pair that have one reason share a line.
func writeFailures(w io.Writer, failures []probe.Failure) {
	var t textTable
	t.add("", "")
	t.add("LAW", "FROM", "TO", "PROBE", "REASON")
	var last probe.Failure
	for _, f := range failures {
		probes := strings.TrimSpace(f.Family + " " + f.Probe)
		row := &t.rows[len(t.rows)-1]
		same := last == probe.Failure{Law: f.Law, From: f.From, To: f.To, Family: f.Family, Probe: last.Probe, Reason: f.Reason}
		if same {
			(*row)[3] += ", " + f.Probe
			last = f
			continue
		}
		if len(t.rows)-2 == shownFailures {
			break
		}
		law := fmt.Sprint(f.Law)
		if f.Law == 0 {
			law = "-"
		}
		t.add(law, f.From, f.To, probes, f.Reason)
		last = f
	}
	t.write(w)
	fmt.Fprintf(w, "\n%s", several(len(failures), "failure"))
	if len(t.rows)-2 == shownFailures {
		fmt.Fprint(w, "; -o json lists all")
	}
	fmt.Fprintln(w, ".")
}
