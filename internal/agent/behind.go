package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/polder-net/polder/internal/api"
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/netdev"
	"github.com/polder-net/polder/internal/policy"
	"github.com/polder-net/polder/internal/route"
)

// Behind another plugin Polder guards pods by their policies, and changes nothing of their links but the record. The kernel
// says which link it is: results of plugins name the pod's interface for certain, and the host's end by convention alone.

// guardsOthers says whether pods of other plugins are guarded here.
func (a *Agent) guardsOthers() bool { return a.off() && a.policies.table != nil }

// find finds an attachment's pod, whoever made its link.
func (a *Agent) find(at api.Attachment) (cluster.LocalPod, bool) {
	if p, ok := a.pods[at.HostLink()]; ok {
		return p, true
	}
	for _, p := range a.pods {
		if p.Behind && p.Network == at.Network && p.ContainerID == at.ContainerID && p.Ifname == at.Ifname {
			return p, true
		}
	}
	return cluster.LocalPod{}, false
}

// addBehind guards a pod's link that another plugin has just made. Whatever fails, it is as it was.
func (a *Agent) addBehind(req api.Request, netns *os.File) api.Response {
	if !a.guardsOthers() {
		return api.Response{}
	}
	if _, ok := a.find(req.Attachment); ok {
		return refuse(api.CodeExists, fmt.Sprintf("%s of container %s is guarded already: DEL it first", req.Ifname, req.ContainerID))
	}
	p, err := a.kernel.FindPod(netns, req.Ifname)
	if errors.Is(err, netdev.ErrNoEnd) {
		return refuse(api.CodeUnsupported, err.Error())
	}
	if err != nil {
		return refuse(api.CodeIO, err.Error())
	}
	p.Network, p.ContainerID, p.Namespace, p.Name, p.Shaped = req.Network, req.ContainerID, req.PodNamespace, req.PodName, req.Shaped
	p.UID, p.Ingress, p.Egress = cluster.HashUID(req.PodUID), uint64(policy.Closed), uint64(policy.Closed)
	for _, addr := range req.Addresses {
		p.Addresses = append(p.Addresses, addr.Prefix.Addr())
	}
	if other, ok := a.guarded(p); ok {
		return refuse(api.CodeExists, fmt.Sprintf("%s or one of %v is container %s's", p.Link, p.Addresses, other))
	}
	if err := a.kernel.WriteRecord(p); err != nil {
		return refuse(api.CodeIO, err.Error())
	}
	a.pods[p.Link] = p
	if err := a.guard(a.settle(p)); err != nil {
		a.undo(p)
		return refuse(api.CodeIO, err.Error())
	}
	return api.Response{}
}

// guarded says which container has a pod's link or one of its addresses. Of one whose link has gone, it is forgotten first.
func (a *Agent) guarded(p cluster.LocalPod) (containerID string, ok bool) {
	taken := func() (string, bool) {
		for _, other := range a.pods {
			if other.Link == p.Link || slices.ContainsFunc(p.Addresses, func(addr netip.Addr) bool { return slices.Contains(other.Addresses, addr) }) {
				return other.ContainerID, true
			}
		}
		return "", false
	}
	if _, ok := taken(); !ok {
		return "", false
	}
	if _, _, err := a.readPods(); err != nil {
		a.log.Warn("pods cannot be read back", "err", err)
	}
	return taken()
}

// guard puts the endpoints first: a program on a link that has none would let in whatever comes.
func (a *Agent) guard(p cluster.LocalPod) error {
	rows := route.CompilePod(a.self, p)
	if err := errors.Join(a.putEndpoints(rows), a.endpointsChanged()); err != nil {
		return err
	}
	if err := a.attachPod(p); err != nil {
		return err
	}
	a.remember(p, rows)
	a.showPods()
	return nil
}

// settle brings the datapath to what is known of a pod that comes, and of whoever had its addresses before: no packet of the
// one is judged as the other's. It returns the pod with its rulesets.
func (a *Agent) settle(p cluster.LocalPod) cluster.LocalPod {
	a.syncPolicies()
	p = a.judge(p)
	a.pods[p.Link] = p
	if err := a.swapPods(); err != nil {
		a.log.Error("pods are not all judged as they should be", "err", err)
	}
	return p
}

// leave forgets what is only remembered of a pod that is here.
func (a *Agent) leave(link string) {
	delete(a.policies.shut, link)
	a.showPolicies()
}

// recallLost finds the pods of another plugin whose links are still there, though somebody took away the records by which
// they are known.
func (a *Agent) recallLost(pods []cluster.LocalPod) (lost []cluster.LocalPod, err error) {
	for link, p := range a.pods {
		if !p.Behind || slices.ContainsFunc(pods, func(q cluster.LocalPod) bool { return q.Link == link }) {
			continue
		}
		has, err := a.kernel.HasLink(link, p.Index)
		if err != nil {
			return nil, err
		}
		if has {
			lost = append(lost, p)
		}
	}
	return lost, nil
}

// swapped notes that all endpoints are as they should be, and whether any was not.
func (a *Agent) swapped(changed bool) error {
	a.policies.swapped = a.policies.swapped && !changed
	err := a.swapPolicies()
	a.showPolicies()
	return err
}

// podPolicies is what policies make of a pod, for people.
func (a *Agent) podPolicies(p cluster.LocalPod) *api.PodPolicies {
	if a.policies.table == nil {
		return nil
	}
	state := func(id uint64) api.PolicyState {
		switch policy.ID(id) {
		case policy.Open:
			return api.Open
		case policy.Closed:
			return api.Closed
		}
		return api.Isolated
	}
	return &api.PodPolicies{Ingress: state(p.Ingress), Egress: state(p.Egress), Why: a.policies.shut[p.Link]}
}
