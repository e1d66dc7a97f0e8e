package watch

import (
	"slices"
	"strings"

	"github.com/polder-net/polder/internal/cluster"
)

// Read returns what Polder reads of the nodes and the Services: sorted by name. What it cannot honour an agent says.
func (o *Objects) Read() ([]cluster.Node, []*cluster.ServiceObjects) {
	var nodes []cluster.Node
	for _, n := range o.Nodes {
		node, _ := readNode(n, nil)
		nodes = append(nodes, node)
	}
	grouped := newByService()
	for _, s := range o.Services {
		if read, _ := readService(s, nil); read != nil {
			grouped.service(nil, read)
		}
	}
	for _, s := range o.Slices {
		if read, _ := readSlice(s, nil); read != nil {
			grouped.slice(nil, read)
		}
	}
	var services []*cluster.ServiceObjects
	for _, objects := range grouped.take() {
		if objects != nil && objects.Service != nil {
			services = append(services, objects)
		}
	}
	slices.SortFunc(services, func(a, b *cluster.ServiceObjects) int { return a.Service.Compare(b.Service.ServiceName) })
	slices.SortFunc(nodes, func(a, b cluster.Node) int { return strings.Compare(a.Name, b.Name) })
	return nodes, services
}
