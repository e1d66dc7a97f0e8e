package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/polder-net/polder/internal/api"
)

func drops(e env, args []string) error {
	f := newFlags("drops", "[--follow] [-o json]", `
Says what policies did not let pass on this node: how many packets of each pod, by direction and by what decided. A pod
is one of this node, and the policies are its own: of a packet between two pods, either end's may deny it. Rules are
counted from 1, in the pod's direction.

It counts from a pod's start, or from Polder's on this node if that was later. A restart of the agent keeps the counts;
another version of the agent may begin anew. Of very many, those whose last packet is longest ago may be missing. A
pod's counts go with it.

With --follow, packets as they are dropped, a line each, until it is interrupted. Of a flood, not every packet is shown.`)
	follow := f.Bool("follow", false, "show packets as they are dropped")
	output := f.String("o", "", "print `json`, for programs: with --follow, an object a line; or text")
	socket := f.String("socket", api.Socket, "ask the agent that listens at this `path`")
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	if err := checkOutput("drops", *output); err != nil {
		return err
	}
	if *follow {
		ctx, stop := interruptible()
		defer stop()
		return followDrops(ctx, e, *socket, *output)
	}
	body, err := ask(e, *socket, api.Request{Verb: api.Drops})
	if err != nil {
		return err
	}
	if *output == "json" {
		return writeIndented(e.stdout, body)
	}
	var report api.DropsReport
	if err := json.Unmarshal(body, &report); err != nil {
		return fmt.Errorf("read agent's report: %w", err)
	}
	writeDropCounts(e.stdout, report.Counts)
	return nil
}

// followDrops asks again and again for what came since, until the context ends.
func followDrops(ctx context.Context, e env, socket, output string) error {
	req := api.DropsRequest{Follow: true}
	for ctx.Err() == nil {
		body, err := ask(e, socket, api.Request{Verb: api.Drops, Drops: &req})
		if err != nil {
			return err
		}
		var report api.DropsReport
		if err := json.Unmarshal(body, &report); err != nil {
			return fmt.Errorf("read agent's report: %w", err)
		}
		if report.Missed > 0 {
			fmt.Fprintf(e.stderr, "%d more are not shown\n", report.Missed)
		}
		for _, d := range report.Drops {
			if output == "json" {
				err = json.NewEncoder(e.stdout).Encode(d)
			} else {
				_, err = fmt.Fprintln(e.stdout, dropLine(d))
			}
			if err != nil {
				return err
			}
		}
		req.After = report.Last
	}
	return nil
}

// dropLine is a packet for people, the one thing after the other in which they look for it.
func dropLine(d api.Drop) string {
	to := "to " + dropEnd(d.To)
	if d.To.Port != 0 {
		to += fmt.Sprintf(" port %d", d.To.Port)
	}
	return fmt.Sprintf("%s %s %s from %s %s: %s", d.Time.Local().Format("15:04:05.000"), d.Direction, d.Protocol, dropEnd(d.From), to, d.Reason)
}

func dropEnd(e api.DropEnd) string {
	if e.Pod != "" {
		return fmt.Sprintf("%s (%s)", e.Pod, e.Address)
	}
	return e.Address.String()
}

// writeDropCounts prints a paragraph a pod.
func writeDropCounts(w io.Writer, counts []api.DropCount) {
	if len(counts) == 0 {
		fmt.Fprintln(w, "no packet of a pod of this node was denied")
		return
	}
	for i, c := range counts {
		if i == 0 || counts[i-1].Pod != c.Pod {
			if i > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintln(w, c.Pod)
		}
		direction := c.Direction
		if direction == "" {
			direction = "earlier"
		}
		writeWrapped(w, fmt.Sprintf("%s: %s: %s", direction, thousandPackets(c.Packets), c.Reason), "  ", "    ")
	}
}

func thousandPackets(n uint64) string {
	if n == 1 {
		return "1 packet"
	}
	return thousands(int(min(n, 1<<62))) + " packets"
}

// podPolicyText is what policies make of a pod, in a few words.
func podPolicyText(p *api.PodPolicies) string {
	switch {
	case p == nil:
		return ""
	case p.Why != "":
		return "closed: " + p.Why
	case p.Ingress == api.Isolated && p.Egress == api.Isolated:
		return "isolated: ingress, egress"
	case p.Ingress == api.Isolated:
		return "isolated: ingress"
	case p.Egress == api.Isolated:
		return "isolated: egress"
	}
	return string(p.Ingress)
}
