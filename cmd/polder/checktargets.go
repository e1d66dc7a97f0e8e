package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/podexec"
	"github.com/polder-net/polder/internal/probe"
	"github.com/polder-net/polder/lab"
)

// labOptions has one prober in each node of a lab.
func labOptions(c *lab.Cluster, stderr io.Writer) (probe.Options, error) {
	var o probe.Options
	for _, n := range c.Nodes() {
		o.Targets = append(o.Targets, probe.Target{
			Node: n.Cluster(),
			Connect: func(ctx context.Context) (io.ReadWriteCloser, error) {
				return n.Pipe(ctx, stderr, filepath.Join(c.Bin(), "polder"), "probe")
			},
		})
	}
	pods, err := c.Pods()
	if err != nil {
		return o, err
	}
	for _, p := range pods {
		o.Pods = append(o.Pods, p.Cluster())
	}
	return o, nil
}

// clusterOptions has one prober in the agent's pod of each node.
func clusterOptions(ctx context.Context, kubeconfig string, stderr io.Writer) (probe.Options, error) {
	var o probe.Options
	k, err := podexec.Open(kubeconfig)
	if err != nil {
		return o, err
	}
	nodes, err := k.Nodes(ctx)
	if err != nil {
		return o, err
	}
	agents, err := k.Agents(ctx)
	if err != nil {
		return o, err
	}
	agentOf := map[string]podexec.Agent{}
	for _, a := range agents {
		agentOf[a.Node] = a
	}
	for _, n := range nodes {
		o.Targets = append(o.Targets, probe.Target{
			Node: n,
			Connect: func(ctx context.Context) (io.ReadWriteCloser, error) {
				a, ok := agentOf[n.Name]
				if !ok {
					return nil, errors.New("no agent's pod runs on the node")
				}
				return k.Run(ctx, a, stderr, "polder", "probe")
			},
		})
	}
	o.Pods, err = k.Pods(ctx)
	return o, err
}

// localOptions has one prober in this process. Where there is no cluster to ask, the node's pod CIDRs are unknown.
func (c checkFlags) localOptions(ctx context.Context, e env) (probe.Options, error) {
	name, err := c.node, error(nil)
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return probe.Options{}, fmt.Errorf("find this node's name: %w", err)
		}
	}
	var k *podexec.Cluster
	switch {
	case c.kubeconfig != "":
		k, err = podexec.Open(c.kubeconfig)
	case e.getenv("KUBERNETES_SERVICE_HOST") != "":
		k, err = podexec.Here()
	}
	if err != nil {
		return probe.Options{}, err
	}
	var o probe.Options
	node := cluster.Node{Name: name}
	if k == nil {
		node.Addresses, err = ownAddresses()
	} else {
		node, o.Pods, err = thisNode(ctx, k, name)
	}
	o.Targets = []probe.Target{{Node: node, Connect: connectHere}}
	return o, err
}

// thisNode reads what the cluster says of one node and its pods.
func thisNode(ctx context.Context, k *podexec.Cluster, name string) (cluster.Node, []cluster.Pod, error) {
	nodes, err := k.Nodes(ctx)
	if err != nil {
		return cluster.Node{}, nil, err
	}
	pods, err := k.Pods(ctx)
	if err != nil {
		return cluster.Node{}, nil, err
	}
	for _, n := range nodes {
		if n.Name == name {
			return n, pods, nil
		}
	}
	return cluster.Node{}, nil, fmt.Errorf("the cluster has no node %q: name this one by --node", name)
}
