package watch

import (
	"fmt"
	"maps"
	"slices"

	"github.com/polder-net/polder/internal/cluster"
)

// everyClusterHas says whether a namespace is one that no manifest needs to define.
func everyClusterHas(namespace string) bool {
	return slices.Contains([]string{"default", "kube-node-lease", "kube-public", "kube-system"}, namespace)
}

// homeless says which namespaces policies are in that nothing defines: a slip of the pen in a namespace's name leaves the
// pods open that the policy was made for.
func homeless(policies []cluster.Name, defined func(namespace string) bool) (problems []cluster.Problem) {
	first := map[string]string{}
	for _, p := range policies {
		of := p.Namespace
		if !everyClusterHas(of) && !defined(of) && (first[of] == "" || p.Name < first[of]) {
			first[of] = p.Name
		}
	}
	for _, namespace := range slices.Sorted(maps.Keys(first)) {
		problems = append(problems, cluster.Problem{Object: "Namespace/" + namespace, Message: fmt.Sprintf(
			"no manifest defines it, though NetworkPolicy %s is in it: the policy counts, and namespaceSelectors see no label but its name",
			first[namespace])})
	}
	return problems
}

func (g *gathered) homeless() []cluster.Problem {
	return homeless(slices.Collect(maps.Keys(g.policies)), func(namespace string) bool {
		return g.namespaces[cluster.Name{Name: namespace}] != nil || g.unread[objectID("Namespace", "", namespace)]
	})
}

func (o *Objects) homeless() []cluster.Problem {
	var policies []cluster.Name
	for _, p := range o.Policies {
		policies = append(policies, cluster.Name{Namespace: p.Namespace, Name: p.Name})
	}
	return homeless(policies, func(namespace string) bool {
		id := objectID("Namespace", "", namespace)
		return o.Where[id] != "" || o.LeftOut[id]
	})
}
