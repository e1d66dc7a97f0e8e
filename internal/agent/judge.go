package agent

import (
	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/policy"
)

// Why a pod is closed.
const (
	unknown     = "its policies are not known yet"
	unfit       = "its policies do not fit: everything but its own node is denied"
	terminating = "its namespace is being deleted: it stays as isolated as it was"
	unread      = "not all policies could be read: it stays as isolated as it was"
)

// judge gives a pod the rulesets that it should have; until now it has those that it comes with. A pod of no Kubernetes
// name is open, one whose policies are not known is closed, or as it was where it has gone from the cluster and its link
// is still here.
func (a *Agent) judge(p cluster.LocalPod) cluster.LocalPod {
	if a.policies.table == nil {
		p.Ingress, p.Egress, p.Late = 0, 0, false
		return p
	}
	had := policy.Subject{Ingress: policy.ID(p.Ingress), Egress: policy.ID(p.Egress)}
	s, why := a.subjectOf(p, had)
	if why == "" {
		delete(a.policies.shut, p.Link)
	} else {
		a.policies.shut[p.Link] = why
	}
	a.noteOpened(p.Link, had, s)
	isolated, ran := s != policy.Subject{}, had == policy.Subject{}
	p.Late = isolated && (p.Late || ran)
	p.Ingress, p.Egress = uint64(s.Ingress), uint64(s.Egress)
	return p
}

// subjectOf says what a pod should be judged by, and why that is less than its policies say.
func (a *Agent) subjectOf(p cluster.LocalPod, had policy.Subject) (s policy.Subject, why string) {
	if p.Name == "" && p.NameHash == "" && !p.Damaged {
		return policy.Subject{}, ""
	}
	name := cluster.Name{Namespace: p.Namespace, Name: p.Name}
	s, ok := a.policies.subjects[name]
	ok = ok && !a.isAnothers(name, p.UID)
	ns := a.snapshot.AllNamespaces.Get(cluster.Name{Name: p.Namespace})
	if ok = ok && ns != nil; !ok {
		s = policy.Subject{}
	}
	closed := policy.Subject{Ingress: policy.Closed, Egress: policy.Closed}
	shut := func(policy.ID) policy.ID { return policy.Closed }
	switch {
	case !ok && whereOpen(had, s, shut) != s:
		return whereOpen(had, s, shut), unknown
	case !ok: // it is as open as it was
		return s, ""
	case !a.datapath.PolicyFits(s.Ingress) || !a.datapath.PolicyFits(s.Egress):
		return closed, unfit
	case ns.Terminating:
		if kept := whereOpen(a.lately(p.Link, had), s, shut); kept != s {
			return kept, terminating
		}
	}
	if a.snapshot.Incomplete {
		s = whereOpen(had, s, a.keeps(p.Link))
		if s.Ingress == policy.Closed || s.Egress == policy.Closed {
			why = unread
		}
	}
	return s, why
}

// whereOpen gives the directions that would be open, and were not, something instead.
func whereOpen(had, s policy.Subject, instead func(had policy.ID) policy.ID) policy.Subject {
	if s.Ingress == policy.Open && had.Ingress != policy.Open {
		s.Ingress = instead(had.Ingress)
	}
	if s.Egress == policy.Open && had.Egress != policy.Open {
		s.Egress = instead(had.Egress)
	}
	return s
}

// keeps leaves a direction as it was: what isolated the pod may be what could not be read. One that was closed for no other
// reason than that nothing was known of the pod opens.
func (a *Agent) keeps(link string) func(policy.ID) policy.ID {
	why := a.policies.shut[link]
	return func(had policy.ID) policy.ID {
		switch {
		case had == policy.Closed && (why == "" || why == unknown):
			return policy.Open
		case a.datapath.PolicyUnfit(had):
			return policy.Closed
		}
		return had
	}
}

// fillPolicies gives pods that were read back the rulesets that this agent gave them, or their endpoints in the kernel have,
// and the names that records had no room for.
func (a *Agent) fillPolicies(pods []cluster.LocalPod) error {
	if a.policies.table == nil {
		return nil
	}
	for i := range pods {
		p := &pods[i]
		known, ok := a.pods[p.Link]
		if ok = ok && known.Index == p.Index; ok && p.Name == "" {
			p.Namespace, p.Name = known.Namespace, known.Name
		}
		if ok && p.UID == "" {
			p.UID = known.UID
		}
		a.fillName(p)
		if ok {
			p.Ingress, p.Egress, p.Late = known.Ingress, known.Egress, known.Late
			continue
		}
		if err := a.readSubject(p); err != nil {
			return err
		}
	}
	return nil
}

// readSubject reads back what a pod is judged by. One that has no endpoint is closed, whatever took it away: there are
// endpoints where nobody is judged, too. But those of an agent whose map had another layout still say who was open.
func (a *Agent) readSubject(p *cluster.LocalPod) error {
	p.Ingress, p.Egress, p.Late = uint64(policy.Closed), uint64(policy.Closed), p.Up && !p.Behind
	came := !p.Up && !p.Behind // or was about to
	for _, addr := range p.Addresses {
		e, ok, err := a.datapath.Endpoint(addr)
		if err == nil && !ok {
			e, ok, err = a.datapath.FormerEndpoint(addr)
		}
		if err != nil {
			return err
		}
		if ok && e.Index == p.Index {
			p.Ingress, p.Egress, p.Late = e.Ingress, e.Egress, e.Late
			came = false
			break
		}
	}
	if !came && (p.Ingress == uint64(policy.Closed) || p.Egress == uint64(policy.Closed)) {
		a.policies.shut[p.Link] = unread // as far as this agent knows
	}
	return nil
}

// fillName finds the pod whose name its record has not: by the name's hash, or, where the record is damaged, by its address.
func (a *Agent) fillName(p *cluster.LocalPod) {
	if p.Name != "" || p.NameHash == "" && !p.Damaged || a.snapshot == nil {
		return
	}
	for _, pod := range a.snapshot.Pods {
		if pod.Node != a.cfg.Node || pod.HostNetwork {
			continue
		}
		if p.NameHash == cluster.HashName(pod.Namespace, pod.Name) || p.Damaged && sameAddress(p.Addresses, pod.Addresses) {
			p.Namespace, p.Name = pod.Namespace, pod.Name
			return
		}
	}
}
