package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/polder-net/polder/internal/cluster"
)

// podNamespace is the Kubernetes namespace of the lab's pods, unless they are told another.
const podNamespace = "default"

// Pod is a pod of a lab: a network namespace with a process in it, connected by the node's CNI plugins.
type Pod struct {
	Place
	Node      string
	Addresses []netip.Addr // none: ADD has not succeeded (yet)
	rec       podRecord
}

// PodOptions says which pod to create.
type PodOptions struct {
	Name      string // no other pod of the lab has it, in whatever namespace
	Namespace string // of Kubernetes; default: default
	Node      string // default: the node with the fewest pods

	Labels map[string]string // default: app=NAME

	// Serve are ports at which the pod answers, by TCP and UDP, who it is and whom it sees.
	Serve []uint16

	// Capabilities are passed to the plugins as runtimeConfig: "portMappings", "bandwidth".
	Capabilities map[string]any
}

var errNoPod = errors.New("no pod")

var podPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CreatePod makes a pod and connects it. When that fails, nothing of the pod remains.
func (c *Cluster) CreatePod(ctx context.Context, o PodOptions) (*Pod, error) {
	unlock, err := c.folder.lock(false)
	if err != nil {
		return nil, err
	}
	defer unlock()
	node, err := c.choose(o)
	if err != nil {
		return nil, fmt.Errorf("create pod %s: %w", o.Name, err)
	}
	p := podRecord{
		Name: o.Name, Namespace: o.Namespace, Node: node.Name, UID: newUID(), ContainerID: newContainerID(), Capabilities: o.Capabilities,
		Labels: o.Labels, Serve: o.Serve,
	}
	if len(p.Labels) == 0 {
		p.Labels = map[string]string{"app": o.Name}
	}
	if err := c.folder.reserve(p); err != nil {
		return nil, err
	}
	if err := node.createPod(ctx, &p); err != nil {
		// ctx may be what failed: the way back takes its own time.
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, fmt.Errorf("create pod %s: %w", p.Name, errors.Join(err, node.deletePod(back, p)))
	}
	return node.pod(p), nil
}

// choose checks a pod's name and finds its node.
func (c *Cluster) choose(o PodOptions) (*Node, error) {
	if !podPattern.MatchString(o.Name) {
		return nil, errors.New("a pod's name has 1 to 63 lower-case letters, digits and dashes")
	}
	if _, err := c.Node(o.Name); err == nil || o.Name == "fabric" || o.Name == outsideName {
		return nil, errors.New("the name is taken by a part of the lab")
	}
	if _, err := labels.ValidatedSelectorFromSet(o.Labels); err != nil {
		return nil, fmt.Errorf("read labels: %w", err)
	}
	if o.Namespace != "" && !podPattern.MatchString(o.Namespace) {
		return nil, errors.New("a namespace's name is like a pod's")
	}
	if slices.Contains(o.Serve, 0) {
		return nil, errors.New("it cannot serve port 0")
	}
	if o.Node != "" {
		return c.Node(o.Node)
	}
	pods, err := c.Pods()
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	for _, p := range pods {
		count[p.Node]++
	}
	return slices.MinFunc(c.Nodes(), func(a, b *Node) int { return count[a.Name] - count[b.Name] }), nil
}

// DeletePod disconnects a pod and ends it.
func (c *Cluster) DeletePod(ctx context.Context, name string) error {
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
	if err == nil {
		err = node.deletePod(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("delete pod %s: %w", name, err)
	}
	return nil
}

func (c *Cluster) podRecord(name string) (podRecord, error) {
	var p podRecord
	if !podPattern.MatchString(name) {
		return p, fmt.Errorf("%w %q", errNoPod, name)
	}
	b, err := os.ReadFile(c.folder.pod(name))
	if errors.Is(err, fs.ErrNotExist) {
		return p, fmt.Errorf("%w %s: see 'polder lab status'", errNoPod, name)
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("read pod %s: %w", name, err)
	}
	return p, nil
}

func (p podRecord) namespace() string { return cmp.Or(p.Namespace, podNamespace) }

func (n *Node) pod(p podRecord) *Pod {
	return &Pod{Place{p.Name, p.Holder, n.podGroup(p.Name)}, p.Node, p.Addresses, p}
}

// Cluster returns what the pod is to Kubernetes.
func (p *Pod) Cluster() cluster.Pod {
	return cluster.Pod{
		Namespace: p.rec.namespace(), Name: p.Name, UID: p.rec.UID, Node: p.Node, Addresses: p.Addresses,
		Labels: cluster.MakeLabels(p.rec.Labels),
	}
}

// Pod returns the pod of that name.
func (c *Cluster) Pod(name string) (*Pod, error) {
	p, err := c.podRecord(name)
	if err != nil {
		return nil, err
	}
	node, err := c.Node(p.Node)
	if err != nil {
		return nil, err
	}
	return node.pod(p), nil
}

// Pods returns the lab's pods by name, those that are being created or deleted included.
func (c *Cluster) Pods() ([]*Pod, error) {
	files, err := filepath.Glob(c.folder.pod("*"))
	if err != nil {
		return nil, err
	}
	var pods []*Pod
	for _, file := range files {
		p, err := c.Pod(strings.TrimSuffix(filepath.Base(file), ".json"))
		if errors.Is(err, errNoPod) {
			continue // deleted in this moment
		}
		if err != nil {
			return nil, err
		}
		pods = append(pods, p)
	}
	return pods, nil
}

// Place returns the node or pod of that name, the fabric or the client outside.
func (c *Cluster) Place(name string) (Place, error) {
	switch name {
	case "fabric":
		return c.Fabric(), nil
	case outsideName:
		return c.Outside(), nil
	}
	if n, err := c.Node(name); err == nil {
		return n.Place, nil
	}
	p, err := c.Pod(name)
	if err != nil {
		return Place{}, fmt.Errorf("no node or pod %s: see 'polder lab status'", name)
	}
	return p.Place, nil
}
