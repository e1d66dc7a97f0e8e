package lab

import (
	"fmt"
	"time"
)

// gracePeriod is how long a pod in Kubernetes has from the wish to delete it to its end, unless it says otherwise.
const gracePeriod = 30 * time.Second

// SetPodReady makes a pod's readiness probe succeed or not, as far as the cluster's objects tell. The pod goes on.
func (c *Cluster) SetPodReady(name string, ready bool) error {
	return c.changePod(name, func(p *podRecord) { p.NotReady = !ready })
}

// TerminatePod marks a pod as one that somebody wants deleted. Its process goes on and, where it was ready, its
// endpoints are serving and terminating; DeletePod ends it.
func (c *Cluster) TerminatePod(name string) error {
	return c.changePod(name, func(p *podRecord) {
		if p.Terminating.IsZero() {
			p.Terminating = time.Now().UTC().Truncate(time.Second).Add(gracePeriod)
		}
	})
}

// LabelPod replaces a pod's labels.
func (c *Cluster) LabelPod(name string, labels map[string]string) error {
	return c.changePod(name, func(p *podRecord) { p.Labels = labels })
}

// SetNamespace makes a namespace for pods, or gives one other labels.
func (c *Cluster) SetNamespace(name string, labels map[string]string) error {
	return writeManifest(c.folder.namespaceManifest(name), namespaceManifest(name, labels))
}

// RemoveNamespace removes a namespace from the cluster's objects. Its pods must be gone.
func (c *Cluster) RemoveNamespace(name string) error {
	return removeFile(c.folder.namespaceManifest(name))
}

// changePod changes what the cluster's objects say of a pod. Who else changes, creates or deletes the same pod
// meanwhile must be done first.
func (c *Cluster) changePod(name string, change func(*podRecord)) error {
	unlock, err := c.folder.lock(false)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := c.podRecord(name)
	if err != nil {
		return err
	}
	node, err := c.Node(p.Node)
	if err != nil {
		return err
	}
	if len(p.Addresses) == 0 {
		return fmt.Errorf("change pod %s: it has no network yet", name)
	}
	change(&p)
	if err := writeJSON(c.folder.pod(name), p); err != nil {
		return err
	}
	return node.writePod(p)
}

// State says what the cluster's objects tell of the pod: "pending", "ready", "not ready" or "terminating".
func (p *Pod) State() string {
	switch {
	case len(p.Addresses) == 0:
		return "pending"
	case !p.rec.Terminating.IsZero():
		return "terminating"
	case p.rec.NotReady:
		return "not ready"
	}
	return "ready"
}
