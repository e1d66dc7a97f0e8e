package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/polder-net/polder/lab"
)

// labReport is what `polder lab status -o json` prints.
type labReport struct {
	State    string       `json:"state"`
	Nodes    []labNode    `json:"nodes"`
	Outside  labOutside   `json:"outside"`
	Pods     []labPod     `json:"pods"`
	Services []labService `json:"services"`
}

type labNode struct {
	Name      string         `json:"name"`
	Rack      int            `json:"rack"`
	Addresses []netip.Addr   `json:"addresses"`
	PodCIDRs  []netip.Prefix `json:"podCIDRs"`
	AgentPID  int            `json:"agentPID"` // 0: none runs
	NotReady  string         `json:"notReady,omitempty"`
	Log       string         `json:"log"`
}

type labOutside struct {
	Addresses []netip.Addr `json:"addresses"`
	PID       int          `json:"pid"`
}

type labPod struct {
	Name      string       `json:"name"`
	Node      string       `json:"node"`
	Addresses []netip.Addr `json:"addresses"`
	State     string       `json:"state"`
	PID       int          `json:"pid"`
}

func labStatus(e env, args []string) error {
	f := newFlags("lab status", "[-o json]", `
Lists the lab's nodes, the client outside, pods and Services. Each node's CNI plugins are asked whether they are ready.`)
	output := f.String("o", "", "print `json`, for programs, or text")
	state := stateFlag(f)
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	if err := checkOutput("lab status", *output); err != nil {
		return err
	}
	c, err := lab.Open(*state)
	if err != nil {
		return err
	}
	ctx, stop := interruptible()
	defer stop()
	r, err := reportLab(ctx, c)
	if err != nil {
		return err
	}
	if *output == "json" {
		return writeIndented(e.stdout, r)
	}
	writeLab(e.stdout, r)
	return nil
}

func reportLab(ctx context.Context, c *lab.Cluster) (labReport, error) {
	r := labReport{State: c.State(), Outside: labOutside{c.OutsideAddresses(), c.Outside().PID()}}
	for _, n := range c.Nodes() {
		k := n.Cluster()
		row := labNode{
			Name: n.Name, Rack: n.Rack, Addresses: k.Addresses, PodCIDRs: k.PodCIDRs,
			AgentPID: n.AgentPID(), Log: n.LogPath(),
		}
		ask, cancel := context.WithTimeout(ctx, 5*time.Second)
		if err := n.Status(ask); err != nil {
			row.NotReady = err.Error()
		}
		cancel()
		r.Nodes = append(r.Nodes, row)
	}
	pods, err := c.Pods()
	if err != nil {
		return r, err
	}
	for _, p := range pods {
		r.Pods = append(r.Pods, labPod{p.Name, p.Node, p.Addresses, p.State(), p.PID()})
	}
	r.Services, err = reportServices(c)
	return r, err
}

func writeLab(w io.Writer, r labReport) {
	var nodes textTable
	nodes.add("NODE", "RACK", "ADDRESS", "POD CIDR", "AGENT")
	for _, n := range r.Nodes {
		agent := "none runs"
		if n.AgentPID != 0 {
			agent = fmt.Sprintf("pid %d", n.AgentPID)
		}
		if n.NotReady == "" {
			agent += "\nready"
		} else {
			agent += "\nnot ready"
		}
		nodes.add(n.Name, fmt.Sprint(n.Rack), stacked(n.Addresses), stacked(n.PodCIDRs), agent)
	}
	nodes.write(w)
	for _, n := range r.Nodes {
		if n.NotReady != "" {
			fmt.Fprintf(w, "\n%s is not ready: %s\nIts agent's log is %s\n", n.Name, n.NotReady, n.Log)
		}
	}
	outside := titled("OUTSIDE", "ADDRESSES", "PID")
	outside.add("outside", joined(r.Outside.Addresses), fmt.Sprint(r.Outside.PID))
	outside.write(w)
	writeLabPods(w, r.Pods)
	if len(r.Services) > 0 {
		fmt.Fprintln(w)
		writeLabServices(w, r.Services)
	}
}

func writeLabPods(w io.Writer, pods []labPod) {
	if len(pods) == 0 {
		fmt.Fprintln(w, "\nno pods: see 'polder lab pod create --help'")
		return
	}
	t := titled("POD", "NODE", "ADDRESSES", "STATE", "PID")
	for _, p := range pods {
		t.add(p.Name, p.Node, joined(p.Addresses), p.State, fmt.Sprint(p.PID))
	}
	t.write(w)
}
