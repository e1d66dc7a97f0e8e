package main

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

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
	unread := map[string]bool{}
	for object := range o.LeftOut {
		if name, ok := strings.CutPrefix(object, "Namespace/"); ok && !slices.ContainsFunc(o.Namespaces, func(n *corev1.Namespace) bool { return n.Name == name }) {
			unread[name] = true
		}
	}
	return oracle.Objects{
		Pods: o.Pods, Namespaces: o.Namespaces, Nodes: o.Nodes, NetworkPolicies: o.Policies,
		ClusterPolicies: o.ClusterPolicies, UnreadNamespaces: unread, Services: o.Services, Slices: o.Slices,
	}
}
