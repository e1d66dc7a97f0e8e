package main

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/testnet"
	"github.com/polder-net/polder/lab/labtest"
)

// programs are shared by the tests of this package.
var programs labtest.Programs

func TestMain(m *testing.M) { testnet.Main(m, programs.Close) }

// session is a command that ran.
type session struct {
	status         int
	stdout, stderr string
}

// runPolder runs a command in an environment in which the agent, if there is one, reports.
func runPolder(report *api.NodeReport, args ...string) session {
	return runAsking(func(api.Request) (any, error) {
		if report == nil {
			return nil, api.ErrNoAgent
		}
		return report, nil
	}, args...)
}

// runAsking runs a command in an environment in which the agent answers so.
func runAsking(answer func(api.Request) (any, error), args ...string) session {
	var stdout, stderr bytes.Buffer
	e := env{
		stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr,
		getenv: func(string) string { return "" },
		ask: func(_ context.Context, socket string, r api.Request) (api.Response, error) {
			if err := r.Validate(); err != nil {
				return api.Response{}, err
			}
			report, err := answer(r)
			if err != nil {
				return api.Response{}, err
			}
			b, err := json.Marshal(report)
			return api.Response{Report: b}, err
		},
	}
	status := polder(e, args)
	return session{status, stdout.String(), stderr.String()}
}

func TestWrongUseGetsOneClearLine(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"nonsense", `no command "polder nonsense": see 'polder help'`},
		{"lab nonsense", `no command "polder lab nonsense": see 'polder lab help'`},
		{"lab pod nonsense", `no command "polder lab pod nonsense": see 'polder lab pod help'`},
		{"status extra", `status: one word too many: "extra"`},
		{"status --nonsense", "status: flag provided but not defined: -nonsense: see 'polder status --help'"},
		{"status -o yaml", "status: -o yaml: want json or text"},
		{"pods -o yaml", "pods: -o yaml: want json or text"},
		{"drops -o yaml", "drops: -o yaml: want json or text"},
		{"drops web", `drops: one word too many: "web"`},
		{"services -o yaml", "services: -o yaml: want json or text"},
		{"services default/web x", `services: one word too many: "x"`},
		{"services default/", `services: "default/" is neither a namespace nor a Service: want NAMESPACE or NAMESPACE/NAME`},
		{"services Web", `services: "Web" is neither a namespace nor a Service: want NAMESPACE or NAMESPACE/NAME`},
		{"trace node", "trace: TO is missing: see 'polder trace --help'"},
		{"trace node node", "trace: the node itself is no destination: name one of its addresses"},
		{"trace Web default/web", `trace: name "Web" in namespace "default": 'W' may not be there`},
		{"trace node 224.0.0.1", "trace: address 224.0.0.1 cannot be that of an end of a connection"},
		{"trace node /x", `trace: "/x" is neither an address, nor a name with a namespace, nor the node`},
		{"trace node a b -o yaml", `trace: one word too many: "b"`},
		{"check -o yaml", "check: -o yaml: want json or text"},
		{"check --probes 5", "check: --probes and --seed are about the random pairs of --policies: add it, or leave them away"},
		{"check --local --seed 5", "check: --probes and --seed are about the random pairs of --policies: add it, or leave them away"},
		{"check --policies --local --seed 5", "check: --policies and --local do not go together: packets have two ends"},
		{"check all", `check: one word too many: "all"`},
		{"lab up --nodes 0", "lab up: --nodes 0: want 1 to 200"},
		{"lab up --nodes 201", "lab up: --nodes 201: want 1 to 200"},
		{"lab up --nodes many", `lab up: invalid value "many" for flag -nodes: parse error: see 'polder lab up --help'`},
		{"lab up --racks 4", "lab up: --racks 4: want 1 to the number of nodes, 3"},
		{"lab demo --racks 0", "lab demo: --racks 0: want 1 to the number of nodes, 3"},
		{"lab pod create", "lab pod create: NAME is missing: see 'polder lab pod create --help'"},
		{"lab pod create a b", `lab pod create: one word too many: "b"`},
		{"lab pod delete", "lab pod delete: NAME is missing: see 'polder lab pod delete --help'"},
		{"migrate nonsense", `no command "polder migrate nonsense": see 'polder migrate help'`},
		{"migrate kube-proxy all", `migrate kube-proxy: one word too many: "all"`},
		{"lab exec", "lab exec: NODE|POD is missing: see 'polder lab exec --help'"},
		{"lab exec node-1", "lab exec: COMMAND… is missing: see 'polder lab exec --help'"},
		{"lab exec node-1 --", "lab exec: COMMAND… is missing: see 'polder lab exec --help'"},
		{"lab agent kill", "lab agent kill: NODE is missing: see 'polder lab agent kill --help'"},
	} {
		t.Run(c.args, func(t *testing.T) {
			s := runPolder(nil, strings.Fields(c.args)...)
			if s.status != statusUsage || s.stdout != "" || s.stderr != "polder: "+c.want+"\n" {
				t.Errorf("status %d, output %q, error %q, want %q", s.status, s.stdout, s.stderr, c.want)
			}
		})
	}
}

