package api

import (
	"errors"
	"fmt"
	"net/netip"
)

// TraceRequest asks where a new connection's first packet goes.
type TraceRequest struct {
	From Party `json:"from"`
	To   Party `json:"to"`

	// Port is that of To: a number or, for a Service, a port's name. Empty: the only one there is.
	Port string `json:"port,omitempty"`
	UDP  bool   `json:"udp,omitempty"`
}

// Party is one end of a trace: exactly one of the three.
type Party struct {
	Node    bool       `json:"node,omitempty"` // this node itself; From alone
	Address netip.Addr `json:"address,omitzero"`

	// A pod as From; a Service, or else a pod, as To.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

func (p Party) String() string {
	switch {
	case p.Node:
		return "node"
	case p.Address.IsValid():
		return p.Address.String()
	}
	return p.Namespace + "/" + p.Name
}

// TraceReport is what the agent answers to the verb Trace.
type TraceReport struct {
	From        netip.AddrPort `json:"from,omitzero"` // zero: the node itself, by whatever address
	FromPod     string         `json:"fromPod,omitempty"`
	Inside      bool           `json:"inside"` // the client is the node itself or a pod of the cluster
	To          netip.AddrPort `json:"to"`
	Protocol    string         `json:"protocol"`
	Service     *TracedService `json:"service,omitempty"` // nil: the destination is no Service's
	Program     string         `json:"program,omitempty"` // that ran on the packet; empty: none sees such packets
	Outcome     string         `json:"outcome,omitempty"` // of the program, as `polder status` counts it
	Backend     netip.AddrPort `json:"backend,omitzero"`  // the one that was chosen
	HandedTo    string         `json:"handedTo,omitempty"`
	Destination Destination    `json:"destination"`
	Delivered   bool           `json:"delivered"`
	Verdict     string         `json:"verdict"` // in words
}

// TracedService is the frontend that a destination is.
type TracedService struct {
	Namespace    string         `json:"namespace"`
	Name         string         `json:"name"`
	Port         string         `json:"port,omitempty"`
	Kind         string         `json:"kind"`
	Policy       string         `json:"policy"` // the traffic policy that this client meets: "Cluster" or "Local"
	Affinity     int            `json:"affinity,omitempty"`
	SourceRanges []netip.Prefix `json:"sourceRanges,omitempty"` // that this frontend admits
	Backends     []Backend      `json:"backends,omitempty"`     // that the client may get
}

// Destination is where a packet goes in the end.
type Destination struct {
	Address netip.Addr `json:"address,omitzero"` // zero: nowhere, or to one of several backends
	Way     string     `json:"way,omitempty"`    // "pod", "node", "native", "tunnel", "fabric", "outside"
	Pod     string     `json:"pod,omitempty"`
	Node    string     `json:"node,omitempty"`
}

func (r *TraceRequest) validate() error {
	if r == nil {
		return nil
	}
	if r.To.Node {
		return errors.New("the node itself is no destination: name one of its addresses")
	}
	return errors.Join(r.From.validate(), r.To.validate(), validatePort(r.Port))
}

func (p Party) validate() error {
	n := 0
	for _, given := range []bool{p.Node, p.Address.IsValid(), p.Name != ""} {
		if given {
			n++
		}
	}
	switch {
	case n != 1 || (p.Namespace == "") != (p.Name == ""):
		return fmt.Errorf("%q is neither an address, nor a name with a namespace, nor the node", p)
	case p.Address.IsValid() && !unicast(p.Address):
		return fmt.Errorf("address %s cannot be that of an end of a connection", p.Address)
	}
	return ValidateObject(p.Namespace, p.Name)
}

func validatePort(port string) error {
	if len(port) > maxNamespace {
		return fmt.Errorf("port %q is too long", port)
	}
	return ValidateObject("", port)
}
