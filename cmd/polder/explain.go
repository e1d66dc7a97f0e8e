package main

import (
	"context"
	"errors"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/explain"
	"github.com/polder-net/polder/lab"
)

// explainFlags are the flags of an explanation.
type explainFlags struct {
	objectsFlags
	udp, sctp, icmp bool
	all, diff       bool
	cases, output   string
}

func explainPolicies(e env, args []string) error {
	f := newFlags("explain", "FROM TO[:PORT] | --all | --cases DIR | --diff OLD NEW", `
Says from the cluster's objects alone what becomes of a new connection: which backends a Service may choose, which way
it goes, which policies select either end, which rule decides, and the verdict. It asks no agent and sends nothing.

FROM and TO are pods, NAMESPACE/NAME, or NAME alone in the namespace "default"; nodes, node/NAME; Services,
svc/NAMESPACE/NAME, which NAMESPACE/NAME means, too, if there is no such pod; or any address. PORT is a number or a
name; it may be missing where there is one only. An IPv6 address with a port is in brackets: [fd00::1]:80.
Rules are counted from 1 in their direction of a policy, here and in JSON; where there is no number, no rule matches.

With --all it answers for all pairs of pods at all ports that the receivers declare; at those that policies name, of a
receiver that declares none. Pods on their node's network and ICMP are left out. A pair is a sender, a receiver and a
port, once for both families unless they fare differently; the last line counts them.

With --diff it finds all that policies allow in one of two folders of manifests and deny in the other: between pods,
nodes and addresses outside, either way, at any TCP, UDP or SCTP port, and by ICMP, which stands for all protocols
without ports. None is left to chance: policies tell ports and addresses apart only by what they name, so the names of
both folders part them into classes, and one of each is asked about. Pods on their node's network are their node.
Services are not compared. Pods and nodes that are not in both folders with an address are listed: nothing is said
about them. "everything" is all ports and protocols, "outside" what no pod and no node has; no pod is parted from
itself, though all of a namespace may be said to change with each other. With -o json, each change is a range of ports
of one pair in one family; a block is that in it which is in no smaller one that a folder names, with an address there.

It reads a folder of manifests or the cluster of a kubeconfig: that of --manifests or --kubeconfig, else that of the lab
that is up, else that of $KUBECONFIG or of the pod it runs in. Of a folder it reads *.yaml, *.yml and *.json, neither
hidden files nor subfolders. What is left out or read in part counts as agents take it, and is said on stderr, or with
-o json as problems; a file that does not parse is an error.
The exit status about one connection is 0 when it is allowed, else 1, also when only some of a Service's backends are.
With --diff it is 0 when nothing changes and 1 when something does; with --all and --cases it is 0, whatever is denied.
It is 2 when there is no answer.`)
	var x explainFlags
	x.add(e, f)
	f.BoolVar(&x.udp, "udp", false, "a datagram, not a TCP connection")
	f.BoolVar(&x.sctp, "sctp", false, "an SCTP association")
	f.BoolVar(&x.icmp, "icmp", false, "an ICMP echo request, without a port")
	f.BoolVar(&x.all, "all", false, "all pairs of pods at all ports that they declare")
	f.StringVar(&x.cases, "cases", "", "as --all, for each folder of manifests in this `folder`")
	f.BoolVar(&x.diff, "diff", false, "what changes from a folder of manifests to another")
	f.StringVar(&x.output, "o", "", "print `json`, for programs, or text")
	words, err := f.parse(e, args, "[FROM]", "[TO]")
	if err == nil {
		err = x.check(words)
	}
	if err != nil {
		return err
	}
	switch {
	case x.diff:
		return explainDiff(e, words[0], words[1], x.output)
	case x.cases != "":
		return explainCases(e, x)
	case x.all:
		return explainAll(e, x)
	}
	return explainOne(e, x, words[0], words[1])
}