func TestNoCommandListsThem(t *testing.T) {
	for _, args := range [][]string{nil, {"lab"}, {"lab", "pod"}} {
		s := runPolder(nil, args...)
		if s.status != statusUsage || !strings.Contains(s.stderr, "usage: polder") || s.stdout != "" {
			t.Errorf("%q: status %d, output %q, error %q", args, s.status, s.stdout, s.stderr)
		}
	}
}

// everyCommand lists the words of all commands, and whether each is for people.
func everyCommand(group []command, before []string, each func(words []string, hidden bool)) {
	for _, c := range group {
		words := append(before[:len(before):len(before)], c.name)
		if c.group != nil {
			everyCommand(c.group, words, each)
			continue
		}
		each(words, c.hidden)
	}
}

func TestEveryCommandHasHelpThatFitsATerminal(t *testing.T) {
	everyCommand(commands(), nil, func(words []string, hidden bool) {
		t.Run(strings.Join(words, " "), func(t *testing.T) {
			s := runPolder(nil, append(words, "--help")...)
			if s.status != 0 || s.stderr != "" || !strings.HasPrefix(s.stdout, "usage: polder "+strings.Join(words, " ")) {
				t.Errorf("status %d, output %q, error %q", s.status, s.stdout, s.stderr)
			}
			for line := range strings.Lines(s.stdout) {
				if len([]rune(strings.TrimSuffix(line, "\n"))) > 120 {
					t.Errorf("the line is %d characters wide: %s", len(line), line)
				}
			}
			list := runPolder(nil, append(slices.Clone(words[:len(words)-1]), "help")...)
			if named := strings.Contains(list.stdout, "\n  "+words[len(words)-1]); named == hidden {
				t.Errorf("hidden is %v, but the list is\n%s", hidden, list.stdout)
			}
		})
	})
}

func TestVersionIsPrinted(t *testing.T) {
	if s := runPolder(nil, "version"); s.status != 0 || !strings.HasPrefix(s.stdout, "polder dev go1.") {
		t.Errorf("status %d, output %q", s.status, s.stdout)
	}
}

func TestWithoutAnAgentOneLineSaysSo(t *testing.T) {
	for _, command := range []string{"status", "pods", "services", "drops", "drops --follow"} {
		s := runPolder(nil, strings.Fields(command)...)
		if want := "polder: no agent runs on this node: nobody listens at /run/polder/agent.sock\n"; s.status != 1 || s.stderr != want {
			t.Errorf("status %d, error %q", s.status, s.stderr)
		}
	}
}

func TestWithoutALabOneLineSaysSo(t *testing.T) {
	state := t.TempDir() + "/none"
	for _, args := range []string{"lab status", "lab pod create x", "lab pod delete x", "lab exec x true", "lab agent kill x", "check"} {
		words := strings.Fields(args)
		words = append(words[:min(2, len(words))], append([]string{"--state", state}, words[min(2, len(words)):]...)...)
		if words[0] == "lab" && (words[1] == "pod" || words[1] == "agent") {
			words = append(strings.Fields(args)[:3], append([]string{"--state", state}, strings.Fields(args)[3:]...)...)
		}
		s := runPolder(nil, words...)
		if s.status != 1 || !strings.Contains(s.stderr, "no lab is up in "+state) || strings.Count(s.stderr, "\n") != 1 {
			t.Errorf("%q: status %d, error %q", words, s.status, s.stderr)
		}
	}
}
