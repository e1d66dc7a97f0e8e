package service

import (
	"github.com/polder-net/polder/internal/cluster"
)

// Self is what choosing needs to know of this node and of what the user set.
type Self struct {
	Node, Zone  string
	ExternalIPs bool // spec.externalIPs are honoured
}

// PodPort is a port of this node that leads to a pod of it. A Service that claims the same frontend has it.
type PodPort struct {
	Namespace, Pod string
	Frontend       Frontend // Addr: one of this node's, never unspecified
	Backend        Backend
}

// Table is what all Services ask of this node, kept up to date Service by Service: what a Service's change costs does
// not depend on how many there are. A value like any other: no I/O, no locks, and the same whatever the history.
type Table struct{}

// NewTable returns a Table without Services.
func NewTable(self Self) *Table { return &Table{} }

// SetSelf tells what this node is now; what depends on it is chosen anew.
func (t *Table) SetSelf(self Self) {}

// SetService tells what the cluster says of one Service: nil, or objects without a Service, that there is none.
func (t *Table) SetService(name cluster.ServiceName, objects *cluster.ServiceObjects) {}

// SetPodPorts tells which ports of this node lead to pods: all of them.
func (t *Table) SetPodPorts(ports []PodPort) {}

// Changed returns the ports that have changed since it was last called: as they are now, nil those that are gone.
func (t *Table) Changed() map[PortName]*Port { return nil }

// Ports returns all ports. Nobody may change them.
func (t *Table) Ports() map[PortName]*Port { return nil }

// Problems lists what cannot be honoured, sorted.
func (t *Table) Problems() []cluster.Problem { return nil }
