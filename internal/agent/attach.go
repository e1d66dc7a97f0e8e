package agent

import (
	"errors"
	"fmt"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/desired"
)

// A program is attached in one of two ways. tcx links (Linux 6.6) are the better: they are ours alone and keep their
// order. But making one waits for an RCU grace period under the kernel's RTNL lock, some 15 ms in which no other pod of
// the node can come or go. So pods' links get a clsact filter, as all links do on older kernels (docs/adr/0008). A
// shaped pod gets a tcx link all the same: the bandwidth plugin's ingress qdisc and clsact exclude each other.
func (a *Agent) viaTCX(hook desired.Hook, shaped bool) bool {
	ofPod := hook.Program == desired.FromPod || hook.Program == desired.ToPod
	return a.datapath.UsesTCX() && (!ofPod || shaped)
}

// attach makes every hook run this agent's program.
func (a *Agent) attach(hooks map[desired.Hook]int) (changes []change, err error) {
	links := map[desired.Hook]int{}
	var errs []error
	for hook, index := range hooks {
		if a.viaTCX(hook, a.pods[hook.Link].Shaped) {
			links[hook] = index
			continue
		}
		verb, err := a.attachFilter(hook, index)
		if err != nil {
			errs = append(errs, err)
		} else if verb != "" {
			changes = append(changes, change{"programs", hook.Link + " " + string(hook.Program), verb})
		}
	}
	if a.datapath.UsesTCX() {
		linked, err := a.datapath.Attach(links)
		errs = append(errs, err)
		for _, c := range linked {
			changes = append(changes, change{c.Table, c.Row, c.Verb})
		}
	}
	return changes, errors.Join(errs...)
}

// attachFilter returns what it did: "", "add" or "update". A filter is replaced in one step.
func (a *Agent) attachFilter(hook desired.Hook, index int) (string, error) {
	have, current, err := a.filter(hook, index)
	if err != nil || current {
		return "", err
	}
	verb := "add"
	if have {
		verb = "update"
	}
	return verb, a.putFilter(hook, index)
}

func (a *Agent) putFilter(hook desired.Hook, index int) error {
	fd, ok := a.datapath.ProgramFD(hook.Program)
	if !ok {
		return fmt.Errorf("attach %s to %s: no such program", hook.Program, hook.Link)
	}
	return a.kernel.AttachTC(index, datapath.IsEgress(hook.Program), fd, string(hook.Program))
}

// filter says whether a hook has a filter of ours, and whether it runs this agent's program.
func (a *Agent) filter(hook desired.Hook, index int) (have, current bool, err error) {
	id, err := a.datapath.ProgramID(hook.Program)
	if err != nil {
		return false, false, err
	}
	list, err := a.kernel.ListTC(index)
	if err != nil {
		return false, false, err
	}
	for _, p := range list {
		if p.Egress == datapath.IsEgress(hook.Program) {
			return true, p.ID == id, nil
		}
	}
	return false, false, nil
}

// attachPod guards a pod's link that is about to come up.
func (a *Agent) attachPod(p cluster.LocalPod) error {
	for _, hook := range a.podHooks(p.Link) {
		attach := a.putFilter
		if a.viaTCX(hook, p.Shaped) {
			attach = a.datapath.AttachOne
		}
		if err := attach(hook, p.Index); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) podHooks(link string) []desired.Hook { return desired.PodHooks(a.cfg.Options, link) }

// attachedBy says how a hook's program is attached, as the kernel sees it: "tcx", "clsact" or "missing".
func (a *Agent) attachedBy(hook desired.Hook, index int) string {
	if a.viaTCX(hook, a.pods[hook.Link].Shaped) {
		if a.datapath.Attached(hook) {
			return "tcx"
		}
		return "missing"
	}
	if have, _, err := a.filter(hook, index); err != nil || !have {
		return "missing"
	}
	return "clsact"
}
