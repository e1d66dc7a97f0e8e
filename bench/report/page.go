package report

import (
	"fmt"
	"strings"
)

const method = `## How it is measured

- **Side by side.** Every figure with a ratio comes from one run that measures all variants in turn, round by round, each
  round in another order. The ratio is taken within a round; the table has the median of the rounds' ratios and its 95 %
  interval (percentile bootstrap, fixed seed). Absolute figures of two runs must not be compared.
- **Load.** A generator of ours, two processes in the pods' network namespaces with blocking system calls and nothing
  else: *RR* is one byte there and back on one TCP connection; *CRR* opens a connection for each request; *STREAM* is TCP as
  fast as it goes; *UDP* is frames of 64 bytes, from one source port or from 10,000 in turn. The client is pinned to
  the first processor, the server to the second; "one CPU" has both on the first. They run at the highest priority of
  ordinary processes.
- **Baselines.** *B0*: two pods and one veth pair between them, nothing else. *B1*: a veth pair for each pod and the kernel's
  forwarding in between, no nftables at all. *B2*: B1 with connection tracking and a table as kube-proxy's nftables mode
  writes it, with 1,000 services of 3 backends (loaded by the nft program). Across nodes, two node namespaces are joined by veth
  pairs and a bridge, as in Polder's lab. *Kernel VXLAN*: the same, with a vxlan device whose entries are static,
  and, as Polder's, without outer checksums. MTU, queues, offloads and sysctls are the same on both sides.
- **Processor time** ("per CPU second", P4) is that of client and server and of the kernel's softirq threads. Softirqs run on the sender's
  time here (veth has no hardware, the kernel does not account for interrupts separately), so this is all there is,
  and other processes do not spoil it.
- **Program time** (P8) is what the kernel counts (kernel.bpf_stats_enabled) while RR traffic passes, clock included, and what
  BPF_PROG_TEST_RUN says of the same programs with the same maps, with many source ports in turn.
- **ADD and DEL** go through libcni, as a container runtime's do. The reference is bridge + host-local + portmap of
  github.com/containernetworking/plugins, dual-stack as the lab is, without ipMasq, which would only make it slower. *IPv4 alone*
  is half the work; *ptp* has ptp in place of bridge (with IPv6 it waits for duplicate address detection, 1.8 s). *No
  portmap* is the main plugin alone: portmap looks for iptables and nft each time it runs, with nothing to map, too. Polder
  leads host ports to pods itself, so nothing is chained behind it.

- **Services** (S1 to S9). *kube-proxy* is the real one of the end-to-end tests (make e2e-smoke builds it), in nftables mode, against
  a small API server in the benchmark's own process; Polder's agent reads the same server. S5 compares what both spend
  from objects in memory to the kernel (kube-proxy by its own metric sync_proxy_rules_duration_seconds), and,
  without a bar, from the program's start. Traffic meets Services whose endpoints are all on one pod, at several
  ports, with an agent that is stopped, after the benchmark has written the maps by the agent's own code, and a kube-proxy that is stopped. *One of
  N Services*: the client always connects by the same; *in turn*: each time by another, so what is looked up is in no
  processor's cache. S4 is the time of a connect() whose packets are translated one by one, there and back, without
  sockets' programs; each connection has a port of its own, so that nobody meets earlier flows. S8 is of the tables alone. S6 and S7 go from
  a change at the API server to the pinned maps, which are polled every 50 µs.

- **Policies** (N1 to N5). N1, N5 and the nanoseconds of N2 are of programs alone (BPF_PROG_TEST_RUN), with maps that the
  agent's own code has filled: a small program puts one frame after the other in place and goes on with Polder's, so that each
  is of another flow and no system call lies between; what that program takes is taken off. In N1 all policies isolate
  one pod, and each lets in and out one kind of 100,000 peers, which come in turn: as many peers for 10 policies as for
  10,000. In N5 each rule has a block and a port of its own. *First packet of a flow*: with all that is remembered of it.
  *Judged, not remembered*: the verdict alone. *1 established flow* is one frame again and again; of *50000 in turn*
  nothing is in a processor's cache. N2's traffic is between pods that are isolated both ways, both ends: 1,000 peers at ten
  ports. *nftables rules* are the same 1,000 addresses by ten ports in sets, behind ct state established accept, in the
  forward chain of B1. *--policies off* is a lab whose agents judge nothing. N3 goes from a change at a small API server to the
  rulesets of the endpoints' rows, which are written last and are polled every 200 µs; its 110 pods have links, made by ADD.
  N4's objects are read from that server by the agent's own code (in JSON, since it speaks nothing else; a real one
  speaks protobuf): first in the benchmark's process, for the time and the heap of the core, then by a whole agent, whose local
  pods have no links. A quick run has a tenth of the cluster.

## How to run it

    make bench                                    # everything, this page and the plot
    go run ./bench --quick                        # a few minutes, coarse
    go run ./bench --only P1,S5,N1 -o json        # some of it, with all samples
    go run ./bench --only C5 --churn 10m          # a long churn

It needs root and the programs ip, nft and go, and leaves nothing behind. Wide intervals mean that the machine was busy.
`

// Page writes docs/benchmarks.md.
func Page(r Report) string {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWritten by `make bench`; do not edit. A row with a bar is a promise, the others are there to be known.\n\n")
	b.WriteString("![ratios, their intervals and bars](benchmarks.svg)\n\n")
	b.WriteString(machine(r.Machine))
	b.WriteString("\n## Findings\n\n| | measure | value | bar | verdict | measured |\n|---|---|---|---|---|---|\n")
	for _, row := range r.Rows {
		verdict := row.Verdict()
		if !row.OK() {
			verdict = "**" + verdict + "**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", row.ID, row.What, row.ValueText(), row.BarText(), verdict, row.Seen)
	}
	b.WriteString("\n" + summary(r) + "\n\n")
	b.WriteString(missed(r))
	b.WriteString(method)
	return b.String()
}

func machine(m Machine) string {
	kind := "A full run"
	if m.Quick {
		kind = "A quick run"
	}
	return fmt.Sprintf("%s of %s on %s: %d × %s, %.0f GB, Linux %s, %s, Polder %s. %d rounds of %s each. "+
		"The machine's load average was %.1f before and %.1f after (the benchmark itself makes about 2).\n",
		kind, m.Took, m.When, m.CPUs, m.CPU, m.MemoryGB, m.Kernel, m.Go, m.Revision, m.Rounds, m.Slice, m.LoadFrom, m.LoadTo)
}

func missed(r Report) string {
	var b strings.Builder
	if rows := r.Missed(); len(rows) > 0 {
		b.WriteString("## What missed its bar\n\n")
		for _, row := range rows {
			fmt.Fprintf(&b, "- %s, %s: %s, want %s.\n", row.ID, row.What, row.ValueText(), row.BarText())
		}
		b.WriteString("\n")
	}
	if len(r.Notes) > 0 {
		b.WriteString("## Notes\n\n")
		for _, n := range r.Notes {
			b.WriteString("- " + n + "\n")
		}
		b.WriteString("\n")
	}
	return b.String()
}
