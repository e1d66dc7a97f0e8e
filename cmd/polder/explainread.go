package main

import (
	"context"
	"fmt"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/explain"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/watch"
	"github.com/polder-net/polder/lab"
)

// cluster reads the objects from where they are, and says on stderr what of them cannot be read.
func (o objectsFlags) cluster(ctx context.Context, e env) (*explain.Cluster, error) {
	if o.manifests != "" {
		return readFolder(e, o.manifests)
	}
	if o.kubeconfig != "" {
		return readCluster(ctx, o.kubeconfig)
	}
	c, err := lab.Open(o.state)
	switch {
	case err == nil:
		return readFolder(e, c.Manifests())
	case !isDown(err):
		return nil, err
	}
	if file := e.getenv("KUBECONFIG"); file != "" {
		return readCluster(ctx, file)
	}
	if e.getenv("KUBERNETES_SERVICE_HOST") != "" {
		return readCluster(ctx, "")
	}
	return nil, errNothingToRead
}

func readFolder(e env, dir string) (*explain.Cluster, error) {
	o, problems, err := watch.ReadObjects(dir)
	if err != nil {
		return nil, err
	}
	warn(e, problems)
	return newExplainer(o), nil
}

func readCluster(ctx context.Context, kubeconfig string) (*explain.Cluster, error) {
	o, err := watch.ListObjects(ctx, kubeconfig, version)
	if err != nil {
		return nil, err
	}
	return newExplainer(o), nil
}

func warn(e env, problems []cluster.Problem) {
	for _, p := range problems {
		fmt.Fprintf(e.stderr, "polder: left out or read in part: %s: %s\n", p.Object, p.Message)
	}
}

func newExplainer(o *watch.Objects) *explain.Cluster {
	nodes, services := o.Read()
	return explain.New(oracle.Objects{
		Pods: o.Pods, Namespaces: o.Namespaces, Nodes: o.Nodes, NetworkPolicies: o.Policies,
		ClusterPolicies: o.ClusterPolicies, Services: o.Services, Slices: o.Slices,
	}, nodes, services, o.Where)
}
