package main

import (
	"context"

	"github.com/polder-net/polder/internal/explain"
	"github.com/polder-net/polder/internal/oracle"
	"github.com/polder-net/polder/internal/watch"
	"github.com/polder-net/polder/lab"
)

// read reads the objects from where they are.
func (o objectsFlags) read(ctx context.Context, e env) (objectsRead, error) {
	if o.manifests != "" {
		return readFolder(o.manifests)
	}
	if o.kubeconfig != "" {
		return readCluster(ctx, o.kubeconfig)
	}
	c, err := lab.Open(o.state)
	switch {
	case err == nil:
		return readFolder(c.Manifests())
	case !isDown(err):
		return objectsRead{}, err
	}
	if file := e.getenv("KUBECONFIG"); file != "" {
		return readCluster(ctx, file)
	}
	if e.getenv("KUBERNETES_SERVICE_HOST") != "" {
		return readCluster(ctx, "")
	}
	return objectsRead{}, errNothingToRead
}

func readFolder(dir string) (objectsRead, error) {
	o, problems, err := watch.ReadObjects(dir)
	if err != nil {
		return objectsRead{}, err
	}
	return objectsRead{newExplainer(o), problems, o.LeftOut}, nil
}

func readCluster(ctx context.Context, kubeconfig string) (objectsRead, error) {
	o, problems, err := watch.ListObjects(ctx, kubeconfig, version)
	if err != nil {
		return objectsRead{}, err
	}
	return objectsRead{newExplainer(o), problems, o.LeftOut}, nil
}

func newExplainer(o *watch.Objects) *explain.Cluster {
	nodes, services := o.Read()
	return explain.New(oracleObjects(o), nodes, services, o.Where)
}

func oracleObjects(o *watch.Objects) oracle.Objects {
	return oracle.Objects{
		Pods: o.Pods, Namespaces: o.Namespaces, Nodes: o.Nodes, NetworkPolicies: o.Policies,
		ClusterPolicies: o.ClusterPolicies, UnreadNamespaces: o.UnreadNamespaces(), Services: o.Services, Slices: o.Slices,
	}
}
