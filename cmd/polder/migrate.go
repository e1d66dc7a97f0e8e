package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/netdev"
)

func migrateCommands() []command {
	return []command{{name: "kube-proxy", short: "remove what kube-proxy has left on this node", run: migrateKubeProxy}}
}

// rules are kube-proxy's leftovers in a kernel. Tests have their own.
type rules interface {
	Leftovers() (*netdev.Leftovers, error)
	RemoveLeftovers(*netdev.Leftovers) error
}

// migration is what the command was told.
type migration struct {
	yes, force bool
	socket     string
	proc       string // where the kernel lists processes
}

func migrateKubeProxy(e env, args []string) error {
	f := newFlags("migrate kube-proxy", "[--yes] [--force]", `
Lists what kube-proxy has left in this node's kernel: nftables tables, iptables chains and the rules that lead to them,
the link of its mode ipvs. Removes it after asking, or with --yes. Polder's agent must serve Services here, and
kube-proxy must have been stopped: it would put everything back. Run it on the node, as root.

New connections are Polder's at once. Those that kube-proxy translated go on: the kernel's conntrack translates them to
their end, and Polder asks it as long as there are any.`)
	m := migration{proc: "/proc"}
	f.BoolVar(&m.yes, "yes", false, "remove without asking")
	f.BoolVar(&m.force, "force", false, "remove though a kube-proxy runs")
	f.StringVar(&m.socket, "socket", api.Socket, "ask the agent that listens at this `path`")
	if _, err := f.parse(e, args); err != nil {
		return err
	}
	kernel, err := netdev.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return fmt.Errorf("migrate kube-proxy: %w", err)
	}
	defer kernel.Close()
	return m.run(e, kernel)
}

func (m migration) run(e env, kernel rules) error {
	found, err := kernel.Leftovers()
	if err != nil {
		return fmt.Errorf("migrate kube-proxy: %w", err)
	}
	writeLeftovers(e.stdout, found)
	if found.Empty() {
		return nil
	}
	if err := m.mayRemove(e); err != nil {
		return err
	}
	if !m.yes && !confirmed(e) {
		fmt.Fprintln(e.stdout, "Nothing was removed: --yes removes it.")
		return nil
	}
	if err := kernel.RemoveLeftovers(found); err != nil {
		return fmt.Errorf("migrate kube-proxy: %w", err)
	}
	fmt.Fprintln(e.stdout, "It is removed: Polder alone serves Services on this node.")
	return nil
}

func writeLeftovers(w io.Writer, l *netdev.Leftovers) {
	var t textTable
	for _, name := range l.Tables {
		t.add("nftables", "table "+name)
	}
	for _, chains := range l.Chains {
		t.add("iptables", "table "+chains)
	}
	if l.Link != "" {
		t.add("ipvs", "link "+l.Link)
	}
	if l.Empty() {
		fmt.Fprintln(w, "kube-proxy has left nothing on this node.")
	} else {
		fmt.Fprintln(w, "kube-proxy has left on this node:")
		t.write(w)
		fmt.Fprintln(w, "\nNew connections will be Polder's. Those that kube-proxy translated go on to their\n"+
			"end: the kernel's conntrack knows them, and Polder asks it while there are any.")
	}
	if l.Link != "" {
		fmt.Fprintln(w, "Those of its mode ipvs are cut. The kernel's virtual servers stay: remove them\nwith 'ipvsadm --clear' if nobody else has any.")
	}
	for _, table := range l.Legacy {
		writeWrapped(w, "There is a legacy iptables table "+table+", which is not looked into: if kube-proxy used it, "+
			"'kube-proxy --cleanup' clears it.", "", "")
	}
}

// mayRemove says why nothing may be removed: nobody would serve Services then, or all would be back in a moment.
func (m migration) mayRemove(e env) error {
	if _, err := ask(e, m.socket, api.Request{Verb: api.Services, Services: &api.ServicesRequest{Most: 1}}); err != nil {
		return fmt.Errorf("nobody would serve Services here: %w", err)
	}
	if m.force {
		return nil
	}
	pids, err := processes(m.proc, "kube-proxy")
	if err != nil {
		return fmt.Errorf("look for kube-proxy: %w", err)
	}
	if len(pids) > 0 {
		return fmt.Errorf("kube-proxy runs here, process %s, and would put all back: stop it first (kubectl -n kube-system delete daemonset kube-proxy), or add --force",
			strings.Join(pids, ", "))
	}
	return nil
}

// processes lists the processes of a name.
func processes(proc, name string) (pids []string, err error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(proc, entry.Name(), "comm")) // it may have ended meanwhile
		if err == nil && strings.TrimSpace(string(comm)) == name {
			pids = append(pids, entry.Name())
		}
	}
	return pids, nil
}

// confirmed asks whoever sits at the terminal.
func confirmed(e env) bool {
	if !e.terminal {
		return false
	}
	fmt.Fprint(e.stderr, "Remove it? [y/N] ")
	answer, _ := bufio.NewReader(e.stdin).ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}
