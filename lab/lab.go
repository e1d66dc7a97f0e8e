package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/polder-net/polder/internal/cluster"
	"golang.org/x/sys/unix"
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

// Up builds a lab and returns when all its agents are ready. What it built it takes down again when it fails or ctx
// ends. The remains of a lab that was killed while it was built, or whose processes are all gone, it clears away.
func Up(ctx context.Context, o Options) (*Cluster, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab needs root: it makes namespaces and links")
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

// plan lays a lab out.
func plan(o Options) record {
	r := record{Racks: o.Racks, Bin: o.Bin, AgentArgs: o.AgentArgs}
	for i := range o.Nodes {
		n, rack := i+1, i%o.Racks
		r.Nodes = append(r.Nodes, nodeRecord{
			Name: fmt.Sprintf("node-%d", n), Number: n, Rack: rack,
			Addresses: nodeAddresses(n, rack), PodCIDRs: podCIDRs(n),
		})
	}
	return r
}

// nodeGroup is the folder of a node's control group.
func (r record) nodeGroup(node string) string { return filepath.Join(r.Group, node) }

// build makes everything that the plan says.
func (c *Cluster) build(ctx context.Context, o Options) error {
	if err := c.makeFolders(); err != nil {
		return err
	}
	group, err := makeGroup(string(c.folder))
	if err != nil {
		return err
	}
	c.record.Group = group
	if err := c.folder.save(c.record); err != nil {
		return err
	}
	if err := c.startHolders(o); err != nil {
		return err
	}
	if err := c.folder.save(c.record); err != nil {
		return err
	}
	if err := c.waitReady(ctx, o); err != nil {
		return err
	}
	c.record.Up = true
	return c.folder.save(c.record)
}

// makeFolders makes the state folder's contents. The record comes first: it marks the folder as a lab's.
func (c *Cluster) makeFolders() error {
	if err := c.folder.save(c.record); err != nil {
		return err
	}
	for _, path := range []string{c.folder.manifests(), c.folder.path("pods")} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	for _, n := range c.record.Nodes {
		for _, own := range ownFolders() {
			if err := os.MkdirAll(c.folder.root(n.Name, own), 0o755); err != nil {
				return err
			}
		}
		agent := filepath.Join(c.record.Bin, "polder-agent")
		if err := writeFile(c.folder.node(n.Name, "agent.path"), []byte(agent+"\n")); err != nil {
			return err
		}
		if err := writeManifest(c.folder.nodeManifest(n.Name), nodeManifest(n)); err != nil {
			return err
		}
	}
	return nil
}

// startHolders builds the fabric and the nodes. A node's network is complete before its first process starts.
func (c *Cluster) startHolders(o Options) error {
	fabric, err := newNetns()
	if err != nil {
		return err
	}
	defer fabric.Close()
	if err := buildFabric(fabric, c.record.Racks, c.record.Nodes); err != nil {
		return fmt.Errorf("build fabric: %w", err)
	}
	c.record.Fabric, err = c.startHolder(fabric, "fabric", 0, "lab", "hold-fabric")
	if err != nil {
		return err
	}
	for i := range c.record.Nodes {
		n := &c.record.Nodes[i]
		netns, err := newNetns()
		if err != nil {
			return err
		}
		err = connectNode(fabric, netns, *n, c.record.Racks > 1)
		if err == nil {
			n.Holder, err = c.startHolder(netns, n.Name, unix.CLONE_NEWNS|unix.CLONE_NEWUTS,
				"lab", "hold", "--state", string(c.folder), n.Name)
		}
		netns.Close()
		if err != nil {
			return err
		}
		o.Progress(fmt.Sprintf("%s  rack %d  %s  pods %s", n.Name, n.Rack, listed(n.addresses()), listed(n.PodCIDRs)))
	}
	return nil
}

// startHolder starts a process of the lab that outlives this one, in a network namespace, in a control group of that
// name, and in further new namespaces.
func (c *Cluster) startHolder(netns *os.File, name string, namespaces uintptr, args ...string) (process, error) {
	group, err := newGroup(c.record.nodeGroup(name))
	if err != nil {
		return process{}, err
	}
	defer group.Close()
	if err := os.MkdirAll(c.folder.path("nodes", name), 0o755); err != nil {
		return process{}, err
	}
	cmd := exec.Command(filepath.Join(c.record.Bin, "polder"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	var p process
	err = inNetns(netns, func() (err error) {
		p, err = startDetached(cmd, group, c.folder.node(name, "holder.log"))
		return err
	})
	return p, err
}

// startDetached starts a process in a control group and a session of its own, with its output in a file.
func startDetached(cmd *exec.Cmd, group *os.File, log string) (process, error) {
	output, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return process{}, err
	}
	defer output.Close()
	cmd.Stdout, cmd.Stderr, cmd.Dir = output, output, "/"
	cmd.SysProcAttr.Setsid = true
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	if err := cmd.Start(); err != nil {
		return process{}, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p, err := identify(cmd.Process.Pid)
	if err != nil {
		return p, errors.Join(fmt.Errorf("start %s: %w", cmd.Path, err), cmd.Wait())
	}
	return p, cmd.Process.Release() // it is found again by its identity
}

// waitReady waits for all agents, within the deadline.
func (c *Cluster) waitReady(ctx context.Context, o Options) error {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, o.Deadline, fmt.Errorf("gave up after %s", o.Deadline))
	defer cancel()
	for _, n := range c.Nodes() {
		if err := n.Do(func() error { return awaitAddresses(ctx) }); err != nil {
			return err
		}
		if err := n.WaitReady(ctx); err != nil {
			return err
		}
		o.Progress(fmt.Sprintf("%s  ready after %.1f s", n.Name, time.Since(began).Seconds()))
	}
	return nil
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
