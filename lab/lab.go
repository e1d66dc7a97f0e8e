package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/polder-net/polder/internal/cluster"
)

// Cluster is a lab that is up.
type Cluster struct {
	folder folder
	record record
}

// Node is a node of a lab.
type Node struct {
	Place
	Rack int // from 0
	lab  *Cluster
	rec  nodeRecord
}

// ErrUp says that there is a lab in the state folder already.
var ErrUp = errors.New("a lab is up already")

// ErrDown says that there is no lab in the state folder.
var ErrDown = errors.New("no lab is up")

var errNotRoot = errors.New("the lab needs root: it makes and enters namespaces")

// Up builds a lab and returns when all its agents are ready. What it built it takes down again when it fails or ctx
// ends. The remains of a lab that was killed while it was built, or whose processes are all gone, it clears away.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	if err := o.checkPrograms(); err != nil {
		return nil, err
	}
	f := folder(o.State)
	if err := f.claim(); err != nil {
		return nil, err
	}
	unlock, err := f.lock(true)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := f.clearRemains(o.Progress); err != nil {
		return nil, err
	}
	c := &Cluster{folder: f, record: plan(o)}
	if err := c.build(ctx, o); err != nil {
		err = errors.Join(err, f.remove())
		c.reap()
		return nil, err
	}
	return c, nil
}

// Open returns the lab that is up in a state folder. Without one, the error is ErrDown.
func Open(state string) (*Cluster, error) {
	f := folder(state)
	r, err := f.load()
	if errors.Is(err, fs.ErrNotExist) || err == nil && !r.Up {
		return nil, fmt.Errorf("%w in %s: see 'polder lab up'", ErrDown, state)
	}
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	return &Cluster{f, r}, nil
}

// Nodes returns the lab's nodes, by number.
func (c *Cluster) Nodes() []*Node {
	nodes := make([]*Node, len(c.record.Nodes))
	for i, n := range c.record.Nodes {
		nodes[i] = &Node{Place{n.Name, n.Holder, c.record.nodeGroup(n.Name)}, n.Rack, c, n}
	}
	return nodes
}

// Node returns the node of that name.
func (c *Cluster) Node(name string) (*Node, error) {
	for _, n := range c.Nodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node %s: the nodes are node-1 to node-%d", name, len(c.record.Nodes))
}

// Fabric is the network between the nodes, a place to watch it from and to inject what no node sent.
func (c *Cluster) Fabric() Place {
	return Place{"fabric", c.record.Fabric, c.record.nodeGroup("fabric")}
}

// State is the lab's state folder.
func (c *Cluster) State() string { return string(c.folder) }

// Manifests is the folder of the cluster's objects.
func (c *Cluster) Manifests() string { return c.folder.manifests() }

// Bin is the folder of the programs that the lab runs.
func (c *Cluster) Bin() string { return c.record.Bin }

// Cluster returns what the node is to Kubernetes.
func (n *Node) Cluster() cluster.Node {
	return cluster.Node{Name: n.Name, Addresses: n.rec.addresses(), PodCIDRs: n.rec.PodCIDRs}
}

// Path returns where a folder that is the node's own, say "/run/polder", is on the machine.
func (n *Node) Path(own string) string { return n.lab.folder.root(n.Name, own) }

func (n nodeRecord) addresses() []netip.Addr {
	var addresses []netip.Addr
	for _, p := range n.Addresses {
		addresses = append(addresses, p.Addr())
	}
	return addresses
}

// listed prints values with blanks in between.
func listed[T fmt.Stringer](values []T) string {
	var s string
	for i, v := range values {
		if i > 0 {
			s += " "
		}
		s += v.String()
	}
	return s
}
