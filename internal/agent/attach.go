package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/datapath"
	"github.com/polder-net/polder/internal/desired"
	"github.com/polder-net/polder/internal/netdev"
)

// A program is attached in one of two ways. tcx links (Linux 6.6) are the better: they are ours alone, keep their order, and
// go when nobody wants them. But making one waits for an RCU grace period under the kernel's RTNL lock, some 15 ms in which
// no other pod of the node can come or go. So pods' links get a clsact filter, as all links do on older kernels
// (docs/adr/0008). A shaped pod gets a tcx link all the same: the bandwidth plugin's ingress qdisc and clsact exclude each
// other.
func (a *Agent) viaTCX(ofPod, shaped bool) bool {
	return a.datapath.UsesTCX() && (!ofPod || shaped)
}

// attach makes every hook run this agent's program. While its maps are not complete, only a hook that has none gets one: what
// an earlier agent attached may have maps of its own, and a guard that lacks a row is better than none.
func (a *Agent) attach(hooks map[desired.Hook]int, complete bool) (changes []change, err error) {
	links, filters := a.ways(hooks)
	var errs []error
	have, err := a.filters(filters)
	errs = append(errs, err)
	for hook, program := range have {
		if program.ID != 0 && !complete {
			continue
		}
		verb, err := a.attachFilter(hook, filters[hook], program)
		if err != nil {
			errs = append(errs, err)
		} else if verb != "" {
			changes = append(changes, change{"programs", hook.Link + " " + string(hook.Program), verb})
		}
	}
	if a.datapath.UsesTCX() {
		linked, err := a.datapath.Attach(links, complete)
		errs = append(errs, err)
		for _, c := range linked {
			changes = append(changes, change{c.Table, c.Row, c.Verb})
		}
	}
	if len(changes) > 0 {
		errs = append(errs, a.endpointsChanged()) // other programs, maybe with other maps, let pass what passed a moment ago
	}
	if complete && errors.Join(errs...) == nil {
		errs = append(errs, a.datapath.RemoveOtherLayouts())
	}
	return changes, errors.Join(errs...)
}

// ways parts hooks by how their programs are attached.
func (a *Agent) ways(hooks map[desired.Hook]int) (links, filters map[desired.Hook]int) {
	links, filters = map[desired.Hook]int{}, map[desired.Hook]int{}
	for hook, index := range hooks {
		p, ofPod := a.pods[hook.Link]
		if a.viaTCX(ofPod, p.Shaped) {
			links[hook] = index
		} else {
			filters[hook] = index
		}
	}
	return links, filters
}

// filters says which filter of ours each hook has, the zero one where it has none; beside an error, without the hooks
// that it is about.
func (a *Agent) filters(hooks map[desired.Hook]int) (map[desired.Hook]netdev.TCProgram, error) {
	places := make(map[desired.Hook]netdev.TCHook, len(hooks))
	for hook, index := range hooks {
		places[hook] = netdev.TCHook{Link: index, Egress: datapath.IsEgress(hook.Program)}
	}
	list, err := a.kernel.ListTC(slices.Collect(maps.Values(places)))
	have := make(map[desired.Hook]netdev.TCProgram, len(hooks))
	for hook, place := range places {
		if program, ok := list[place]; ok {
			have[hook] = program
		}
	}
	return have, err
}

// attachFilter returns what it did: "", "add" or "update". A filter is replaced in one step.
func (a *Agent) attachFilter(hook desired.Hook, index int, have netdev.TCProgram) (string, error) {
	id, err := a.datapath.ProgramID(hook.Program)
	if err != nil || have.ID == id {
		return "", err
	}
	verb := "update"
	if have.ID == 0 {
		verb = "add"
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

// attachPod guards a pod's link that is about to come up.
func (a *Agent) attachPod(p cluster.LocalPod) error {
	for _, hook := range a.podHooks(p.Link) {
		attach := a.putFilter
		if a.viaTCX(true, p.Shaped) {
			attach = a.datapath.AttachOne
		}
		if err := attach(hook, p.Index); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) podHooks(link string) []desired.Hook { return desired.PodHooks(a.cfg.Options, link) }

// attachedBy says how each hook's program is attached, as the kernel sees it: "tcx", "clsact" or "missing".
func (a *Agent) attachedBy(hooks map[desired.Hook]int) map[desired.Hook]string {
	links, filters := a.ways(hooks)
	how := make(map[desired.Hook]string, len(hooks))
	for hook := range hooks {
		how[hook] = "missing"
	}
	for hook := range links {
		if a.datapath.Attached(hook) {
			how[hook] = "tcx"
		}
	}
	have, err := a.filters(filters)
	if err != nil {
		a.log.Error("programs cannot be listed", "err", err)
	}
	for hook, program := range have {
		if program.ID != 0 {
			how[hook] = "clsact"
		}
	}
	return how
}
