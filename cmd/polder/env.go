package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/polder-net/polder/internal/api"
)

// env is all that a command sees of the world around it. Tests make their own.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	environ        []string
	terminal       bool // stderr is one

	// ask asks an agent at its socket.
	ask func(ctx context.Context, socket string, r api.Request) (api.Response, error)
}

// The exit statuses, besides that of a program which a command ran.
const (
	statusFailed = 1
	statusUsage  = 2
)

// usageError is a wrong use of a command: one line that says what to do instead.
type usageError struct{ message string }

func (e usageError) Error() string { return e.message }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// errFailed ends a command with status 1 when all has been said already.
var errFailed = errors.New("failed")

// errHelp says that help was asked for, and given.
var errHelp = errors.New("help")

// polder runs the command that the arguments name and returns the exit status.
func polder(e env, args []string) int {
	err := run(e, commands(), "polder", args)
	var usage usageError
	switch {
	case err == nil || errors.Is(err, errHelp):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(e.stderr, "polder:", usage.message)
		return statusUsage
	case errors.Is(err, errFailed):
		return statusFailed
	}
	fmt.Fprintln(e.stderr, "polder:", err)
	return statusFailed
}

// command is a word of the command line: one with a run of its own, or a group of others.
type command struct {
	name   string
	short  string // one line for the list
	hidden bool   // not for people
	run    func(env, []string) error
	group  []command
}

func commands() []command {
	return []command{
		{name: "status", short: "this node: readiness, addresses, peers, problems, repairs", run: status},
		{name: "pods", short: "the pods of this node", run: pods},
		{name: "services", short: "the Services that this node serves", run: services},
		{name: "trace", short: "where a packet to a Service, a pod or an address goes", run: trace},
		{name: "drops", short: "what policies did not let pass on this node", run: drops},
		{name: "explain", short: "whether a connection is allowed, why, and which way it goes", run: explainPolicies},
		{name: "check", short: "prove with packets that the network keeps its laws", run: check},
		{name: "migrate", short: "from kube-proxy to Polder", group: migrateCommands()},
		{name: "lab", short: "a cluster on this machine, to try things out", group: labCommands()},
		{name: "version", short: "the version of this program", run: showVersion},
		{name: "probe", hidden: true, run: probeNode},
	}
}

// run finds a command in a group and runs it.
func run(e env, group []command, path string, args []string) error {
	if len(args) == 0 {
		listCommands(e.stderr, group, path)
		return usagef("say which command: see above")
	}
	if args[0] == "help" || args[0] == "--help" || args[0] == "-h" {
		listCommands(e.stdout, group, path)
		return errHelp
	}
	for _, c := range group {
		if c.name != args[0] {
			continue
		}
		if c.group != nil {
			return run(e, c.group, path+" "+c.name, args[1:])
		}
		return c.run(e, args[1:])
	}
	return usagef("no command %q: see '%s help'", strings.Join([]string{path, args[0]}, " "), path)
}

func listCommands(w io.Writer, group []command, path string) {
	fmt.Fprintf(w, "usage: %s COMMAND [--help]\n\n", path)
	var t textTable
	for _, c := range group {
		if !c.hidden {
			t.add("  "+c.name, c.short)
		}
	}
	t.write(w)
}

// interruptible returns a context that ends when somebody wants the program to.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
}
