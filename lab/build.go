package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// plan lays a lab out.
func plan(o Options) record {
	r := record{Racks: o.Racks, Bin: o.Bin, AgentArgs: o.AgentArgs, AgentEnv: o.AgentEnv}
	for i := range o.Nodes {
		n, rack := i+1, i%o.Racks
		node := nodeRecord{
			Name: fmt.Sprintf("node-%d", n), Number: n, Rack: rack,
			Addresses: nodeAddresses(n, rack), PodCIDRs: podCIDRs(n),
		}
		if o.Zones > 0 {
			node.Zone = fmt.Sprintf("zone-%d", 1+i%o.Zones)
		}
		r.Nodes = append(r.Nodes, node)
	}
	r.Outside = planOutside(o.Racks)
	return r
}

// nodeGroup is the folder of a node's control group.
func (r record) nodeGroup(node string) string { return filepath.Join(r.Group, node) }

// build makes everything that the plan says.
func (c *Cluster) build(ctx context.Context, o Options) error {
	if err := c.makeFolders(); err != nil {
		return err
	}
	if err := c.installNetwork(o); err != nil {
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
	if err := writeManifest(filepath.Join(c.folder.manifests(), "servicecidr.yaml"), serviceCIDRManifest()); err != nil {
		return err
	}
	if err := c.SetNamespace(podNamespace, nil); err != nil {
		return err
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
	if err := buildFabric(fabric, c.record); err != nil {
		return fmt.Errorf("build fabric: %w", err)
	}
	c.record.Fabric, err = c.startHolder(fabric, "fabric", 0, "lab", "hold-fabric", "--state", string(c.folder))
	if err != nil {
		return err
	}
	if err := c.startOutside(fabric); err != nil {
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
	for _, p := range []Place{c.Fabric(), c.Outside()} {
		if err := p.Do(func() error { return awaitAddresses(ctx) }); err != nil {
			return err
		}
	}
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