// check finds what does not go together.
func (x *explainFlags) check(words []string) error {
	if err := checkOutput("explain", x.output); err != nil {
		return err
	}
	protocols, pairs := howMany(x.udp, x.sctp, x.icmp), howMany(x.all, x.diff, x.cases != "")
	names := []string{"FROM", "TO"}
	if x.diff {
		names = []string{"OLD", "NEW"}
	}
	switch {
	case protocols > 1:
		return usagef("explain: of --udp, --sctp and --icmp only one can be meant")
	case pairs > 1:
		return usagef("explain: of --all, --cases and --diff only one can be meant")
	case protocols > 0 && pairs > 0:
		return usagef("explain: --all, --cases and --diff are about all protocols: leave --udp, --sctp and --icmp away")
	case howMany(x.manifests != "", x.kubeconfig != "", x.cases != "") > 1:
		return usagef("explain: of --manifests, --kubeconfig and --cases only one can be meant")
	case x.diff && (x.manifests != "" || x.kubeconfig != ""):
		return usagef("explain: --diff reads the folders OLD and NEW, neither --manifests nor --kubeconfig")
	case pairs > 0 && !x.diff && len(words) > 0:
		return usagef("explain: --all and --cases are about all pairs, not %q", words[0])
	case (pairs == 0 || x.diff) && len(words) < 2:
		return usagef("explain: %s is missing: see 'polder explain --help'", names[len(words)])
	}
	return nil
}

// howMany says how many are true.
func howMany(list ...bool) (n int) {
	for _, b := range list {
		if b {
			n++
		}
	}
	return n
}

func (x explainFlags) protocol() cluster.Protocol {
	switch {
	case x.udp:
		return cluster.UDP
	case x.sctp:
		return cluster.SCTP
	case x.icmp:
		return explain.ICMP
	}
	return cluster.TCP
}

// explainedAnswer is what `polder explain FROM TO -o json` prints.
type explainedAnswer struct {
	explain.Answer
	Problems []explainedProblem `json:"problems"`
}

func explainOne(e env, x explainFlags, from, to string) error {
	c, err := x.read(context.Background(), e)
	if err != nil {
		return usagef("explain: %v", err)
	}
	host, port := splitPort(to)
	if host == "" {
		return usagef("explain: %q is no destination: want TO[:PORT]", to)
	}
	if err := portAlone(to, port); err != nil {
		return err
	}
	a, err := c.Ask(explain.Question{From: from, To: host, Port: port, Protocol: x.protocol()})
	if err != nil {
		warn(e, reportProblems(c.absent()))
		return usagef("explain: %v", err)
	}
	problems := reportProblems(c.concerning(a))
	if x.output == "json" {
		if err := writeIndented(e.stdout, explainedAnswer{a, problems}); err != nil {
			return err
		}
	} else {
		warn(e, problems)
		writeExplanation(e.stdout, a)
	}
	if !a.Allowed {
		return errFailed
	}
	return nil
}

// portAlone refuses a protocol behind a port, which is a flag's to say.
func portAlone(to, port string) error {
	_, protocol, _ := strings.Cut(port, "/")
	plain := strings.TrimSuffix(to, "/"+protocol)
	switch protocol = strings.ToLower(protocol); protocol {
	case "tcp":
		return usagef("explain: %s: say %s, which is TCP without a flag", to, plain)
	case "udp", "sctp":
		return usagef("explain: %s: say %s --%s", to, plain, protocol)
	}
	return nil
}

// errNothingToRead says that nobody said where the objects are.
var errNothingToRead = errors.New("no lab is up, and neither --manifests DIR nor --kubeconfig FILE is given")

// objectsFlags say where a cluster's objects are.
type objectsFlags struct{ manifests, kubeconfig, state string }

func (o *objectsFlags) add(_ env, f *flags) {
	f.StringVar(&o.manifests, "manifests", "", "read the manifests in this `folder`")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "read the cluster of this `file`")
	f.StringVar(&o.state, "state", lab.DefaultState, "read the lab with this state `folder`, if it is up")
}
