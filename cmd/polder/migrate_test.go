package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/netdev"
)

// kernelRules are what a kernel says it has, and whether they were removed.
type kernelRules struct {
	found   netdev.Leftovers
	removed bool
}

func (k *kernelRules) Leftovers() (*netdev.Leftovers, error)   { return &k.found, nil }
func (k *kernelRules) RemoveLeftovers(*netdev.Leftovers) error { k.removed = true; return nil }

const leftoversText = `kube-proxy has left on this node:
nftables  table ip kube-proxy
nftables  table ip6 kube-proxy
iptables  table ip nat: chains: 12, rules that lead to them: 3
ipvs      link kube-ipvs0

New connections will be Polder's. Those that kube-proxy translated go on to their
end: the kernel's conntrack knows them, and Polder asks it while there are any.
Those of its mode ipvs are cut. The kernel's virtual servers stay: remove them
with 'ipvsadm --clear' if nobody else has any.
There is a legacy iptables table ip nat, which is not looked into: if kube-proxy
used it, 'kube-proxy --cleanup' clears it.
`

func TestKubeProxysLeftoversAreRemovedOnlyWhereThatHelps(t *testing.T) {
	proc := t.TempDir()
	for pid, comm := range map[string]string{"12": "polder-agent", "341": "kube-proxy", "self": "kube-proxy"} {
		if err := errors.Join(os.Mkdir(filepath.Join(proc, pid), 0o755), os.WriteFile(filepath.Join(proc, pid, "comm"), []byte(comm+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	full := netdev.Leftovers{Tables: []string{"ip kube-proxy", "ip6 kube-proxy"}, Link: "kube-ipvs0", Legacy: []string{"ip nat"},
		Chains: []string{"ip nat: chains: 12, rules that lead to them: 3"}}
	const done, not = "It is removed: Polder alone serves Services on this node.\n", "Nothing was removed: --yes removes it.\n"
	quiet := t.TempDir()
	for _, c := range []struct {
		name     string
		m        migration
		found    netdev.Leftovers
		agent    error
		terminal bool
		answer   string
		removed  bool
		stdout   string
		err      string
	}{
		{name: "nothing there", m: migration{yes: true, proc: quiet}, stdout: "kube-proxy has left nothing on this node.\n"},
		{name: "only listed", m: migration{proc: quiet}, found: full, stdout: leftoversText + not},
		{name: "told to", m: migration{yes: true, proc: quiet}, found: full, removed: true, stdout: leftoversText + done},
		{name: "asked, yes", m: migration{proc: quiet}, found: full, terminal: true, answer: "y\n", removed: true, stdout: leftoversText + done},
		{name: "asked, no", m: migration{proc: quiet}, found: full, terminal: true, answer: "\n", stdout: leftoversText + not},
		{name: "kube-proxy runs", m: migration{yes: true, proc: proc}, found: full, stdout: leftoversText,
			err: "kube-proxy runs here, process 341, and would put all back: stop it first (kubectl -n kube-system delete daemonset kube-proxy), or add --force"},
		{name: "kube-proxy runs, forced", m: migration{yes: true, force: true, proc: proc}, found: full, removed: true, stdout: leftoversText + done},
		{name: "no agent", m: migration{yes: true, force: true, proc: quiet, socket: "/x"}, found: full, agent: api.ErrNoAgent, stdout: leftoversText,
			err: "nobody would serve Services here: no agent runs on this node: nobody listens at /x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			e := env{stdin: strings.NewReader(c.answer), stdout: &stdout, stderr: &stderr, terminal: c.terminal,
				ask: func(_ context.Context, _ string, r api.Request) (api.Response, error) { return api.Response{}, c.agent }}
			kernel := &kernelRules{found: c.found}
			err := c.m.run(e, kernel)
			if (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
				t.Errorf("error is %v, want %q", err, c.err)
			}
			if kernel.removed != c.removed || stdout.String() != c.stdout {
				t.Errorf("removed: %v, output is\n%s\nwant\n%s", kernel.removed, &stdout, c.stdout)
			}
		})
	}
}
