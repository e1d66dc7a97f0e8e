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
	switch {
	case !ok || ns == nil:
		s, why = shutWhere(had, policy.Subject{}), unknown
		if s == (policy.Subject{}) {
			why = "" // it is as open as it was
		}
		return s, why
	case !a.datapath.PolicyFits(s.Ingress) || !a.datapath.PolicyFits(s.Egress):
		return policy.Subject{Ingress: policy.Closed, Egress: policy.Closed}, unfit
	case ns.Terminating && shutWhere(a.lately(p.Link, had), s) != s:
		return shutWhere(a.lately(p.Link, had), s), terminating
	case a.snapshot.Incomplete:
		return keepWhere(had, s), ""
	}
	return s, ""
}

// shutWhere closes the directions that would be open and were not.
func shutWhere(had, s policy.Subject) policy.Subject {
	if s.Ingress == policy.Open && had.Ingress != policy.Open {
		s.Ingress = policy.Closed
	}
	if s.Egress == policy.Open && had.Egress != policy.Open {
		s.Egress = policy.Closed
	}
	return s
}

// keepWhere leaves them as they were: what isolated the pod may be what could not be read.
func keepWhere(had, s policy.Subject) policy.Subject {
	if s.Ingress == policy.Open && had.Ingress != policy.Closed {
		s.Ingress = had.Ingress
	}
	if s.Egress == policy.Open && had.Egress != policy.Closed {
		s.Egress = had.Egress
	}
	return s
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

// readSubject reads back what a pod is judged by. One that is up without an endpoint ran before there were policies; one
// that is down was about to come.
func (a *Agent) readSubject(p *cluster.LocalPod) error {
	if !p.Up || p.Behind {
		p.Ingress, p.Egress = uint64(policy.Closed), uint64(policy.Closed)
	}
	for _, addr := range p.Addresses {
		e, ok, err := a.datapath.Endpoint(addr)
		if err != nil {
			return err
		}
		if ok && e.Index == p.Index {
			p.Ingress, p.Egress, p.Late = e.Ingress, e.Egress, e.Late
			return nil
		}
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
